//! Requests that wait for the end of an export: the length of their wait, and the right to the answer behind it.

use super::exchange::Exchange;
use super::failure::{Failure, FailureKind};
use super::wait::{RequestWait, WaitSettings};
use super::{ClientRequest, Gateway, recognise};
use crate::access::{IdentifyError, PermitError, Principal, Reason};
use crate::clock::Now;
use crate::export::NamedTarget;
use crate::route::Route;

impl Gateway {
    /// Checks a request once more that has waited: its client may have lost its key or its permission meanwhile.
    pub(super) fn permit_again(&self, exchange: &Exchange, request: &ClientRequest) -> Result<(), Failure> {
        if !exchange.is_waited {
            return Ok(());
        }
        let ClientRequest { parts, peer, .. } = request;
        let principal = self.access.identify_again(parts, peer, self.clock.now()).map_err(|why| {
            let kind = FailureKind::from(IdentifyError::Unknown(why));
            if self.access.takes_basic(parts) { kind.for_files() } else { kind }
        })?;
        if principal.name != exchange.client {
            return Err(FailureKind::from(IdentifyError::Unknown(Reason::Conflicting)).into());
        }
        let route = self.locate(recognise(request)?, &principal)?;
        let denied = principal.decide(&route).map_err(PermitError::Denied);
        Ok(denied.map_err(|why| self.not_permitted(why, &route))?)
    }
}

/// The wait for the end of an export that a request begins. A start waits for none.
pub(super) fn request_wait(
    route: &Route,
    principal: &Principal,
    request: &ClientRequest,
    started: Now,
) -> RequestWait {
    let is_read = match route {
        Route::Export(call) => call.is_shared(),
        Route::Files(_) => true,
        Route::Named(call) => call.target != NamedTarget::State,
        Route::Other(_) => false,
    };
    let WaitSettings { max, unasked } = request.rules.wait;
    let unasked = principal.wait_unasked().unwrap_or(unasked);
    if !is_read {
        return RequestWait::default();
    }
    RequestWait::of(&request.parts.headers, max, unasked, started.mono)
}
