//! Access to the admin API.
//!
//! With `admin.token_file` or `admin.client_ca`, a caller presents the token or a certificate. Otherwise everybody is let in
//! who reaches the loopback address or the Unix socket. A request that a page of another site sends is refused in any case.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use http::header::{AUTHORIZATION, ORIGIN};
use http::request::Parts;

use super::AdminSettings;
use super::answer::AdminRefusal;
use crate::access::{authority, is_ours};
use crate::transport::{Peer, Via};
use crate::watched_file;

const FOREIGN_HOST: AdminRefusal = AdminRefusal::new(
    StatusCode::FORBIDDEN,
    "foreign_host",
    "This loopback address does not have the name in Host",
    "Use localhost or a loopback address, or add the name to access.hosts.",
);
const BAD_HOST: AdminRefusal = AdminRefusal::new(
    StatusCode::BAD_REQUEST,
    "bad_host",
    "Host is missing or not valid",
    "Send one Host field.",
);
const WEB_PAGE: AdminRefusal = AdminRefusal::new(
    StatusCode::FORBIDDEN,
    "web_page",
    "A page of another site sent this request",
    "Open the status page at this address itself.",
);
const UNAUTHORIZED: AdminRefusal = AdminRefusal::new(
    StatusCode::UNAUTHORIZED,
    "unauthorized",
    "The admin token is missing or wrong",
    "Send Authorization: Bearer with the content of admin.token_file.",
);
const NO_TOKEN: AdminRefusal = AdminRefusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "token_unreadable",
    "The gateway cannot read its admin token",
    "Fix admin.token_file: it must hold one token of at least 16 visible characters.",
);

/// Least length of a token in bytes: a shorter one could be guessed.
const SHORTEST: usize = 16;

pub(super) async fn admit(
    parts: &Parts,
    peer: &Peer,
    settings: &AdminSettings,
    hosts: &[String],
) -> Result<(), AdminRefusal> {
    let host = authority(parts).map_err(|_| BAD_HOST)?;
    if let Via::Loopback(_) = peer.via
        && !is_ours(host.host(), hosts)
    {
        return Err(FOREIGN_HOST);
    }
    let mut sites = parts.headers.get_all("sec-fetch-site").iter();
    let is_foreign = sites.any(|site| site != "none" && site != "same-origin");
    let origin = parts.headers.get(ORIGIN).map(http::HeaderValue::as_bytes);
    let is_ours = |origin: &[u8]| {
        [b"http://".as_slice(), b"https://"]
            .iter()
            .any(|scheme| origin.strip_prefix(*scheme) == Some(host.as_str().as_bytes()))
    };
    if is_foreign || origin.is_some_and(|origin| !is_ours(origin)) {
        return Err(WEB_PAGE);
    }
    let AdminSettings { token_file, client_ca, .. } = settings;
    if client_ca.is_some() && peer.certificate.is_some() {
        return Ok(());
    }
    let Some(path) = token_file.clone() else {
        return if client_ca.is_some() { Err(UNAUTHORIZED) } else { Ok(()) };
    };
    // It may be replaced at any time, so it is read each time.
    let read = tokio::task::spawn_blocking(move || watched_file::read(&path)).await;
    let content = read.ok().and_then(Result::ok).ok_or(NO_TOKEN)?;
    let token = token_in(&content).ok_or(NO_TOKEN)?;
    let mut given = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return Err(UNAUTHORIZED) };
    let bare = behind_scheme(value.as_bytes()).ok_or(UNAUTHORIZED)?;
    // Hashed, so that the comparison takes as long whatever is given.
    let is_same = verify_slices_are_equal(digest(&SHA256, bare).as_ref(), digest(&SHA256, token).as_ref());
    is_same.map_err(|_| UNAUTHORIZED)
}

/// The token that the content of a token file is, if it is one that is taken.
pub(crate) fn token_in(content: &[u8]) -> Option<&[u8]> {
    let token = content.trim_ascii();
    (token.len() >= SHORTEST && token.iter().all(u8::is_ascii_graphic)).then_some(token)
}

/// The part behind the scheme `Bearer` or `token`.
fn behind_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at(value.iter().position(|b| *b == b' ')?);
    let is_known = [b"bearer".as_slice(), b"token"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    is_known.then(|| rest.trim_ascii())
}
