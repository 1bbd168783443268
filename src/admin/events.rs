//! Server-sent events: the status, over and over, for the page.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::Either;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Admin, BUSY, Refusal};
use crate::transport::{Body, Streamed};

/// How often the status is sent.
const EVERY: Duration = Duration::from_secs(2);
/// After so long the stream ends, and the page asks again: the token may have changed.
const AT_MOST: Duration = Duration::from_mins(15);

impl Admin {
    /// Streams the status until its reader is gone, or the gateway has stopped.
    pub(super) fn follow(self: &Arc<Self>) -> Result<Response<Body>, Refusal> {
        let permit = Arc::clone(&self.events).try_acquire_owned().map_err(|_| BUSY)?;
        let (pieces, body) = mpsc::channel(1);
        let admin = Arc::clone(self);
        self.views.shutdown.spawn(async move {
            let _permit = permit;
            let end = Instant::now() + AT_MOST;
            while Instant::now() < end {
                let piece = Bytes::from(format!("event: status\ndata: {}\n\n", admin.status()));
                // A reader that takes nothing holds one piece, and is asked no more.
                let sending = async {
                    pieces.send(piece).await.ok()?;
                    sleep(EVERY).await;
                    Some(())
                };
                tokio::select! {
                    sent = sending => if sent.is_none() { break },
                    () = pieces.closed() => break,
                    () = admin.views.shutdown.begun() => break,
                }
            }
        });
        let mut response =
            Response::new(Either::Right(Streamed::of_pieces(body, Instant::now() + AT_MOST * 2)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok(response)
    }
}
