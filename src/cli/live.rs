//! `exportgate check --live`: one cheap call with each credential tells whether token, region and clock are right.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, AUTHORIZATION, DATE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{Either, Full};
use uuid::Uuid;

use super::Failure;
use crate::clock::Clock;
use crate::config::Config;
use crate::credential::{Credential, Credentials};
use crate::journal::{Attempt, Journal};
use crate::shutdown::Shutdown;
use crate::upstream::{Outgoing, Upstream};

/// Who the credential belongs to: needs no rights, and costs Snyk next to nothing.
const TARGET: &str = "/rest/self?version=2024-10-15";
/// More than this is worth a word: links are signed by Snyk's clock.
const SKEW: Duration = Duration::from_secs(30);

/// Asks with each credential and says what came; whether all are good.
pub(super) async fn run(config: Config, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
    let failed = |what| move |error: Box<dyn std::error::Error + Send + Sync>| Failure::Other(what, error);
    let (clock, shutdown) = (Clock::system(), Shutdown::new());
    let (credentials, following) =
        Credentials::open(config.credential, &clock).map_err(|error| failed("a credential")(error.into()))?;
    let upstream = Upstream::new(&config.upstream, &config.sparing, &credentials.names())
        .map_err(|error| failed("the upstream")(error.into()))?;
    let journal = Journal::open(config.journal, clock.clone());
    for following in following {
        shutdown.spawn_helper(following.run());
    }
    let mut all_good = true;
    for credential in &*credentials.all() {
        let (good, told) = ask(credential, &upstream, &journal, &clock).await;
        all_good &= good;
        writeln!(out, "{}: {told}", credential.name).map_err(|error| failed("cannot write")(error.into()))?;
    }
    journal.close().await;
    Ok(all_good)
}

async fn ask(
    credential: &Credential,
    upstream: &Upstream,
    journal: &Journal,
    clock: &Clock,
) -> (bool, String) {
    let Ok(presented) = credential.present_unlocked(clock.now()).await else {
        return (false, "its token endpoint gives no access token".to_owned());
    };
    let sent_id = Uuid::new_v4();
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, HeaderValue::from_static("application/vnd.api+json"));
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("exportgate/", env!("CARGO_PKG_VERSION"))));
    fields.insert(AUTHORIZATION, presented.field.clone());
    if let Ok(id) = HeaderValue::try_from(sent_id.to_string()) {
        fields.insert("snyk-request-id", id);
    }
    let sent = clock.now();
    let body = Either::Left(Full::default());
    let answer =
        upstream.ask(Outgoing { method: Method::GET, target: TARGET.to_owned(), fields, body }).await;
    let received = clock.now();
    let mut attempt =
        Attempt::new(sent.wall, (upstream.root().to_string().into(), Arc::clone(&credential.name)), sent_id);
    attempt.latency = received.mono.saturating_duration_since(sent.mono);
    let told = match answer {
        Ok(answer) => {
            attempt.status = Some(answer.status.as_u16());
            (answer.status.is_success(), judge(answer.status, &answer.fields, received.wall))
        }
        Err(error) => {
            attempt.error = Some(error.kind.as_str());
            let cause = error
                .source
                .as_deref()
                .map_or_else(String::new, |cause| format!(": {}", crate::chain::chain(cause)));
            (false, format!("no answer from {} ({}{cause})", upstream.root(), error.kind.as_str()))
        }
    };
    match journal.record(attempt, Vec::new()).await {
        Ok(()) => (told.0, format!("{} [snyk-request-id {sent_id}]", told.1)),
        Err(_) => (told.0, format!("{} [snyk-request-id {sent_id}, not recorded]", told.1)),
    }
}

/// What an answer says about token, version and clock.
fn judge(status: StatusCode, answer: &HeaderMap, now: SystemTime) -> String {
    let text = |name: &str| {
        let plain = |text: &&str| {
            text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-~. ".contains(&b))
        };
        answer.get(name).and_then(|value| value.to_str().ok()).filter(plain)
    };
    let verdict = match status {
        StatusCode::UNAUTHORIZED => "refused: the token is wrong, or belongs to another region",
        StatusCode::FORBIDDEN => "the token is known, but may not do this",
        StatusCode::TOO_MANY_REQUESTS => "the rate limit is used up: the token was not looked at",
        status if status.is_success() => "the token is good",
        _ => "not what Snyk's API answers: check upstream.url",
    };
    let served =
        text("snyk-version-served").map_or_else(String::new, |served| format!(", version {served} served"));
    let date = answer.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    let clock = match date.map(|theirs| (now.duration_since(theirs), theirs.duration_since(now))) {
        Some((Ok(by), _)) if by > SKEW => format!(", this clock is {} ahead of Snyk's", short(by)),
        Some((_, Ok(by))) if by > SKEW => format!(", this clock is {} behind Snyk's", short(by)),
        Some(_) => ", clocks agree".to_owned(),
        None => String::new(),
    };
    format!("{}, {verdict}{served}{clock}", status.as_u16())
}

fn short(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}
