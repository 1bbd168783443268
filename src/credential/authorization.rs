//! The `Authorization` field of one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;

use super::Credential;
use crate::export::Scope;

/// Shortest credential that responses are searched for, in bytes.
const MIN_SEARCHED: usize = 16;
/// A credential's value for one request.
#[derive(Debug)]
pub struct Authorization {
    /// The `Authorization` field.
    pub field: HeaderValue,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) scope: Option<Scope>,
    pub(super) probe: Option<Probe>,
}

/// The probe of a locked slot. If it was not sent, the next request is a probe; if it was sent without a verdict, the first
/// request after an interval.
#[derive(Debug)]
pub(super) struct Probe {
    credential: Arc<Credential>,
    slot: usize,
    was_sent: AtomicBool,
    has_verdict: AtomicBool,
}

impl Probe {
    pub(super) const fn new(credential: Arc<Credential>, slot: usize) -> Self {
        Self { credential, slot, was_sent: AtomicBool::new(false), has_verdict: AtomicBool::new(false) }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.has_verdict.load(Ordering::Relaxed) {
            let was_sent = self.was_sent.load(Ordering::Relaxed);
            let now = self.credential.clock.now().mono;
            self.credential.health().lose_probe(self.slot, was_sent, now);
        }
    }
}

impl Authorization {
    /// Records that a request is sent with it.
    pub(crate) fn sent(&self) {
        if let Some(probe) = &self.probe {
            probe.was_sent.store(true, Ordering::Relaxed);
        }
    }

    /// Records that Snyk accepted or refused it. Returns true if it is a probe.
    pub(super) fn judged(&self) -> bool {
        if let Some(probe) = &self.probe {
            probe.has_verdict.store(true, Ordering::Relaxed);
        }
        self.probe.is_some()
    }

    /// True if `bytes` contain the credential: a response that echoes it must not reach a client.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        let secret = self.secret();
        !secret.is_empty() && memchr::memmem::find(bytes, secret).is_some()
    }

    /// The credential without its scheme; empty if it is so short (as in a test) that it would be found by chance.
    pub(crate) fn secret(&self) -> &[u8] {
        let field = self.field.as_bytes();
        let secret = field.iter().position(|b| *b == b' ').map_or(field, |at| &field[at + 1..]);
        if secret.len() >= MIN_SEARCHED { secret } else { &[] }
    }

    pub(crate) fn is_in_fields(&self, fields: &http::HeaderMap) -> bool {
        fields.values().any(|value| self.is_in(value.as_bytes()))
    }
}
