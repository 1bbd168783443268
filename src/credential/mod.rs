//! Where the Snyk credential comes from, and how it is replaced while we run.
//!
//! A token file is read again at a fixed interval rather than watched: reading a hundred bytes a second
//! costs nothing, and sees a rename, a swapped symlink (as Kubernetes does it) and an edit in place
//! alike. A new value is taken only when two readings in a row agree, so that a half-written file is
//! never used; a bad one keeps the old.

mod settings;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::secret::Secret;

pub use settings::{Scheme, Settings, Source};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8_192;

/// Why a value is no credential. It never says what the value was.
#[derive(Debug, thiserror::Error)]
pub enum BadCredential {
    /// The file cannot be read.
    #[error("cannot read the token file {path}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing but white space.
    #[error("the token is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It has white space or other bytes that no token has.
    #[error("the token has a character that is not visible ASCII")]
    Malformed,
}

/// The credential that is presented upstream.
#[derive(Debug)]
pub struct Credential {
    /// The name that stands for it in cache keys, logs and the journal.
    pub name: Arc<str>,
    settings: Settings,
    current: ArcSwap<Presented>,
}

#[derive(Debug)]
struct Presented {
    secret: Secret,
    field: HeaderValue,
}

impl Credential {
    /// Reads the credential for the first time.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn open(settings: Settings) -> Result<Self, BadCredential> {
        let secret = match &settings.source {
            Source::Fixed(secret) => secret.clone(),
            Source::File(path) => read(path)?,
        };
        let current = ArcSwap::from_pointee(present(secret, settings.scheme)?);
        Ok(Self { name: settings.name.as_str().into(), settings, current })
    }

    /// The `Authorization` field as of now.
    #[must_use]
    pub fn authorization(&self) -> HeaderValue {
        self.current.load().field.clone()
    }

    /// Keeps the credential as its file says; never ends. One that is fixed stays.
    pub async fn follow_file(self: Arc<Self>) {
        let Source::File(path) = self.settings.source.clone() else { return std::future::pending().await };
        let mut seen: Option<Secret> = None;
        let mut failing = false;
        let mut ticks = tokio::time::interval(self.settings.reload_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let file = path.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || read(&file)).await else { continue };
            match outcome.and_then(|secret| self.offer(secret, &mut seen)) {
                Ok(taken) => {
                    if failing || taken {
                        tracing::info!(credential.name = %self.name, credential.replaced = taken, "token file is good");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            credential.name = %self.name,
                            error = &error as &dyn std::error::Error,
                            "token file is not usable: the last good token stays in use until it is mended"
                        );
                    }
                    (failing, seen) = (true, None);
                }
            }
        }
    }

    /// Takes `secret` when it is new and was read twice in a row; whether it was taken.
    fn offer(&self, secret: Secret, seen: &mut Option<Secret>) -> Result<bool, BadCredential> {
        let presented = present(secret, self.settings.scheme)?;
        let settled = seen.as_ref().is_some_and(|seen| seen.is_same(&presented.secret));
        *seen = Some(presented.secret.clone());
        let taken = settled && !presented.secret.is_same(&self.current.load().secret);
        if taken {
            self.current.store(Arc::new(presented));
        }
        Ok(taken)
    }
}

fn read(path: &Path) -> Result<Secret, BadCredential> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| BadCredential::Unreadable { path: path.display().to_string(), source })?;
    parse(&text)
}

/// Checks the text of a token, without the white space around it.
///
/// # Errors
/// What is wrong with it, never what it is.
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

fn present(secret: Secret, scheme: Scheme) -> Result<Presented, BadCredential> {
    let field = secret.authorization(scheme.as_str()).map_err(|_| BadCredential::Malformed)?;
    Ok(Presented { secret, field })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_value_is_taken_when_read_twice_and_a_bad_one_never() {
        let fixed = Source::Fixed(Secret::new("old".into()));
        let settings = Settings {
            name: "default".into(),
            source: fixed,
            scheme: Scheme::Token,
            reload_interval: Duration::from_secs(1),
        };
        let credential = Credential::open(settings).expect("a credential");
        let mut seen = None;
        let mut offer = |text: &str| parse(text).and_then(|secret| credential.offer(secret, &mut seen)).ok();
        assert_eq!(offer("half"), Some(false));
        assert_eq!(offer("half-written"), Some(false));
        assert_eq!(credential.authorization(), "token old");
        assert_eq!(offer("half-written\n"), Some(true));
        assert_eq!(credential.authorization(), "token half-written");
        for bad in ["", " \n", "two words", "caf\u{e9}", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(offer(bad), None);
        }
        assert_eq!(credential.authorization(), "token half-written");
        assert!(!format!("{credential:?}").contains("half"));
    }
}
