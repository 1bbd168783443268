//! What the configuration says about Snyk credentials.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::export::{Id, Scope, ScopeKind};
use crate::secret::Secret;

/// All credentials.
#[derive(Debug, Clone)]
pub struct Settings {
    /// At least one.
    pub credentials: Vec<Described>,
    /// How often token files are read again.
    pub reload_interval: Duration,
    /// How long a slot that Snyk refused is left alone, and how often it is then tried.
    pub probe_interval: Duration,
    /// PEM certificates to trust at token endpoints instead of the platform's.
    pub ca_file: Option<PathBuf>,
}

/// One credential.
#[derive(Debug, Clone)]
pub struct Described {
    /// The name that stands for it in cache keys, logs and the journal.
    pub name: String,
    /// Which orgs and groups it is for.
    pub scopes: Scopes,
    /// Where its value comes from: `active`, then (where there is one) `next`.
    pub slots: Vec<Slot>,
}

impl Described {
    /// Whether another describes the same: a value that it holds is kept then.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.scopes == other.scopes
            && self.slots.len() == other.slots.len()
            && self.slots.iter().zip(&other.slots).all(|(one, other)| one.is_same(other))
    }
}

/// Which orgs and groups a credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// All that no other credential names.
    Rest,
    /// These.
    Named {
        /// Org ids.
        orgs: Vec<Id>,
        /// Group ids.
        groups: Vec<Id>,
    },
}

impl Scopes {
    /// Whether `scope` is named.
    #[must_use]
    pub fn names(&self, scope: &Scope) -> bool {
        match (self, scope.kind) {
            (Self::Rest, _) => false,
            (Self::Named { orgs, .. }, ScopeKind::Org) => orgs.contains(&scope.id),
            (Self::Named { groups, .. }, ScopeKind::Group) => groups.contains(&scope.id),
        }
    }
}

/// Where a value comes from and how it is presented.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Where from.
    pub source: Source,
    /// The `Authorization` scheme word.
    pub scheme: Scheme,
}

impl Slot {
    fn is_same(&self, other: &Self) -> bool {
        let same_source = match (&self.source, &other.source) {
            (Source::Fixed(one), Source::Fixed(other)) => one.is_same(other),
            (Source::File(one), Source::File(other)) => one == other,
            (
                Source::OAuth { token_url, client_id, secret_file },
                Source::OAuth { token_url: url, client_id: id, secret_file: file },
            ) => (token_url, client_id, secret_file) == (url, id, file),
            (Source::Fixed(_) | Source::File(_) | Source::OAuth { .. }, _) => false,
        };
        self.scheme == other.scheme && same_source
    }
}

/// Where a credential's value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Given once, in `SNYK_TOKEN`.
    Fixed(Secret),
    /// A file that holds the token and may be replaced at any time.
    File(PathBuf),
    /// An OAuth client, which gets access tokens with its secret (RFC 6749 §4.4).
    OAuth {
        /// Where.
        token_url: Uri,
        /// `client_id`.
        client_id: String,
        /// A file with `client_secret`, read for each request.
        secret_file: PathBuf,
    },
}

/// Snyk's `Authorization` scheme words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// API tokens.
    Token,
    /// OAuth access tokens.
    Bearer,
}

impl Scheme {
    /// The word as it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bearer => "bearer",
        }
    }
}
