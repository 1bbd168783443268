//! `exportgate check --live`: one cheap request with the value of each slot checks token, region and clock.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER, USER_AGENT};
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{Either, Full};
use serde_json::Value;

use super::CommandError;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::{Credential, Credentials, NoValue};
use crate::error_text::error_text;
use crate::gateway::advice_on;
use crate::journal::{self, Attempt, Journal};
use crate::shared::{self, Finding, Judgement};
use crate::transport::Memory;
use crate::upstream::{Upstream, UpstreamAnswer, UpstreamError, UpstreamRequest};

/// The owner of the credential: a request that needs no rights, and costs Snyk next to nothing.
const TARGET: &str = "/rest/self?version=2024-10-15";
/// A larger difference is printed: Snyk's clock signs links.
const SKEW: Duration = Duration::from_secs(30);

/// The line about a slot: `Ok` if its value is good.
type SlotVerdict = Result<String, String>;

struct Check {
    upstream: Upstream,
    journal: Journal,
    clock: Clock,
}

/// Sends one request for each slot and prints a line about it. Gives `true` where the active slots are all good.
pub(super) async fn run(config: Config, out: &mut (dyn Write + Send)) -> Result<bool, CommandError> {
    let failed =
        |what| move |error: Box<dyn std::error::Error + Send + Sync>| CommandError::Other(what, error);
    let clock = Clock::system();
    let (credentials, _) =
        Credentials::open(config.credential, &clock).map_err(|error| failed("a credential")(error.into()))?;
    let memory = Memory::new(config.listener.max_buffered, config.upstream.max_answer);
    memory.set(config.admission.rest.max_wait, config.admission.rest.several_clients);
    let upstream =
        Upstream::new(&config.upstream, memory).map_err(|error| failed("the upstream")(error.into()))?;
    let ship = config.journal.ship.clone();
    let check = Check { upstream, journal: Journal::open(config.journal, clock.clone()), clock };
    let mut all_good = true;
    for finding in examined(config.shared.as_ref(), &check.clock).await {
        let (what, text) = (finding.what, finding.text);
        let word = match finding.judgement {
            Judgement::Good => "",
            Judgement::Warning => "WARNING: ",
            Judgement::Bad => "BAD: ",
        };
        all_good &= finding.judgement != Judgement::Bad;
        writeln!(out, "shared engine, {what}: {word}{text}")
            .map_err(|error| failed("cannot write")(error.into()))?;
    }
    if let Some(ship) = &ship {
        let looked = journal::look_at(ship).await;
        all_good &= looked.is_ok();
        let text = looked.unwrap_or_else(|bad| format!("BAD: {bad}"));
        writeln!(out, "journal in one place: {text}")
            .map_err(|error| failed("cannot write")(error.into()))?;
    }
    for credential in &*credentials.all() {
        for (at, slot) in credential.status(check.clock.now()).iter().enumerate() {
            let verdict = check.slot(credential, at).await;
            all_good &= verdict.is_ok() || at > 0;
            let (Ok(text) | Err(text)) = verdict;
            writeln!(out, "{} {}: {text}", credential.name, slot.slot)
                .map_err(|error| failed("cannot write")(error.into()))?;
        }
    }
    check.journal.close().await;
    Ok(all_good)
}

async fn examined(settings: Option<&shared::Settings>, clock: &Clock) -> Vec<Finding> {
    match settings {
        Some(settings) => shared::examine(settings, clock).await,
        None => Vec::new(),
    }
}

impl Check {
    async fn slot(&self, credential: &Credential, slot: usize) -> SlotVerdict {
        match credential.try_slot(slot).await {
            Ok(field) => self.request(credential, field).await,
            Err(error @ NoValue::Awaited(_)) => Err(format!("{error}: not asked")),
            Err(error @ NoValue::Unusable { .. }) => {
                Err(format!("{}: not asked; fix the file", error_text(&error)))
            }
            Err(error @ NoValue::NoAccessToken(_)) => Err(format!(
                "{}: not asked; check client_id, client_secret_file and token_url",
                error_text(&error)
            )),
        }
    }

    async fn request(&self, credential: &Credential, authorization: HeaderValue) -> SlotVerdict {
        let Self { upstream, journal, clock } = self;
        let sent = clock.now();
        let root = upstream.root().to_string();
        let mut attempt = Attempt::new(sent.wall, root.as_str().into(), Arc::clone(&credential.name));
        let sent_id = attempt.id;
        let mut fields = HeaderMap::new();
        fields.insert(ACCEPT, HeaderValue::from_static("application/vnd.api+json"));
        fields
            .insert(USER_AGENT, HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION"))));
        fields.insert(AUTHORIZATION, authorization);
        if let Ok(id) = HeaderValue::try_from(sent_id.to_string()) {
            fields.insert("snyk-request-id", id);
        }
        let body = Either::Left(Full::default());
        let request = UpstreamRequest { method: Method::GET, target: TARGET.to_owned(), fields, body };
        let answer = upstream.ask(request, &credential.name, sent).await;
        let received = clock.now();
        attempt.latency = received.mono.saturating_duration_since(sent.mono);
        let verdict = match &answer {
            Ok(answer) => {
                attempt.status = Some(answer.status.as_u16());
                attempt.received_id = plain(&answer.fields, "snyk-request-id").map(str::to_owned);
                attempt.version_served = plain(&answer.fields, "snyk-version-served").map(str::to_owned);
                judge(answer, &root, received.wall)
            }
            Err(failed) => {
                attempt.error = Some(failed.kind.as_str());
                unanswered(failed, &root)
            }
        };
        let id = match &attempt.received_id {
            Some(id) => format!("snyk-request-id {id}"),
            None => format!("sent snyk-request-id {sent_id}"),
        };
        let recorded = if journal.record(attempt, Vec::new()).await.is_ok() { "" } else { ", not recorded" };
        let with_id = |text: String| format!("{text} [{id}{recorded}]");
        verdict.map(with_id).map_err(with_id)
    }
}

fn unanswered(failed: &UpstreamError, root: &str) -> SlotVerdict {
    let cause = failed.source.as_deref().map_or_else(String::new, |cause| format!(": {}", error_text(cause)));
    let kind = failed.kind.as_str();
    Err(format!("no answer from {root} ({kind}{cause}). {}", advice_on(failed.kind)))
}

/// Reads an answer for token, version and clock. A proxy or a sign-in page may answer in Snyk's place, with any status, and
/// that says nothing about them.
fn judge(answer: &UpstreamAnswer, root: &str, now: SystemTime) -> SlotVerdict {
    let (status, fields) = (answer.status, &answer.fields);
    let code = status.as_u16();
    let kind = plain(fields, CONTENT_TYPE.as_str()).unwrap_or("no media type");
    let elsewhere =
        format!("something else answers in its place: check upstream.url ({root}) and HTTPS_PROXY");
    if status.is_redirection() {
        let location = fields.get(LOCATION).and_then(|place| place.to_str().ok()?.parse::<Uri>().ok());
        let to = location.as_ref().and_then(Uri::host).map_or_else(String::new, |host| format!(" to {host}"));
        return Err(format!("{code}, a redirect{to}, and Snyk's API gives none: {elsewhere}"));
    }
    if status.is_success() {
        return if names_an_owner(answer) {
            Ok(format!("{code}, the token is good{}", version_and_clock(fields, now)))
        } else {
            let document = if is_json(fields) { "JSON without an owner of the token" } else { kind };
            Err(format!("{code}, but not from Snyk's API ({document}): {elsewhere}"))
        };
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        let wait = plain(fields, RETRY_AFTER.as_str()).unwrap_or("60");
        return Err(format!(
            "{code}, the rate limit is used up: the token was not looked at; try again after {wait} s"
        ));
    }
    if fields.get("snyk-request-id").is_none() && !is_error_document(answer) {
        let edge = if status.is_server_error() { "Snyk's edge, or " } else { "" };
        return Err(format!(
            "{code}, but not from Snyk's API ({kind}, no snyk-request-id): {edge}{elsewhere}"
        ));
    }
    let text = match status {
        StatusCode::UNAUTHORIZED => {
            format!("{code}, refused: the token is wrong, or belongs to another region than {root}")
        }
        StatusCode::FORBIDDEN => format!(
            "{code}, refused: Snyk knows the token, and its account may not use the API: check its role and plan"
        ),
        StatusCode::NOT_FOUND => {
            format!(
                "Snyk answered {code}: it has no such call there: check the path of upstream.url ({root})"
            )
        }
        status if status.is_server_error() => format!(
            "Snyk answered {status}: a failure of its own, and no word on the token; try again, then see https://status.snyk.io"
        ),
        status => format!("Snyk answered {status}, and no word on the token: check upstream.url ({root})"),
    };
    Err(format!("{text}{}", version_and_clock(fields, now)))
}

fn version_and_clock(fields: &HeaderMap, now: SystemTime) -> String {
    let served = plain(fields, "snyk-version-served");
    let served = served.map_or_else(String::new, |served| format!(", version {served} served"));
    let date = fields.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    let clock = match date.map(|theirs| (now.duration_since(theirs), theirs.duration_since(now))) {
        Some((Ok(by), _)) if by > SKEW => format!(", this clock is {} ahead of Snyk's", short(by)),
        Some((_, Ok(by))) if by > SKEW => format!(", this clock is {} behind Snyk's", short(by)),
        Some(_) => ", clocks agree".to_owned(),
        None => String::new(),
    };
    format!("{served}{clock}")
}

/// It is the document that Snyk gives for the owner of a token (JSON:API 1.0 §7.2).
fn names_an_owner(answer: &UpstreamAnswer) -> bool {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    is_json(&answer.fields) && document["data"]["id"].is_string() && document["data"]["type"].is_string()
}

/// It is a document of errors (JSON:API 1.0 §11).
fn is_error_document(answer: &UpstreamAnswer) -> bool {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    is_json(&answer.fields) && document["errors"].is_array()
}

fn is_json(fields: &HeaderMap) -> bool {
    let kind = plain(fields, CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/vnd.api+json", "application/json"].iter().any(|json| kind.eq_ignore_ascii_case(json))
}

/// A field, where it is so plain that a terminal can show it.
fn plain<'f>(fields: &'f HeaderMap, name: &str) -> Option<&'f str> {
    let is_plain = |text: &&str| {
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-~. /+;=_".contains(&b))
    };
    fields.get(name).and_then(|value| value.to_str().ok()).filter(is_plain)
}

fn short(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Room;

    #[test]
    fn a_200_is_good_only_with_the_document_of_an_owner() {
        let judged = |kind: &str, body: &str| {
            let kind = HeaderValue::from_str(kind).expect("a field");
            let fields = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
            let (body, reservation) = (body.to_owned().into(), Room::default());
            let answer = UpstreamAnswer { status: StatusCode::OK, fields, body, reservation };
            judge(&answer, "https://api.snyk.io", SystemTime::UNIX_EPOCH)
        };
        let owner = r#"{"jsonapi":{"version":"1.0"},"data":{"type":"user","id":"1","attributes":{}}}"#;
        for kind in
            ["application/vnd.api+json", "application/vnd.api+json; charset=utf-8", "Application/JSON"]
        {
            assert!(judged(kind, owner).is_ok(), "{kind}");
        }
        for (kind, body, text) in [
            ("text/html; charset=utf-8", "<html>", "(text/html; charset=utf-8)"),
            ("text/html", owner, "(text/html)"),
            ("application/json", "{}", "(JSON without an owner of the token)"),
            ("application/vnd.api+json", r#"{"data":[]}"#, "(JSON without an owner of the token)"),
            ("application/vnd.api+json", "<html>", "(JSON without an owner of the token)"),
            ("\"; x=\"y", "", "(no media type)"),
        ] {
            let verdict = judged(kind, body);
            assert!(verdict.as_ref().is_err_and(|found| found.contains(text)), "{kind} {verdict:?}");
        }
    }
}
