//! A signed link: a bearer secret, of which only the host may be shown.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use http::Uri;

use super::Settings;
use super::hosts::Origin;
use crate::export::Links;

/// Longest link, in bytes.
const MAX_LINK: usize = 16 * 1024;

/// A link that may be asked.
#[derive(Clone)]
pub struct Link {
    pub(super) uri: Uri,
    host: String,
    end: Option<SystemTime>,
    object: ObjectId,
}

/// The identity of the object that a link leads to. It stays the same when the link is signed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId([u8; 16]);

/// A link that must not be asked. None of its text is kept but a sound host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No URL, or a longer one than any store's.
    #[error("a link is no URL of a file store")]
    NotUrl,
    /// A user name, a password or a fragment is in it.
    #[error("a link has a user name, a password or a fragment")]
    Decorated,
    /// It does not begin with `https:`, or names another port.
    #[error("a link to {0} is not https on port 443 (files.origins names exceptions)")]
    NotHttps(String),
    /// Its host is none that `files.hosts` names.
    #[error("a link leads to {0}, which files.hosts does not name")]
    HostNotAllowed(String),
}

impl Link {
    /// Reads a link.
    pub(super) fn parse(text: &str, settings: &Settings) -> Result<Self, LinkError> {
        if text.len() > MAX_LINK || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(LinkError::NotUrl);
        }
        let uri: Uri = text.parse().map_err(|_| LinkError::NotUrl)?;
        let authority = uri.authority().ok_or(LinkError::NotUrl)?;
        if text.contains('#') || authority.as_str().contains('@') {
            return Err(LinkError::Decorated);
        }
        let origin = Origin::of(&uri).ok_or(LinkError::NotUrl)?;
        if !settings.origins.contains(&origin) {
            let Origin { scheme, host, port } = &origin;
            if !settings.hosts.iter().any(|pattern| pattern.matches(host)) {
                return Err(LinkError::HostNotAllowed(host.clone()));
            }
            if scheme != "https" || *port != 443 {
                return Err(LinkError::NotHttps(host.clone()));
            }
        }
        let mut links = Links::default();
        links.add(text);
        let object = ObjectId::of(&origin, uri.path());
        Ok(Self { host: origin.host, end: links.end, object, uri })
    }

    /// The host that it leads to.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The end that it shows, by the clock of the store.
    #[must_use]
    pub fn end(&self) -> Option<SystemTime> {
        self.end
    }

    /// The object that it leads to.
    #[must_use]
    pub fn object(&self) -> ObjectId {
        self.object
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, redacted)", self.host)
    }
}

impl ObjectId {
    fn of(origin: &Origin, path: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest(&SHA256, format!("{origin}{path}").as_bytes()).as_ref()[..16]);
        Self(id)
    }
}
