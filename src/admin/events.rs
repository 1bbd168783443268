//! Server-sent events: the status every two seconds, for the page.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Either;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Admin;
use super::answer::{AdminRefusal, BUSY};
use crate::transport::{Body, Streamed};

const EVERY: Duration = Duration::from_secs(2);
/// The stream ends after this time, and the page asks again: the token may have changed.
const AT_MOST: Duration = Duration::from_mins(15);

impl Admin {
    /// Streams the status until its reader is gone, or the gateway has stopped.
    pub(super) fn follow(self: &Arc<Self>) -> Result<Response<Body>, AdminRefusal> {
        let permit = Arc::clone(&self.events).try_acquire_owned().map_err(|_| BUSY)?;
        let (pieces, body) = mpsc::channel(1);
        let admin = Arc::clone(self);
        let end = Instant::from_std(self.now().mono) + AT_MOST;
        self.views.parts.shutdown.spawn(async move {
            let _permit = permit;
            loop {
                let status = serde_json::to_string(&admin.status()).unwrap_or_default();
                let piece = Bytes::from(format!("event: status\ndata: {status}\n\n"));
                // A reader that takes nothing holds one piece, and gets no more.
                let sending = async {
                    pieces.send(piece).await.ok()?;
                    sleep(EVERY).await;
                    Some(())
                };
                tokio::select! {
                    sent = sending => if sent.is_none() { break },
                    () = sleep_until(end) => break,
                    () = pieces.closed() => break,
                    () = admin.views.parts.shutdown.begun() => break,
                }
            }
        });
        let mut response = Response::new(Either::Right(Streamed::of_pieces(body, end + AT_MOST)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok(response)
    }
}
