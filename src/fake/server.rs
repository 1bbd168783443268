//! Accepting, speaking TLS and HTTP, and answering each call by the stage and its faults.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::answers::{self, Body, BoxError, error, set};
use super::links::{self, LinkForm};
use super::script::State;
use super::wire::{Raw, Switch, Wire};
use super::{Fault, Seen, Shared};

#[expect(clippy::disallowed_methods, reason = "the fake is a program of its own: it ends with its token")]
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

#[expect(clippy::disallowed_methods, reason = "the fake has a clock of its own")]
fn now_ms(offset: i64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0).saturating_add_signed(offset * 1_000)
}

/// A certificate authority and a certificate for this machine's own names.
pub(super) fn tls(valid: Option<(i32, i32)>) -> Result<(TlsAcceptor, String), BoxError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "exportgate fake Snyk");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    if let Some((from, until)) = valid {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
    }
    let certificate = params.signed_by(&key, &authority)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem()))
}

/// Accepts until `running` ends; connections end with it.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    running: CancellationToken,
) {
    while let Some(accepted) = running.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let (shared, acceptor, running) = (Arc::clone(&shared), acceptor.clone(), running.clone());
        spawn(async move {
            running.run_until_cancelled(serve(stream, acceptor, shared)).await;
        });
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let switch = Switch::default();
    let answering = service_fn({
        let switch = switch.clone();
        move |request| answer(Arc::clone(&shared), switch.clone(), request)
    });
    // How a connection ends is its client's matter.
    let _ = match acceptor {
        None => {
            let io = TokioIo::new(Wire::new(stream, switch));
            http1::Builder::new().serve_connection(io, answering).await
        }
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answering)
                    .await
            } else {
                let io = TokioIo::new(Wire::new(stream, switch));
                http1::Builder::new().serve_connection(io, answering).await
            }
        }
    };
}

async fn answer(
    shared: Arc<Shared>,
    switch: Switch,
    request: Request<Incoming>,
) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if parts.uri.path().starts_with("/files/") {
        return Ok(file(&shared, &parts));
    }
    let headers = parts.headers.iter();
    if parts.uri.path() == "/oauth2/token" {
        return token(&shared, &switch, &body).await;
    }
    let seen = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: headers
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect(),
        body,
        version: parts.version,
    };
    let (faults, now, admitted, remaining) = {
        let mut stage = shared.stage();
        let now = now_ms(stage.clock_offset);
        count(&mut stage.hits, &seen);
        stage.keep(seen.clone());
        (stage.next_faults(), now, stage.admit(now), stage.remaining().zip(stage.script.requests_per_minute))
    };
    shared.api_hits.send_modify(|hits| *hits += 1);
    let mut held = shared.held.subscribe();
    let _ = held.wait_for(|held| *held == 0).await;

    let mut response = if admitted {
        call(&shared, &seen, now)
    } else {
        answers::error(429, "Too many requests", "Stop for a minute.")
    };
    if !admitted {
        set(response.headers_mut(), "retry-after", "60");
    }
    standard_fields(&mut response, &seen, now);
    if let Some((remaining, most)) = remaining {
        set(response.headers_mut(), "x-ratelimit-limit", &format!("{most}, {most};w=60;name=\"fake\""));
        set(response.headers_mut(), "x-ratelimit-remaining", &remaining.to_string());
        set(response.headers_mut(), "x-ratelimit-reset", "60");
    }
    for fault in faults {
        response = spoil(fault, response, &switch).await?;
    }
    Ok(response)
}

/// The token endpoint (RFC 6749 §4.4), for any client with the one secret.
async fn token(shared: &Shared, switch: &Switch, body: &[u8]) -> Result<Response<Body>, BoxError> {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    let value = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let (mut response, faults) = {
        let mut stage = shared.stage();
        stage.hits.token += 1;
        let known = stage.script.oauth_secret.is_some()
            && value("client_secret") == stage.script.oauth_secret.as_deref();
        let document = if value("grant_type") != Some("client_credentials") {
            Err("unsupported_grant_type")
        } else if !known || value("client_id").is_none() {
            Err("invalid_client")
        } else {
            let now = now_ms(stage.clock_offset);
            let (access_token, life) = (stage.issue(now), stage.script.token_seconds);
            Ok(json!({"access_token": access_token, "token_type": "bearer", "expires_in": life}))
        };
        let response = match document {
            Ok(document) => answers::respond(200, "application/json", document.to_string()),
            Err(code) => answers::respond(401, "application/json", json!({"error": code}).to_string()),
        };
        (response, stage.next_token_faults())
    };
    for fault in faults {
        response = spoil(fault, response, switch).await?;
    }
    Ok(response)
}

fn count(hits: &mut super::Hits, seen: &Seen) {
    let path = seen.target.split('?').next().unwrap_or_default();
    match operation(&seen.method, path) {
        Some((_, Call::Start)) => hits.start += 1,
        Some((_, Call::Status(_))) => hits.job_status += 1,
        Some((_, Call::Results(_))) => hits.results += 1,
        None => hits.other += 1,
    }
}

enum Call {
    Start,
    Status(String),
    Results(String),
}

/// `orgs/<id>` or `groups/<id>`, and what is asked of it.
fn operation(method: &str, path: &str) -> Option<(String, Call)> {
    let path = path.rsplit_once("://").map_or(path, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    let parts: Vec<&str> = path.strip_prefix("/rest/")?.split('/').collect();
    let [kind @ ("orgs" | "groups"), id, rest @ ..] = parts.as_slice() else { return None };
    let call = match (method, rest) {
        ("POST", ["export"]) => Call::Start,
        ("GET", ["jobs", "export", export] | ["export", "jobs", export]) => {
            Call::Status((*export).to_owned())
        }
        ("GET", ["export", export]) => Call::Results((*export).to_owned()),
        _ => return None,
    };
    Some((format!("{kind}/{id}"), call))
}

/// The normal answer.
fn call(shared: &Shared, seen: &Seen, now: u64) -> Response<Body> {
    let given: Vec<&str> = seen.header("authorization");
    let [given] = given.as_slice() else {
        return error(401, "Unauthorized", "Exactly one Authorization is needed.");
    };
    let token = given
        .split_once(' ')
        .filter(|(scheme, _)| ["token", "bearer"].contains(&&*scheme.to_ascii_lowercase()));
    if !token.is_some_and(|(_, token)| shared.stage().accepts(token, now)) {
        return error(401, "Unauthorized", "The token is not valid.");
    }
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let Some((scope, call)) = operation(&seen.method, path) else {
        return answers::respond(
            200,
            "application/json",
            json!({"ok": true, "method": seen.method}).to_string(),
        );
    };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    if pairs
        .iter()
        .any(|(name, _)| !["version", "include_deleted", "include_deactivated"].contains(&name.as_str()))
    {
        return error(400, "Bad request", "Unknown query parameter.");
    }
    let Some((_, version)) =
        pairs.iter().find(|(name, version)| name == "version" && version.starts_with("20"))
    else {
        return error(400, "Bad request", "Invalid or missing version.");
    };
    let time = rfc3339(now);
    match call {
        Call::Start => {
            let wish = serde_json::from_slice::<Value>(&seen.body).ok();
            let seconds = wish.and_then(|body| body["data"]["attributes"]["url_expiration_seconds"].as_u64());
            match shared.stage().start(&scope, now, seconds) {
                Ok(export) => answers::started(&scope, &export, (&time, version)),
                Err(retry_after) => {
                    let mut response = error(429, "Too many requests", "20 exports an hour.");
                    set(response.headers_mut(), "retry-after", &retry_after.to_string());
                    response
                }
            }
        }
        Call::Status(export) => found(shared, (&scope, &export), true, (now, &time)),
        Call::Results(export) => found(shared, (&scope, &export), false, (now, &time)),
    }
}

fn found(
    shared: &Shared,
    (scope, export): (&str, &str),
    is_status: bool,
    (now, time): (u64, &str),
) -> Response<Body> {
    let state = shared.stage().poll(scope, export, is_status, now);
    match state {
        None => error(404, "Not found", "No such export."),
        Some(State::Word(word)) => answers::export(scope, export, (&word, time), None),
        Some(State::Raw { status, headers, body }) => {
            let mut response = Response::new(answers::full(body));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
            for (name, value) in headers {
                set(response.headers_mut(), &name, &value);
            }
            response
        }
        Some(State::Finished | State::Scripted) if is_status => {
            answers::export(scope, export, ("FINISHED", time), None)
        }
        Some(State::Finished | State::Scripted) => {
            answers::export(scope, export, ("FINISHED", time), Some(results(shared, (scope, export), now)))
        }
    }
}

/// Freshly signed links to every part.
fn results(shared: &Shared, (scope, export): (&str, &str), now: u64) -> Vec<Value> {
    let mut stage = shared.stage();
    let form = stage.script.link_form;
    if form == LinkForm::NoLinks {
        return Vec::new();
    }
    if form == LinkForm::EmptyObjects {
        return vec![json!({})];
    }
    (0..stage.script.parts)
        .map(|part| {
            let path = format!("/files/{export}/data_1_{}_0.csv", part + 1);
            let seconds = stage.link_seconds(scope, export, part);
            let (query, signature) = links::sign(&stage.key, form, &path, (now / 1_000, seconds));
            stage.keep_signature(signature);
            json!({"url": format!("{}{path}?{query}", shared.base), "file_size": answers::CSV.len(), "row_count": 3})
        })
        .collect()
}

fn file(shared: &Shared, parts: &http::request::Parts) -> Response<Body> {
    let mut stage = shared.stage();
    stage.hits.file += 1;
    if parts.method != Method::GET || parts.headers.contains_key("authorization") {
        return answers::bucket_error(400, "InvalidArgument");
    }
    let now = now_ms(stage.clock_offset) / 1_000;
    match links::check(&stage.key, parts.uri.path(), parts.uri.query().unwrap_or_default(), now) {
        Ok(()) => answers::respond(200, "text/csv", answers::CSV),
        Err(code) => answers::bucket_error(403, code),
    }
}

fn rfc3339(ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

fn standard_fields(response: &mut Response<Body>, seen: &Seen, now: u64) {
    let own = seen.header("snyk-request-id").first().and_then(|id| Uuid::try_parse(id).ok());
    let version =
        seen.target.split_once("version=").map_or("", |(_, rest)| rest.split('&').next().unwrap_or(""));
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(now));
    let fields = response.headers_mut();
    set(fields, "snyk-request-id", &own.unwrap_or_else(Uuid::new_v4).to_string());
    set(fields, "snyk-version-requested", version);
    set(fields, "snyk-version-served", "2024-10-15");
    set(fields, "snyk-version-lifecycle-stage", "ga");
    set(fields, "date", &date);
}

/// Lets a fault do its work on the normal answer.
async fn spoil(fault: Fault, response: Response<Body>, switch: &Switch) -> Result<Response<Body>, BoxError> {
    let raw = |bytes: &[u8], endless| switch.replace_answer(Raw { bytes: bytes.to_vec(), endless });
    let mut response = response;
    match fault {
        Fault::Delay(time) => tokio::time::sleep(time).await,
        Fault::Status(status) => response = renewed(&response, error(status, "Fault", "The fake was told to.")),
        Fault::TooManyRequests { retry_after } => {
            response = renewed(&response, error(429, "Too many requests", "The fake was told to."));
            set(response.headers_mut(), "retry-after", &retry_after.to_string());
        }
        Fault::Reset => return Err("told to reset".into()),
        Fault::ResetMidBody => *response.body_mut() = cut(response.headers_mut(), false),
        Fault::HangMidBody => *response.body_mut() = cut(response.headers_mut(), true),
        Fault::Hang => std::future::pending::<()>().await,
        Fault::Garbage => raw(b"\x15\x03\x01 this is no HTTP\r\n\r\n", false),
        Fault::EndlessContinue => raw(b"HTTP/1.1 100 Continue\r\n\r\n", true),
        Fault::SwitchingProtocols => raw(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", false),
        Fault::BadChunk => raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
        Fault::Oversize(size) => {
            let text = format!("{{\"data\":{{\"attributes\":{{\"status\":\"FINISHED\",\"x\":\"{}\"}}}}}}", "x".repeat(size));
            response = renewed(&response, answers::respond(200, "application/vnd.api+json", text));
        }
        Fault::Html => response = renewed(&response, answers::respond(200, "text/html", "<html>maintenance</html>")),
        Fault::Redirect(to) => {
            response = renewed(&response, answers::respond(303, "text/plain", ""));
            set(response.headers_mut(), "location", &to);
        }
        Fault::BigHeaders(size) => set(response.headers_mut(), "x-big", &"x".repeat(size)),
        Fault::Gzip => {
            set(response.headers_mut(), "content-encoding", "gzip");
            *response.body_mut() = answers::full(&b"\x1f\x8b\x08 not really"[..]);
        }
        Fault::ExtraHeader(name, value) => set(response.headers_mut(), &name, &value),
        Fault::ReplaceHeader(name, value) => {
            response.headers_mut().remove(&name);
            set(response.headers_mut(), &name, &value);
        }
    }
    Ok(response)
}

/// `new` with the standard fields of `old`.
fn renewed(old: &Response<Body>, mut new: Response<Body>) -> Response<Body> {
    for name in [
        "snyk-request-id",
        "snyk-version-requested",
        "snyk-version-served",
        "snyk-version-lifecycle-stage",
        "date",
    ] {
        if let Some(value) = old.headers().get(name) {
            new.headers_mut().insert(name, value.clone());
        }
    }
    new
}

/// The beginning of a body that announces more; then nothing, or the end of the connection.
fn cut(fields: &mut http::HeaderMap, hangs: bool) -> Body {
    set(fields, "content-length", "1000");
    let begun = stream::iter([Ok(Frame::data(Bytes::from_static(
        b"{\"data\":{\"attributes\":{\"status\":\"FINISHED\"",
    )))]);
    if hangs {
        BodyExt::boxed_unsync(StreamBody::new(begun.chain(stream::pending())))
    } else {
        // Time for what was begun to leave before the connection goes.
        let end = stream::once(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(BoxError::from("told to break off"))
        });
        BodyExt::boxed_unsync(StreamBody::new(begun.chain(end)))
    }
}
