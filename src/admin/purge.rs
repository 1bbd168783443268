//! The answer to a purge: it names the gateways that have applied it, and those that have not.

use std::net::SocketAddr;

use http::{Response, StatusCode};

use super::Admin;
use super::answer::{AdminRefusal, BUSY, json_answer};
use super::report::{ErrorText, PurgeReport, PurgingGateway};
use crate::export::Id;
use crate::purge::Purged;
use crate::shared::{EngineError, GatewayPurge};
use crate::transport::Body;

impl Admin {
    /// Purges an export, or everything.
    pub(super) async fn purge(
        &self,
        what: Option<(Id, Id)>,
        by: Option<SocketAddr>,
    ) -> Result<Response<Body>, AdminRefusal> {
        let what = what.as_ref().map(|(scope, export)| (scope, export));
        let report = report(self.views.purger.everywhere(what).await.map_err(|_| BUSY)?);
        tracing::info!(
            target: "exportgate::admin",
            {
            purged = report.purged,
            gateways = report.gateways.len(),
            export.scope.id = what.map(|(scope, _)| scope.as_str()),
            export.id = what.map(|(_, export)| export.as_str()),
            client.address = by.map(|address| tracing::field::display(address.ip()))
            },
            "cache purged"
        );
        let mut response = json_answer(&report);
        if let Some(ErrorText { detail, .. }) = &report.error {
            tracing::warn!(target: "exportgate::admin", detail, "purge not applied by all gateways");
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        }
        Ok(response)
    }
}

fn report(Purged { entries, gateways }: Purged) -> PurgeReport {
    let error = match &gateways {
        Ok(gateways) => missing(gateways),
        Err(error) => Some(away(error)),
    };
    let one = |GatewayPurge { name, has_applied, silence }| PurgingGateway {
        name,
        applied: has_applied,
        silent_s: silence.as_secs(),
    };
    let gateways = gateways.unwrap_or_default().into_iter().map(one).collect();
    PurgeReport { purged: entries, gateways, error }
}

fn missing(gateways: &[GatewayPurge]) -> Option<ErrorText> {
    let missing = gateways.iter().filter(|gateway| !gateway.has_applied);
    let names: Vec<_> = missing
        .map(|GatewayPurge { name, silence, .. }| {
            format!("{name}, last heard of {} s ago", silence.as_secs())
        })
        .collect();
    (!names.is_empty()).then(|| ErrorText {
        code: "purge_incomplete".to_owned(),
        title: "Not all gateways have applied the purge".to_owned(),
        detail: format!(
            "Not applied by {}. Each applies it when it reaches the shared engine again, and may serve from its cache until then.",
            names.join("; ")
        ),
    })
}

fn away(error: &EngineError) -> ErrorText {
    ErrorText {
        code: "shared_engine_away".to_owned(),
        title: "Only this gateway has applied the purge".to_owned(),
        detail: format!(
            "The shared engine is away ({error}). This gateway tells the others when it is back, unless it is stopped before; or purge at each."
        ),
    }
}
