//! The question that a client's request asks, and its asker: all that goes up of the request.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::exchange::Exchange;
use super::failure::Failure;
use super::{ClientRequest, fields};
use crate::access::Permit;
use crate::credential::Credential;
use crate::export::{API_VERSION, ExportCall, FilesCall};
use crate::retrieval::{Asker, Cause, PassThrough, Question};
use crate::route::OtherCall;

/// The question of a call, from one reading of the rules.
pub(super) fn question(
    mut call: ExportCall,
    credential: Arc<Credential>,
    request: &ClientRequest,
) -> Question {
    let ClientRequest { parts, rules, .. } = request;
    if let Some(version) = &rules.upstream.default_version {
        call.query.default_version(version);
    }
    let take = if call.is_shared() { fields::forwarded } else { fields::of_one };
    let fields = take(&parts.headers, &rules.upstream.forward_headers);
    Question { call, credential, fields, body: Bytes::new() }
}

/// The question of the results that files come from. An address in a dashboard needs no `version`.
pub(super) fn files_question(
    call: &FilesCall,
    credential: Arc<Credential>,
    request: &ClientRequest,
) -> Question {
    let mut question = question(call.results(), credential, request);
    question.call.query.default_version(API_VERSION);
    question
}

/// A call to pass through, with the body of its request.
pub(super) fn pass_through(
    call: OtherCall,
    credential: Arc<Credential>,
    request: &mut ClientRequest,
) -> Result<PassThrough, Failure> {
    let fields = fields::of_one(&request.parts.headers, &request.rules.upstream.forward_headers);
    let body = request.body.take().ok_or(Cause::Internal)?;
    Ok(PassThrough { call, credential, fields, body })
}

/// The one who asks, by its request.
pub(super) fn asker(
    exchange: &Exchange,
    request: &ClientRequest,
    share: u32,
    permit: Permit,
    via: HeaderValue,
) -> Asker {
    Asker {
        request: exchange.id,
        client: Arc::clone(&exchange.client),
        share,
        permit,
        deadline: request.rules.deadline(exchange.started),
        half_closed: request.peer.connection.half_closed.clone(),
        sent_id: fields::request_id(&request.parts.headers),
        via,
        trace: exchange.trace.clone(),
    }
}
