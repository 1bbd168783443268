//! Settings of the Snyk credentials.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::export::{Id, Scope, ScopeKind};
use crate::secret::Secret;

/// All credentials.
#[derive(Debug, Clone)]
pub struct Settings {
    /// At least one.
    pub credentials: Vec<CredentialSettings>,
    /// Time between two readings of the token files.
    pub reload_interval: Duration,
    /// Time between two probes of a locked slot.
    pub probe_interval: Duration,
    /// PEM certificates to trust at token endpoints instead of the platform's.
    pub ca_file: Option<PathBuf>,
}

/// One credential.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialSettings {
    /// Its name in cache keys, logs and the journal.
    pub name: String,
    /// Its orgs and groups.
    pub scopes: Scopes,
    /// `active`, then `next` if it is configured.
    pub slots: Vec<SlotSettings>,
}

/// The orgs and groups of a credential.
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
    pub(crate) fn names(&self, scope: &Scope) -> bool {
        match (self, scope.kind) {
            (Self::Rest, _) => false,
            (Self::Named { orgs, .. }, ScopeKind::Org) => orgs.contains(&scope.id),
            (Self::Named { groups, .. }, ScopeKind::Group) => groups.contains(&scope.id),
        }
    }
}

/// One slot.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotSettings {
    /// The source of its value.
    pub source: ValueSource,
    /// The `Authorization` scheme word.
    pub scheme: Scheme,
}

/// The source of a slot's value.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueSource {
    /// The value of `SNYK_TOKEN`.
    Fixed(Secret),
    /// A file that holds the token and may be replaced at any time.
    File(PathBuf),
    /// An OAuth client, which gets access tokens with its secret (RFC 6749 §4.4).
    OAuth(OAuthSettings),
}

/// One OAuth client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthSettings {
    /// The token endpoint.
    pub token_url: Uri,
    /// `client_id`.
    pub client_id: String,
    /// A file with `client_secret`, read for each request.
    pub secret_file: PathBuf,
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
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bearer => "bearer",
        }
    }
}
