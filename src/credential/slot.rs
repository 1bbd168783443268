//! A slot and its value.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::Context;
use http::HeaderValue;

use super::Unavailable;
use super::oauth::OAuth;
use super::settings::{OAuthSettings, Scheme, SlotSettings, ValueSource};
use crate::clock::{Clock, Now};
use crate::secret::Secret;
use crate::transport::{self, TransportError};
use crate::watched_file::{self, Followed, Unreadable};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8_192;
/// Longest wait for a connection to a token endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A value is no valid credential. It never shows the value.
#[derive(Debug, thiserror::Error)]
pub enum BadCredential {
    /// Its file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is empty or white space.
    #[error("the token is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It has bytes that no token has.
    #[error("the token has a character that is not visible ASCII")]
    Malformed,
    /// No HTTP client for the token endpoint can be built.
    #[error("the connection to the token endpoint cannot be set up")]
    Transport(#[from] TransportError),
}

/// A slot has no value.
#[derive(Debug, thiserror::Error)]
pub enum NoValue {
    /// Its file is missing or empty.
    #[error("{} is missing or empty", .0.display())]
    Awaited(PathBuf),
    /// The content of its file cannot be used.
    #[error("{}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The fault in it.
        source: BadCredential,
    },
    /// No access token was fetched.
    #[error("no access token")]
    NoAccessToken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) scheme: Scheme,
    pub(super) source: ValueSource,
    /// The value of a fixed token or a file.
    pub(super) value: ArcSwapOption<Value>,
    pub(super) oauth: Option<OAuth>,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) secret: Secret,
    pub(super) field: HeaderValue,
    pub(super) generation: u64,
    /// The begin of its use.
    pub(super) since: Instant,
}

impl Slot {
    pub(super) async fn present(&self, now: Now) -> Result<(HeaderValue, u64), Unavailable> {
        if let Some(oauth) = &self.oauth {
            return oauth.present(now).await;
        }
        let value = self.value.load();
        let value = value.as_ref().ok_or(Unavailable::NoToken { retry_after: Duration::from_secs(1) })?;
        Ok((value.field.clone(), value.generation))
    }

    /// Adds the identity that Snyk sees to `digest`: access tokens change, their client does not.
    pub(super) fn identify(&self, digest: &mut Context) {
        match (&self.source, self.value.load().as_deref()) {
            (ValueSource::OAuth(OAuthSettings { token_url, client_id, .. }), _) => {
                digest.update(format!("{token_url} {client_id:?}").as_bytes());
            }
            (_, Some(value)) => digest.update(value.field.as_bytes()),
            (_, None) => {}
        }
        // Neither has one inside.
        digest.update(b"\n");
    }

    pub(super) fn generation(&self) -> u64 {
        match &self.oauth {
            Some(oauth) => oauth.generation(),
            None => self.value.load().as_ref().map_or(0, |value| value.generation),
        }
    }
}

/// Opens the slot at index `at` of its credential.
pub(super) fn open(
    settings: SlotSettings,
    at: usize,
    ca_file: Option<&Path>,
    clock: &Clock,
) -> Result<(Slot, Option<Followed>), BadCredential> {
    let SlotSettings { source, scheme } = settings;
    let mut slot = Slot { scheme, source: source.clone(), value: ArcSwapOption::empty(), oauth: None };
    let mut followed = None;
    let mut secret = None;
    match source {
        ValueSource::Fixed(fixed) => secret = Some(fixed),
        ValueSource::File(path) => {
            watched_file::report_exposed(&path);
            let (file, content) = if at == 0 {
                let (file, mut contents) = Followed::open("credential", vec![path])?;
                (file, contents.pop())
            } else {
                Followed::open_optional("credential", path)?
            };
            let text = content.as_ref().map(|content| std::str::from_utf8(content).unwrap_or_default());
            secret = match (at, text.map(parse)) {
                (0, Some(parsed)) => Some(parsed?),
                // The next slot's file may be empty until its token is there.
                (_, None | Some(Err(BadCredential::Empty))) => None,
                (_, Some(Err(error))) => {
                    tracing::warn!(
                        error = crate::error_text::error_text(&error),
                        "token of the next slot is invalid; leaving the slot empty until its file is fixed"
                    );
                    None
                }
                (_, Some(Ok(secret))) => Some(secret),
            };
            followed = Some(file);
        }
        ValueSource::OAuth(settings) => {
            let client = transport::client(&settings.token_url, ca_file, CONNECT_TIMEOUT)?;
            slot.oauth = Some(OAuth::new(client, settings, clock.clone()));
        }
    }
    if let Some(secret) = secret {
        slot.value.store(Some(Arc::new(value(secret, scheme, 1, clock.now())?)));
    }
    Ok((slot, followed))
}

pub(super) fn value(
    secret: Secret,
    scheme: Scheme,
    generation: u64,
    now: Now,
) -> Result<Value, BadCredential> {
    let field = secret.authorization(scheme.as_str()).map_err(|_| BadCredential::Malformed)?;
    Ok(Value { secret, field, generation, since: now.mono })
}

pub(super) fn read(path: &Path) -> Result<Secret, BadCredential> {
    parse(std::str::from_utf8(&watched_file::read(path)?).unwrap_or("\u{fffd}"))
}

/// Checks the text of a token, without the white space around it.
///
/// # Errors
/// [`BadCredential`].
pub fn parse(text: &str) -> Result<Secret, BadCredential> {
    let token = text.trim();
    if token.is_empty() {
        Err(BadCredential::Empty)
    } else if token.len() > MAX_TOKEN {
        Err(BadCredential::TooLong)
    } else if !token.bytes().all(|b| b.is_ascii_graphic()) {
        Err(BadCredential::Malformed)
    } else {
        Ok(Secret::new(token.to_owned()))
    }
}
