//! Reading the body of an answer: a large one on a thread that may block, for it takes longer than other requests may
//! wait.

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::cache;
use crate::export::Document;

/// Bodies up to this length are read at once: it takes less than a millisecond. Longer ones would hold up the other
/// requests of the thread (7.8 MB: 47 ms).
const AT_ONCE: usize = 128 * 1024;

/// The contents of an answer's body.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// True if it holds the gateway's credential.
    pub(super) echoes: bool,
    /// Its document; `None` if it is no export's.
    pub(super) document: Option<Document>,
    /// The validator of an export's document.
    pub(super) etag: Option<HeaderValue>,
}

/// Reads `body`, and looks for `secret` in it. A body that is not storable is read for the secret alone.
pub(super) async fn read(body: &Bytes, secret: &[u8], is_storable: bool) -> Reading {
    if body.len() <= AT_ONCE {
        return read_now(body, secret, is_storable);
    }
    let (body, secret) = (body.clone(), Zeroizing::new(secret.to_vec()));
    let reading = aside(body.len(), move || read_now(&body, &secret, is_storable));
    // A body that could not be read may hold anything: it is withheld.
    reading.await.unwrap_or(Reading { echoes: true, ..Reading::default() })
}

/// Does `work` on so many bytes; on a thread that may block, where they are many. `None` if it panicked there.
pub(crate) async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= AT_ONCE { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}

fn read_now(body: &[u8], secret: &[u8], is_storable: bool) -> Reading {
    if !secret.is_empty() && memchr::memmem::find(body, secret).is_some() {
        return Reading { echoes: true, ..Reading::default() };
    }
    let document = Some(body).filter(|_| is_storable).and_then(Document::of);
    // Only a finished export's may be stored.
    let etag = document.as_ref().filter(|document| document.is_finished()).map(|_| cache::etag(body));
    Reading { echoes: false, document, etag }
}
