//! What a fault does to the normal answer.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use h2::Reason;
use http::{HeaderMap, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::answers::{self, Body, BoxError, ExportDocument, error, set};
use super::target::Call;
use super::wire::{Raw, Switch, Then};
use super::{Fault, RateFields, Seen};

/// A call, and the connection that it came by.
pub(super) struct Site<'a> {
    pub(super) seen: &'a Seen,
    pub(super) switch: &'a Switch,
    /// With HTTP/2, its stream.
    pub(super) stream: u32,
    pub(super) time: &'a str,
}

impl Site<'_> {
    /// Has the connection say what only `version` knows, before anything else.
    fn say(&self, version: Version, bytes: Vec<u8>, then: Then) -> Result<(), BoxError> {
        if self.seen.version != version {
            return Err("told to break another version of HTTP".into());
        }
        self.switch.write(Raw { bytes, then });
        Ok(())
    }

    fn say_http1(&self, bytes: &[u8], then: Then) -> Result<(), BoxError> {
        self.say(Version::HTTP_11, bytes.to_vec(), then)
    }

    /// `GOAWAY` with `NO_ERROR` (RFC 9113 §6.8).
    fn go_away(&self, last_stream: u32, then: Then) -> Result<(), BoxError> {
        let mut bytes = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        bytes.extend(last_stream.to_be_bytes());
        bytes.extend(u32::from(Reason::NO_ERROR).to_be_bytes());
        self.say(Version::HTTP_2, bytes, then)
    }

    /// The same call, of an export that failed; `None` where it names no export.
    fn errored(&self) -> Option<Response<Body>> {
        let call = Call::of(self.seen)?;
        let (version, time) = (&self.seen.requested_version(), self.time);
        let document = ExportDocument {
            scope: &call.scope,
            id: call.export()?,
            version,
            status: "ERRORED",
            time,
            table: None,
        };
        Some(document.respond())
    }
}

const NOT_REALLY_GZIP: &[u8] = b"\x1f\x8b\x08 not really";

/// Lets a fault do its work on the answer so far.
pub(super) async fn spoil(
    fault: Fault,
    mut response: Response<Body>,
    site: &Site<'_>,
) -> Result<Response<Body>, BoxError> {
    let replace_with = |new| renewed(&response, new);
    match fault {
        Fault::Delay(time) => tokio::time::sleep(time).await,
        Fault::Status(status) => response = replace_with(error(status, "Fault", "The fake was told to.")),
        Fault::TooManyRequests { retry_after } => {
            response = replace_with(error(429, "Too many requests", "The fake was told to."));
            set(response.headers_mut(), "retry-after", &retry_after.to_string());
        }
        Fault::NoHealthyUpstream => response = no_healthy_upstream(&response),
        Fault::Errored => response = site.errored().map(replace_with).unwrap_or(response),
        Fault::Html => response = replace_with(answers::respond(200, "text/html", "<html>maintenance</html>")),
        Fault::Redirect(to) => {
            response = replace_with(answers::respond(303, "text/plain", ""));
            set(response.headers_mut(), "location", &to);
        }
        Fault::Oversize(bytes) => {
            let text = format!(
                "{{\"data\":{{\"attributes\":{{\"status\":\"FINISHED\",\"x\":\"{}\"}}}}}}",
                "x".repeat(bytes)
            );
            response = replace_with(answers::respond(200, "application/vnd.api+json", text));
        }
        Fault::BigHeaders(bytes) => set(response.headers_mut(), "x-big", &"x".repeat(bytes)),
        Fault::Gzip => {
            set(response.headers_mut(), "content-encoding", "gzip");
            *response.body_mut() = answers::full(NOT_REALLY_GZIP);
        }
        Fault::ExtraHeader(name, value) => set(response.headers_mut(), &name, &value),
        Fault::ReplaceHeader(name, value) => replace(response.headers_mut(), &name, &value),
        Fault::RateFields(fields) => rate(response.headers_mut(), &fields),
        Fault::Trailer(name, value) => response = trailer(response, &name, &value, site).await?,
        Fault::Hang => std::future::pending::<()>().await,
        Fault::Reset => return Err("told to reset".into()),
        Fault::ResetMidBody => *response.body_mut() = cut(response.headers_mut(), false),
        Fault::HangMidBody => *response.body_mut() = cut(response.headers_mut(), true),
        Fault::Disconnect => site.switch.write(Raw { bytes: Vec::new(), then: Then::End }),
        Fault::Garbage => site.say_http1(b"\x15\x03\x01 this is no HTTP\r\n\r\n", Then::End)?,
        Fault::EndlessContinue => site.say_http1(b"HTTP/1.1 100 Continue\r\n\r\n", Then::Repeat)?,
        Fault::SwitchingProtocols => site.say_http1(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            Then::End,
        )?,
        Fault::BadChunk => site.say_http1(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
            Then::End,
        )?,
        Fault::GzipChunked => {
            let bytes = chunked(&response, "transfer-encoding: gzip, chunked", NOT_REALLY_GZIP, "");
            site.say_http1(&bytes, Then::End)?;
        }
        Fault::LengthAndChunked => response = length_and_chunked(response, site).await?,
        Fault::RefusedStream => return Err(h2::Error::from(Reason::REFUSED_STREAM).into()),
        Fault::CutBody { reason, declared } => response = cut_body(response, reason, declared).await?,
        Fault::GoAwayBefore => site.go_away(site.stream.saturating_sub(2), Then::End)?,
        Fault::GoAwayAfter => site.go_away(site.stream, Then::End)?,
        Fault::GoAwayAnswered => site.go_away(site.stream, Then::GoOn)?,
    }
    Ok(response)
}

/// The answer with both ways of saying where it ends.
async fn length_and_chunked(response: Response<Body>, site: &Site<'_>) -> Result<Response<Body>, BoxError> {
    let (response, body) = read(response).await?;
    let both = format!("content-length: {}\r\ntransfer-encoding: chunked", body.len());
    site.say_http1(&chunked(&response, &both, &body, ""), Then::End)?;
    Ok(response.map(|()| answers::full(body)))
}

/// Half of the body, then `RST_STREAM`.
async fn cut_body(
    response: Response<Body>,
    reason: Reason,
    is_declared: bool,
) -> Result<Response<Body>, BoxError> {
    let (mut response, body) = read(response).await?;
    if is_declared {
        set(response.headers_mut(), "content-length", &body.len().to_string());
    }
    let half = body.slice(..body.len() / 2);
    Ok(response.map(|()| broken_off(half, h2::Error::from(reason).into())))
}

/// A trailer field. hyper's server sends none that its client did not ask for; edges do.
async fn trailer(
    response: Response<Body>,
    name: &str,
    value: &str,
    site: &Site<'_>,
) -> Result<Response<Body>, BoxError> {
    let (response, body) = read(response).await?;
    if site.seen.version == Version::HTTP_2 {
        let mut trailers = HeaderMap::new();
        set(&mut trailers, name, value);
        let frames = stream::iter([Ok(Frame::data(body)), Ok(Frame::trailers(trailers))]);
        return Ok(response.map(|()| BodyExt::boxed_unsync(StreamBody::new(frames))));
    }
    let field = format!("{name}: {value}\r\n");
    site.say_http1(&chunked(&response, "transfer-encoding: chunked", &body, &field), Then::End)?;
    Ok(response.map(|()| answers::full(body)))
}

/// An HTTP/1.1 message with its body in one chunk.
fn chunked<B>(response: &Response<B>, framing: &str, body: &[u8], trailers: &str) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("{framing}\r\n\r\n{:x}\r\n", body.len()).bytes());
    bytes.extend([body, format!("\r\n0\r\n{trailers}\r\n").as_bytes()].concat());
    bytes
}

/// The answer without its body, and the body.
async fn read(response: Response<Body>) -> Result<(Response<()>, Bytes), BoxError> {
    let (head, body) = response.into_parts();
    Ok((Response::from_parts(head, ()), body.collect().await?.to_bytes()))
}

/// The beginning of a body that announces more; then nothing, or the end of the connection.
fn cut(fields: &mut HeaderMap, hangs: bool) -> Body {
    set(fields, "content-length", "1000");
    let begun = Bytes::from_static(b"{\"data\":{\"attributes\":{\"status\":\"FINISHED\"");
    if hangs {
        let frames = stream::iter([Ok(Frame::data(begun))]).chain(stream::pending());
        return BodyExt::boxed_unsync(StreamBody::new(frames));
    }
    broken_off(begun, "told to break off".into())
}

/// A body that ends in `error`.
fn broken_off(begun: Bytes, error: BoxError) -> Body {
    // Time for what was begun to leave before the connection goes.
    let end = stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(error)
    });
    BodyExt::boxed_unsync(StreamBody::new(stream::iter([Ok(Frame::data(begun))]).chain(end)))
}

/// As Envoy answers for a service that it cannot reach.
fn no_healthy_upstream(old: &Response<Body>) -> Response<Body> {
    let mut new = answers::respond(503, "text/plain", "no healthy upstream");
    if let Some(date) = old.headers().get("date") {
        new.headers_mut().insert("date", date.clone());
    }
    replace(new.headers_mut(), "server", "envoy");
    new
}

fn rate(fields: &mut HeaderMap, rate: &RateFields) {
    replace(fields, "x-ratelimit-limit", &rate.limit());
    replace(fields, "x-ratelimit-remaining", &rate.remaining.to_string());
    replace(fields, "x-ratelimit-reset", &rate.reset.to_string());
}

fn replace(fields: &mut HeaderMap, name: &str, value: &str) {
    fields.remove(name);
    set(fields, name, value);
}

/// `new` with the fields of `old` that are on every answer.
fn renewed(old: &Response<Body>, mut new: Response<Body>) -> Response<Body> {
    for name in answers::STANDARD_FIELDS.iter().chain(&answers::EDGE_FIELDS) {
        if let Some(value) = old.headers().get(*name) {
            new.headers_mut().insert(*name, value.clone());
        }
    }
    new
}
