//! The start of an export and the wait for its end.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::caller::{CallAnswer, CallFailure, FetchCall};
use super::failure::{Ending, EndingKind};
use super::index::FileIndex;
use super::progress::FetchEvent;
use super::question::FetchExport;
use super::session::{Session, words};
use super::state::RunState;
use crate::cache;
use crate::export::{API_VERSION, Id};
use crate::journal::NOT_PROCESSED;

/// Seconds between two looks at an export, the last again and again.
const PACE: [u64; 6] = [1, 1, 2, 3, 5, 5];
/// Longest wait that a gateway is asked for in one look. Load balancers end what is silent for a minute.
const LONG_LOOK: Duration = Duration::from_secs(55);
/// Pause after it: a gateway that stops ends a wait early.
const AFTER_WAIT: Duration = Duration::from_secs(1);
/// Looks that failed one after another before the run gives up.
const MAX_FAILURES: u32 = 8;
/// Failures that are no look at Snyk's: the credential is the gateway's own.
pub(super) const CREDENTIAL: &str = "upstream_credential_";
/// One look at an export.
pub(super) enum Look<T> {
    Ready(T),
    NotYet { pause: LookPause, is_unknown: bool },
    Failed(String),
}

/// The pause before the next look.
pub(super) enum LookPause {
    /// The usual one, or a longer one that the gateway asks for.
    Usual(Option<Duration>),
    /// The gateway has waited already.
    Short,
}

impl LookPause {
    fn after(self, usual: Duration) -> Duration {
        match self {
            Self::Usual(asked) => asked.unwrap_or_default().max(usual),
            Self::Short => AFTER_WAIT,
        }
    }
}

impl Session {
    /// The export of the run: that of the state, or one that is started now. Its id is on the disk when this returns.
    pub(super) async fn export(&self, state: &mut RunState) -> Result<String, Ending> {
        if let Some(export) = &state.export {
            self.progress.say(&FetchEvent::Continued { export: export.clone() });
            self.folder.save_state(state)?;
            return Ok(export.clone());
        }
        if state.is_start_sent {
            let text = "an earlier run was stopped after it had sent its start call and before the export's id came: there may be an export more, and one is started now";
            self.progress.say(&FetchEvent::Warning { text: text.to_owned() });
        }
        loop {
            state.is_start_sent = true;
            // What is not on the disk is not sent.
            self.folder.save_state(state).inspect_err(|_| state.is_start_sent = false)?;
            let answer = self.start(state).await;
            let document = match answer {
                Ok(document) => document,
                Err(CallFailure { is_unsent, text }) => {
                    state.is_start_sent = !is_unsent;
                    self.folder.save_state(state)?;
                    let more = if is_unsent {
                        ""
                    } else {
                        ". Snyk may have started the export: the next run starts another one"
                    };
                    return Err(Ending::failed(format!("{text}{more}")));
                }
            };
            if document.status == StatusCode::ACCEPTED {
                let export = id_in(&document)?;
                state.export = Some(export.clone());
                // One that an equal start has made is older than this run.
                let age = cache::age(&document.fields).as_secs();
                state.started = state.started.saturating_sub(age);
                self.folder.save_state(state).map_err(|ending| {
                    let text = "the export was started and could not be noted";
                    Ending::failed(format!("{}. {text}: --export {export} takes it", ending.text))
                })?;
                let event = if document.fields.contains_key(AGE) {
                    FetchEvent::Shared { export: export.clone(), age }
                } else {
                    FetchEvent::Started { export: export.clone() }
                };
                self.progress.say(&event);
                return Ok(export);
            }
            let was_refused = document.status.is_client_error()
                || document.status == StatusCode::SERVICE_UNAVAILABLE
                || is_without_start(&document.error().code);
            state.is_start_sent = !was_refused;
            self.folder.save_state(state)?;
            self.start_refused(&document).await?;
        }
    }

    async fn start(&self, state: &RunState) -> Result<CallAnswer, CallFailure> {
        let target = self.question.start.as_ref().map_or("", |start| start.target.as_str());
        let body = Some(Bytes::from(state.body.to_string()));
        // The export of an equal start is as good as the one of the manifest.
        let wish = match self.args.max_age {
            _ if self.args.restart => Some("no-cache".to_owned()),
            max_age => max_age.map(|max_age| format!("max-age={}", max_age.as_secs())),
        };
        let wish = wish.and_then(|wish| HeaderValue::try_from(wish).ok());
        let fields = wish.map(|wish| (CACHE_CONTROL, wish)).into_iter().collect();
        self.caller.document(FetchCall { name: "start".to_owned(), target, fields, body }).await
    }

    /// Waits where the start may be sent again within the time, and fails otherwise.
    async fn start_refused(&self, document: &CallAnswer) -> Result<(), Ending> {
        let error = document.error();
        let text = format!("the export was not started: {}", error.text);
        if error.code.starts_with(CREDENTIAL) {
            return Err(Ending::new(EndingKind::NotAuthorised, text));
        }
        match document.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let wait = document.pause().unwrap_or(Duration::from_mins(1));
                if wait > self.rest() {
                    let at = humantime::format_rfc3339_seconds(self.clock.now().wall + wait);
                    let text = format!("{text}. Run the same command again in {} ({at})", words(wait));
                    return Err(Ending::new(EndingKind::Held, text));
                }
                self.pause(text, wait).await
            }
            StatusCode::UNAUTHORIZED => {
                let text =
                    format!("{text}. A gateway takes your key from --key-file; no Snyk token is sent to one");
                Err(Ending::new(EndingKind::NotAuthorised, text))
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Err(Ending::new(EndingKind::NotAuthorised, text))
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Err(Ending::usage(text)),
            status if status.is_server_error() && !is_without_start(&error.code) => {
                let text = format!("{text}. Snyk may have started it: the next run starts another one");
                Err(Ending::failed(text))
            }
            _ => Err(Ending::failed(text)),
        }
    }

    /// Waits until the export is finished. Its index is the answer.
    pub(super) async fn wait(&self, export: &FetchExport) -> Result<FileIndex, Ending> {
        self.until_ready(&export.id, async || self.look(export).await).await
    }

    /// Looks again and again, until what is asked for is there.
    pub(super) async fn until_ready<T>(
        &self,
        export: &str,
        look: impl AsyncFn() -> Result<Look<T>, Ending>,
    ) -> Result<T, Ending> {
        let (mut failures, mut has_warned) = (0, false);
        let last = PACE.last().copied().unwrap_or(5);
        for gap in PACE.into_iter().chain(std::iter::repeat(last)) {
            let look = look().await?;
            let gap = Duration::from_secs(gap);
            match look {
                Look::Ready(found) => return Ok(found),
                Look::NotYet { pause, is_unknown } => {
                    failures = 0;
                    if is_unknown && !has_warned {
                        let text = format!(
                            "Snyk's status of export {export} is a word that is not known; waiting on until it is FINISHED"
                        );
                        self.progress.say(&FetchEvent::Warning { text });
                        has_warned = true;
                    }
                    self.progress.say(&FetchEvent::Waiting { export: export.to_owned() });
                    let wait = pause.after(gap);
                    if wait > self.rest() {
                        return Err(self.unfinished(export));
                    }
                    tokio::time::sleep(wait).await;
                }
                Look::Failed(why) if failures + 1 >= MAX_FAILURES => {
                    let text = format!(
                        "{why}, {MAX_FAILURES} times in a row: run the same command again later; it goes on with export {export}"
                    );
                    return Err(Ending::new(EndingKind::Unfinished, text));
                }
                Look::Failed(why) => {
                    failures += 1;
                    self.pause(why, gap).await?;
                }
            }
        }
        Err(self.unfinished(export))
    }

    fn unfinished(&self, export: &str) -> Ending {
        let text = format!(
            "export {export} is not finished within {} (--timeout): run the same command again; it goes on, and starts nothing",
            words(self.args.timeout)
        );
        Ending::new(EndingKind::Unfinished, text)
    }

    async fn look(&self, export: &FetchExport) -> Result<Look<FileIndex>, Ending> {
        let FetchExport { scope, id } = export;
        let under = format!("{scope}/export/{id}/");
        let target = format!("{under}files?version={API_VERSION}");
        let fields = self.wait_preference().into_iter().collect();
        let call = FetchCall { name: "files".to_owned(), target: &target, fields, body: None };
        let document = match self.caller.document(call).await {
            Ok(document) => document,
            Err(CallFailure { text, .. }) => return Ok(Look::Failed(text)),
        };
        if document.status == StatusCode::OK {
            return FileIndex::read(&document.body, &under).map(Look::Ready);
        }
        self.not_ready(id, &document)
    }

    /// Has a gateway answer when the export has ended, or after a while. The one in this process is asked by the pace here.
    pub(super) fn wait_preference(&self) -> Option<(HeaderName, HeaderValue)> {
        let seconds = self.rest().min(LONG_LOOK).as_secs();
        let value = HeaderValue::try_from(format!("wait={seconds}")).ok()?;
        (seconds > 0 && !self.caller.is_direct).then_some((HeaderName::from_static("prefer"), value))
    }

    /// The meaning of an answer that is not what is asked for.
    pub(super) fn not_ready<T>(&self, export: &str, document: &CallAnswer) -> Result<Look<T>, Ending> {
        let error = document.error();
        let text = error.text;
        match (document.status, error.code.as_str()) {
            (_, "not_finished") if document.fields.contains_key("preference-applied") => {
                Ok(Look::NotYet { pause: LookPause::Short, is_unknown: false })
            }
            (_, code @ ("not_finished" | "status_unknown")) => {
                let pause = LookPause::Usual(document.pause());
                Ok(Look::NotYet { pause, is_unknown: code == "status_unknown" })
            }
            (_, "export_failed") => {
                // The next run has to start another one.
                self.folder.clear().map_err(|error| Ending::of_file(self.folder.path(), &error))?;
                let text =
                    format!("export {export} failed at Snyk: {text}. The same command starts a new one");
                Err(Ending::new(EndingKind::ExportFailed, text))
            }
            (_, code) if code.starts_with(CREDENTIAL) => Err(Ending::new(EndingKind::NotAuthorised, text)),
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
                let wait = document.pause();
                if wait.is_some_and(|wait| wait > self.rest()) {
                    let text = format!(
                        "{text}. Run the same command again in {}; it goes on with export {export}",
                        words(wait.unwrap_or_default())
                    );
                    return Err(Ending::new(EndingKind::Held, text));
                }
                Ok(Look::NotYet { pause: LookPause::Usual(wait), is_unknown: false })
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                Err(Ending::new(EndingKind::NotAuthorised, text))
            }
            (StatusCode::NOT_FOUND, "unknown_route") => {
                Err(Ending::failed("the gateway serves no files: it has to be of a later version"))
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {
                Err(Ending::failed(format!("export {export}: {text}. --restart begins anew")))
            }
            (status, _) if status.is_server_error() => Ok(Look::Failed(text)),
            _ => Err(Ending::failed(format!("export {export}: {text}"))),
        }
    }
}

/// True if an error of the gateway's means that Snyk has started nothing.
fn is_without_start(code: &str) -> bool {
    code.starts_with(CREDENTIAL) || NOT_PROCESSED.contains(&code)
}

/// The id of the export in the answer to a start call.
fn id_in(document: &CallAnswer) -> Result<String, Ending> {
    let answer: Value = serde_json::from_slice(&document.body).unwrap_or_default();
    let id = answer["data"]["id"].as_str().filter(|id| Id::parse(id).is_some());
    id.map(str::to_owned).ok_or_else(|| {
        Ending::failed("the answer to the start call names no export: the export may run, and the next run starts another one")
    })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::upstream::UpstreamErrorKind as K;

    #[test]
    fn nothing_is_started_where_the_gateway_says_that_no_request_was_processed() {
        let kinds = [
            K::Dns,
            K::ConnectTimeout,
            K::Refused,
            K::Unavailable,
            K::ProxyDns,
            K::ProxyRefused,
            K::ProxyUnreachable,
            K::ProxyStatus(StatusCode::BAD_GATEWAY.as_u16()),
            K::TlsCertificate,
            K::TlsProtocol,
            K::NotProcessed,
            K::Terminated,
            K::ResponseTimeout,
            K::Incomplete,
            K::Protocol,
        ];
        for kind in kinds {
            assert_eq!(is_without_start(kind.as_str()), kind.is_not_processed(), "{kind:?}");
        }
    }
}
