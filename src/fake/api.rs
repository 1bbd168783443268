//! How each call is answered: by the stage, then by its faults.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answers::{self, Body, BoxError, ExportDocument, Table, error, set};
use super::script::{JobStatus, Stage, State};
use super::spoil::{Site, spoil};
use super::store::{self, Listing, total_rows};
use super::target::{Call, Operation};
use super::wire::Switch;
use super::{Fault, Seen, Shared};

#[expect(clippy::disallowed_methods, reason = "the fake has a clock of its own")]
pub(super) fn now_ms(offset: i64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0).saturating_add_signed(offset * 1_000)
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    switch: Switch,
    stream: u32,
    request: Request<Incoming>,
) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers = parts.headers.iter();
    let seen = Seen {
        at: std::time::Instant::now(),
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: headers
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect(),
        body,
        version: parts.version,
    };
    if seen.path().starts_with("/files/") {
        return store::respond(shared, switch, seen).await;
    }
    let (mut response, faults, time) = if seen.path() == "/oauth2/token" {
        let mut stage = shared.stage();
        let now = now_ms(stage.clock_offset);
        (token(&mut stage, &seen.body, now), stage.next_token_faults(), rfc3339(now))
    } else {
        called(&shared, &seen).await
    };
    let site = Site { seen: &seen, switch: &switch, stream, time: &time };
    for fault in faults {
        response = spoil(fault, response, &site).await?;
    }
    Ok(response)
}

/// The normal answer to a call, its faults, and the time.
async fn called(shared: &Shared, seen: &Seen) -> (Response<Body>, Vec<Fault>, String) {
    let (faults, now, admitted) = {
        let mut stage = shared.stage();
        let now = now_ms(stage.clock_offset);
        stage.note(seen);
        (stage.next_faults(seen), now, stage.admit(now))
    };
    shared.api_hits.send_modify(|hits| *hits += 1);
    let mut held = shared.held.subscribe();
    let _ = held.wait_for(|held| *held == 0).await;

    let mut response = if admitted {
        call(shared, seen, now)
    } else {
        error(429, "Too many requests", "Stop for a minute.")
    };
    if !admitted {
        set(response.headers_mut(), "retry-after", "60");
    }
    standard_fields(&mut response, seen, &shared.stage(), now);
    (response, faults, rfc3339(now))
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
    if seen.path() == "/rest/self" {
        let owner =
            json!({"type": "user", "id": Uuid::from_u128(1).to_string(), "attributes": {"name": "Fake"}});
        return answers::document(200, &json!({"jsonapi": {"version": "1.0"}, "data": owner}));
    }
    let Some(call) = Call::of(seen) else {
        return answers::respond(
            200,
            "application/json",
            json!({"ok": true, "method": seen.method}).to_string(),
        );
    };
    let known = ["version", "include_deleted", "include_deactivated"];
    if seen.query().iter().any(|(name, _)| !known.contains(&name.as_str())) {
        return error(400, "Bad request", "Unknown query parameter.");
    }
    if !seen.requested_version().starts_with("20") {
        return error(400, "Bad request", "Invalid or missing version.");
    }
    match call.export() {
        None => start(shared, &call.scope, seen, now),
        Some(export) => found(shared, &call, export, seen, now),
    }
}

fn start(shared: &Shared, scope: &str, seen: &Seen, now: u64) -> Response<Body> {
    let body = serde_json::from_slice::<Value>(&seen.body).unwrap_or_default();
    let attributes = &body["data"]["attributes"];
    let mut stage = shared.stage();
    if !stage.script.accept_any_start && !has_date_filter(attributes) {
        return error(400, "Bad request", "At least one date filter is needed: introduced or updated.");
    }
    match stage.start(scope, now, attributes["url_expiration_seconds"].as_u64()) {
        Ok(export) => answers::started(scope, &export, &seen.requested_version(), &rfc3339(now)),
        Err(retry_after) => {
            let mut response = error(429, "Too many requests", "20 exports an hour.");
            set(response.headers_mut(), "retry-after", &retry_after.to_string());
            response
        }
    }
}

/// Snyk wants one of two date filters; its schema does not say so, its documentation does.
fn has_date_filter(attributes: &Value) -> bool {
    let is_set = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    ["introduced", "updated"].iter().any(|name| {
        let range = &attributes["filters"][name];
        is_set(&range["from"]) || is_set(&range["to"])
    })
}

/// The answer to a GET of an export.
fn found(shared: &Shared, call: &Call, id: &str, seen: &Seen, now: u64) -> Response<Body> {
    let (scope, is_job) = (call.scope.as_str(), matches!(call.operation, Operation::JobStatus(_)));
    let (state, job_status) = {
        let mut stage = shared.stage();
        (stage.poll(scope, id, is_job, now), stage.script.job_status)
    };
    let (version, time) = (seen.requested_version(), rfc3339(now));
    let document =
        |status, table| ExportDocument { scope, id, version: &version, status, time: &time, table }.respond();
    match state {
        None => error(404, "Not found", "No such export."),
        Some(State::Word(word)) => document(&word, None),
        Some(State::Raw { status, headers, body }) => {
            let mut response = Response::new(answers::full(body));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
            for (name, value) in headers {
                set(response.headers_mut(), &name, &value);
            }
            response
        }
        Some(State::Finished | State::Scripted) => match (job_status, is_job) {
            (JobStatus::Plain, true) => document("FINISHED", None),
            (JobStatus::Redirect, true) => {
                let mut response = answers::respond(303, "application/vnd.api+json", "");
                let results = format!("/rest/{scope}/export/{id}?version={version}");
                set(response.headers_mut(), "location", &results);
                response
            }
            (JobStatus::Inline, _) | (_, false) => {
                let listing = Listing { base: &shared.base, scope, export: id, now: now / 1_000 };
                let results = listing.results(&mut shared.stage());
                let rows = total_rows(&shared.stage().script.store);
                document("FINISHED", Some(Table { rows, results }))
            }
        },
    }
}

fn rfc3339(ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// The token endpoint (RFC 6749 §4.4), for any client with the one secret.
fn token(stage: &mut Stage, body: &[u8], now: u64) -> Response<Body> {
    stage.hits.token += 1;
    let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    let value = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let known =
        stage.script.oauth_secret.is_some() && value("client_secret") == stage.script.oauth_secret.as_deref();
    let refused = |code| answers::respond(401, "application/json", json!({"error": code}).to_string());
    if value("grant_type") != Some("client_credentials") {
        return refused("unsupported_grant_type");
    }
    if !known || value("client_id").is_none() {
        return refused("invalid_client");
    }
    let (access_token, life) = (stage.issue(now), stage.script.token_seconds);
    let document = json!({"access_token": access_token, "token_type": "bearer", "expires_in": life});
    answers::respond(200, "application/json", document.to_string())
}

/// What Snyk, and the edge before it, put on every answer.
fn standard_fields(response: &mut Response<Body>, seen: &Seen, stage: &Stage, now: u64) {
    let own = seen.header("snyk-request-id").first().and_then(|id| Uuid::try_parse(id).ok());
    let said = now.saturating_add_signed(stage.script.date_offset * 1_000);
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(said));
    let fields = response.headers_mut();
    set(fields, "snyk-request-id", &own.unwrap_or_else(Uuid::new_v4).to_string());
    set(fields, "snyk-version-requested", &seen.requested_version());
    set(fields, "snyk-version-served", "2024-10-15");
    set(fields, "snyk-version-lifecycle-stage", "ga");
    set(fields, "date", &date);
    if stage.script.edge_fields {
        set(fields, "etag", &format!("W/\"{}\"", Uuid::new_v4().simple()));
        set(fields, "expires", &date);
        set(fields, "server", "envoy");
        set(fields, "vary", "Origin, Accept-Encoding");
    }
    if let Some((remaining, most)) = stage.remaining() {
        set(fields, "x-ratelimit-limit", &format!("{most}, {most};w=60;name=\"fake\""));
        set(fields, "x-ratelimit-remaining", &remaining.to_string());
        set(fields, "x-ratelimit-reset", "60");
    }
}
