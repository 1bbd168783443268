//! Reading an answer's document: a large one on a thread that may block, for it takes longer than other requests may wait.

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::cache;
use crate::export;

/// Bodies up to this length are read at once: it takes less than a millisecond. Longer ones would hold up the other
/// requests of the thread (7.8 MB: 47 ms).
const AT_ONCE: usize = 128 * 1024;

/// An answer's document, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Whether it holds the gateway's credential.
    pub(super) echoes: bool,
    /// Its status, id and links; `None` where it is no export's document.
    pub(super) peek: Option<export::Document>,
    /// The validator of an export's document.
    pub(super) etag: Option<HeaderValue>,
}

/// Reads `body`, and looks for `secret` in it. One that is not `storable` is read for the secret alone.
pub(super) async fn read(body: &Bytes, secret: &[u8], is_storable: bool) -> Document {
    if body.len() <= AT_ONCE {
        return read_now(body, secret, is_storable);
    }
    let (body, secret) = (body.clone(), Zeroizing::new(secret.to_vec()));
    let reading = tokio::task::spawn_blocking(move || read_now(&body, &secret, is_storable));
    // What could not be read may hold anything: it is withheld.
    reading.await.unwrap_or(Document { echoes: true, ..Document::default() })
}

fn read_now(body: &[u8], secret: &[u8], is_storable: bool) -> Document {
    if !secret.is_empty() && memchr::memmem::find(body, secret).is_some() {
        return Document { echoes: true, ..Document::default() };
    }
    let peek = Some(body).filter(|_| is_storable).and_then(export::Document::of);
    // Only a finished export's may be stored.
    let etag = peek.as_ref().filter(|peek| peek.is_finished()).map(|_| cache::etag(body));
    Document { echoes: false, peek, etag }
}
