//! The answers to calls for named exports.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{Either, Full};
use serde_json::{Value, json};

use super::exchange::Exchange;
use super::failure::{Failure, FailureKind, NoFile};
use super::file_reply::{ASK_AGAIN, JSON};
use super::files::FilesCaller;
use super::reply::protect;
use super::{ClientRequest, Gateway};
use crate::access::{PermitError, Principal};
use crate::clock::Now;
use crate::export::{FilesTarget, NamedCall, NamedTarget};
use crate::named::{NamedExport, NoExport, ServedExport, unix_ms};
use crate::retrieval::Wait;
use crate::route::Route;
use crate::transport::Body;

/// The pause between two looks for the first export of a name.
const NEXT_LOOK: Duration = Duration::from_millis(250);
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache, no-transform");
/// The export that a name stands for.
const EXPORT: HeaderName = HeaderName::from_static("exportgate-export");

impl Gateway {
    /// Looks the name of a call up: from here on it has a scope. A name that the client may not have is none.
    pub(super) fn locate(&self, route: Route, principal: &Principal) -> Result<Route, Failure> {
        let Route::Named(call) = route else { return Ok(route) };
        let export = self.named.find(&call.name, &principal.name).ok_or(FailureKind::NoSuchName)?;
        Ok(Route::Named(NamedCall { scope: Some(export.scope().clone()), ..call }))
    }

    /// The failure of a call that its client may not make.
    pub(super) fn not_permitted(&self, why: PermitError, route: &Route) -> FailureKind {
        match (why, route) {
            (PermitError::Denied(_), Route::Named(_)) => FailureKind::NoSuchName,
            (why, _) => FailureKind::not_permitted(why, self.access.hides()),
        }
    }

    /// Answers a call for a named export.
    pub(super) async fn answer_named(
        &self,
        exchange: &mut Exchange,
        request: &ClientRequest,
        call: NamedCall,
        caller: FilesCaller,
    ) -> Result<Response<Body>, Failure> {
        let export = self.named.find(&call.name, &exchange.client).ok_or(FailureKind::NoSuchName)?;
        let target = match call.target {
            NamedTarget::State => return Ok(state(&export, exchange.started)),
            NamedTarget::Files(target) => target,
        };
        let served = {
            // A wait takes no place among the client's requests.
            let _lent = caller.wanted.wait.map(|_| caller.asker.permit.lend());
            self.serve_name(exchange, &export, target, caller.wanted.wait).await
        };
        let served = served.map_err(NoFile::Named)?;
        let note = note(&served);
        exchange.asks(&Route::Files(served.call.clone()));
        let mut response = self.answer_files_call(exchange, request, served.call, caller).await?;
        // The next export has other bytes at this address.
        response.headers_mut().insert(CACHE_CONTROL, REVALIDATE);
        response.headers_mut().extend(note.map(|note| (EXPORT, note)));
        Ok(response)
    }

    /// The export that a name serves. The first one is waited for, as long as the client wants.
    async fn serve_name(
        &self,
        exchange: &mut Exchange,
        export: &NamedExport,
        target: FilesTarget,
        wait: Option<Wait>,
    ) -> Result<ServedExport, NoExport> {
        loop {
            let now = self.clock.now();
            let served = export.serve(target, now);
            let is_over = wait.is_none_or(|wait| now.mono >= wait.until) || self.shutdown.is_announced();
            if is_over || !matches!(served, Err(NoExport::NotYet)) {
                return served;
            }
            exchange.is_waited = true;
            tokio::select! {
                () = tokio::time::sleep(NEXT_LOOK) => {}
                () = self.shutdown.announced() => {}
            }
        }
    }
}

/// The export behind a name, its age in seconds, and `stale` where the last turns brought nothing (RFC 9651).
fn note(served: &ServedExport) -> Option<HeaderValue> {
    let stale = if served.is_stale { "; stale" } else { "" };
    let text = format!("\"{}\"; age={}{stale}", served.call.export.as_str(), served.age.as_secs());
    HeaderValue::try_from(text).ok()
}

/// The state of a named export.
fn state(export: &NamedExport, now: Now) -> Response<Body> {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, JSON);
    fields.insert(CACHE_CONTROL, ASK_AGAIN);
    protect(&mut fields);
    let document = document(export, now).to_string();
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(document))));
    *response.headers_mut() = fields;
    response
}

fn document(export: &NamedExport, now: Now) -> Value {
    let state = export.state();
    let current = state.as_ref().and_then(|state| state.current.as_ref());
    let failure = state.as_ref().and_then(|state| state.failure.as_ref());
    let changed = state.as_ref().and_then(|state| state.columns_changed.as_ref());
    let now_ms = unix_ms(now.wall);
    json!({
        "name": export.settings.name.as_str(),
        "export": current.map(|current| current.id.as_str()),
        "made": current.map(|current| time(current.made_ms)),
        "age": current.map(|current| current.age(now_ms).as_secs()),
        "rows": current.map(|current| current.rows),
        "columns": current.map(|current| &current.columns),
        "stale": export.is_stale(now),
        "every": export.settings.every.as_secs(),
        "next_turn": state.as_ref().map(|state| time(state.next_turn_ms)),
        "last_failure": failure.map(|failure| json!({"at": time(failure.at_ms), "reason": failure.reason})),
        "columns_changed": changed.map(|changed| {
            json!({"at": time(changed.at_ms), "went": changed.change.went, "came": changed.change.came})
        }),
    })
}

fn time(ms: u64) -> String {
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_seconds(at).to_string()
}
