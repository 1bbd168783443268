//! Access tokens for a service account (OAuth 2.0 client credentials, RFC 6749 §4.4).
//!
//! One task fetches a token, renews it before it expires, and retries with exponential backoff. Requests only
//! read the current token; those that come before the first token wait for it. A token is never used past its
//! expiry by either clock.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{Either, Full};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::settings::OAuthSettings;
use super::{BadCredential, Scheme, Unavailable, parse};
use crate::clock::{Clock, Now};
use crate::transport::{self, FetchError, HttpClient};
use crate::watched_file::{self, Unreadable};

/// Longest wait for the token endpoint.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest that a request waits for the first token.
const WAIT: Duration = Duration::from_secs(10);
/// Shortest time between two requests to the token endpoint.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Largest response of a token endpoint, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Lifetime of a token without `expires_in` (RFC 6749 §5.1 only recommends it).
const DEFAULT_LIFE: Duration = Duration::from_mins(5);
/// Longest lifetime; a longer `expires_in` is cut.
const MAX_LIFE: Duration = Duration::from_hours(24);

/// An OAuth client and its current token.
#[derive(Debug)]
pub(super) struct OAuth {
    client: HttpClient,
    settings: OAuthSettings,
    clock: Clock,
    state: watch::Sender<TokenState>,
    /// Starts a fetch before its time.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct TokenState {
    token: Option<AccessToken>,
    /// Counts tokens.
    generation: u64,
    /// Counts fetches.
    tries: u64,
    /// The next fetch, after a failure.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct AccessToken {
    field: HeaderValue,
    fetched: Instant,
    ends: Now,
    life: Duration,
}

impl AccessToken {
    fn is_good(&self, now: Now) -> bool {
        now.wall < self.ends.wall && now.mono < self.ends.mono
    }
}

/// Fetching a token failed. It never shows the response.
#[derive(Debug, thiserror::Error)]
enum NoToken {
    #[error(transparent)]
    Secret(#[from] Unreadable),
    #[error("the client secret")]
    BadSecret(#[source] BadCredential),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the token endpoint refused with {status} ({error})")]
    Refused { status: StatusCode, error: &'static str },
    #[error("the token endpoint's response is not a token response (RFC 6749 section 5.1)")]
    BadAnswer,
    #[error("the access token")]
    BadToken(#[source] BadCredential),
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: String,
    expires_in: Option<Value>,
}

/// The lifetime in `expires_in` (RFC 6749 §5.1). Some endpoints send the number as text, or with a fraction.
fn life(expires_in: Option<&Value>) -> Option<Duration> {
    let Some(value) = expires_in else { return Some(DEFAULT_LIFE) };
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let seconds: f64 = seconds.filter(|seconds: &f64| seconds.is_finite())?;
    let life = Duration::try_from_secs_f64(seconds.min(MAX_LIFE.as_secs_f64())).ok()?;
    Some(life).filter(|life| !life.is_zero())
}

impl OAuth {
    pub(super) fn new(client: HttpClient, settings: OAuthSettings, clock: Clock) -> Self {
        watched_file::report_exposed(&settings.secret_file);
        Self { client, settings, clock, state: watch::Sender::default(), wanted: Notify::new() }
    }

    /// Renews the token again and again; never ends.
    pub(super) async fn run(&self) {
        let pauses = || {
            let growing = ExponentialBuilder::default().with_min_delay(PAUSE).with_max_delay(MAX_PAUSE);
            growing.without_max_times().with_jitter().build()
        };
        let (mut backoff, mut failing) = (pauses(), false);
        loop {
            let began = self.clock.now().mono;
            let pause = match self.fetch().await {
                Ok(token) => {
                    tracing::info!(
                        oauth.client_id = %self.settings.client_id,
                        token.life_s = token.life.as_secs(),
                        "access token fetched"
                    );
                    (backoff, failing) = (pauses(), false);
                    // Between 70 and 80 percent of its life, so that many gateways do not come at once.
                    let pause = token.life.mul_f64(0.8 - 0.1 * fastrand::f64()).max(PAUSE);
                    self.state.send_modify(|state| {
                        state.token = Some(token);
                        state.generation += 1;
                        state.tries += 1;
                        state.retry_at = None;
                    });
                    pause
                }
                Err(error) => {
                    let pause = backoff.next().unwrap_or(MAX_PAUSE).min(MAX_PAUSE);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            oauth.client_id = %self.settings.client_id,
                            error = crate::error_text::error_text(&error),
                            "fetching an access token failed; retrying"
                        );
                    }
                    self.state.send_modify(|state| {
                        state.tries += 1;
                        state.retry_at = Some(self.clock.now().mono + pause);
                    });
                    pause
                }
            };
            // A request for a newer token does not cut the backoff short.
            if failing {
                sleep(pause).await;
            } else {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.wanted.notified() => sleep_until((began + PAUSE).into()).await,
                }
            }
        }
    }

    /// The `Authorization` field and the generation of its token.
    pub(super) async fn present(&self, now: Now) -> Result<(HeaderValue, u64), Unavailable> {
        let mut state = self.state.subscribe();
        let failed = |state: &TokenState| state.retry_at.filter(|at| *at > self.clock.now().mono);
        let settled = |state: &TokenState| {
            state.token.as_ref().is_some_and(|token| token.is_good(now)) || failed(state).is_some()
        };
        let Ok(Ok(state)) = timeout(WAIT, state.wait_for(settled)).await else {
            return Err(Unavailable::NoToken { retry_after: PAUSE });
        };
        if let Some(token) = state.token.as_ref().filter(|token| token.is_good(now)) {
            return Ok((token.field.clone(), state.generation));
        }
        let retry_after =
            failed(&state).map_or(PAUSE, |at| at.saturating_duration_since(self.clock.now().mono));
        Err(Unavailable::NoToken { retry_after })
    }

    /// The token's age and the time until it expires.
    pub(super) fn life(&self, now: Now) -> Option<(Duration, Duration)> {
        let state = self.state.borrow();
        let token = state.token.as_ref()?;
        Some((
            now.mono.saturating_duration_since(token.fetched),
            token.ends.mono.saturating_duration_since(now.mono),
        ))
    }

    pub(super) fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// Waits for a token newer than `generation`, or for a failed fetch.
    pub(super) async fn newer(&self, generation: u64) {
        let mut state = self.state.subscribe();
        let (tries, is_failing) = {
            let state = state.borrow_and_update();
            (state.tries, state.retry_at.is_some())
        };
        if self.generation() == generation && !is_failing {
            self.wanted.notify_one();
            let ended = state.wait_for(|state| state.generation > generation || state.tries > tries);
            drop(timeout(WAIT, ended).await);
        }
    }

    /// Fetches an access token and keeps nothing; returns its `Authorization` field.
    pub(super) async fn try_once(&self) -> Result<HeaderValue, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.fetch().await?.field)
    }

    async fn fetch(&self) -> Result<AccessToken, NoToken> {
        let path = self.settings.secret_file.clone();
        let reading = tokio::task::spawn_blocking(move || watched_file::read(&path));
        let content = reading.await.map_err(|_| NoToken::BadSecret(BadCredential::Empty))??;
        let secret = std::str::from_utf8(&content).unwrap_or_default();
        parse(secret).map_err(NoToken::BadSecret)?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("client_secret", secret.trim())
            .finish();
        let mut request = Request::new(Either::Left(Full::new(Bytes::from(form))));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.settings.token_url.clone();
        let fields = request.headers_mut();
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        // Its lifetime counts from before the request.
        let begin = self.clock.now();
        let (status, body) = transport::fetch(&self.client, request, MAX_ANSWER, FETCH_TIMEOUT).await?;
        if status != StatusCode::OK {
            return Err(NoToken::Refused { status, error: error_code(&body) });
        }
        let answer: TokenResponse = serde_json::from_slice(&body).map_err(|_| NoToken::BadAnswer)?;
        let life = life(answer.expires_in.as_ref()).ok_or(NoToken::BadAnswer)?;
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(NoToken::BadAnswer);
        }
        let secret = parse(&Zeroizing::new(answer.access_token)).map_err(NoToken::BadToken)?;
        let field = secret.authorization(Scheme::Bearer.as_str());
        let field = field.map_err(|_| NoToken::BadToken(BadCredential::Malformed))?;
        // A token that is sent now must still be valid when it arrives.
        let good_for = life.saturating_sub((life / 10).min(Duration::from_secs(10)));
        let ends = Now { wall: begin.wall + good_for, mono: begin.mono + good_for };
        Ok(AccessToken { field, fetched: begin.mono, ends, life })
    }
}

/// The error code of RFC 6749 §5.2. Nothing else is logged: the rest is free text of the endpoint.
fn error_code(body: &[u8]) -> &'static str {
    const KNOWN: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let refusal: Value = serde_json::from_slice(body).unwrap_or_default();
    KNOWN.into_iter().find(|known| refusal["error"] == *known).unwrap_or("no known error code")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_life_of_a_token_is_a_number_in_any_form() {
        for (value, millis) in [
            (json!(3_599), Some(3_599_000)),
            (json!(3_599.5), Some(3_599_500)),
            (json!("3600"), Some(3_600_000)),
            (json!("3599.5"), Some(3_599_500)),
            (json!(u64::MAX), Some(86_400_000)),
            (json!("1e300"), Some(86_400_000)),
            (json!(0), None),
            (json!("0"), None),
            (json!(-1), None),
            (json!("NaN"), None),
            (json!("soon"), None),
            (json!(""), None),
            (json!([3_600]), None),
            (json!(true), None),
        ] {
            assert_eq!(life(Some(&value)), millis.map(Duration::from_millis), "{value}");
        }
        assert_eq!(life(None), Some(DEFAULT_LIFE));
    }
}
