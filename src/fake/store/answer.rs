//! The answer to a request for a part: by the link, then by the faults, then by the object.

use std::sync::Arc;

use http::Response;

use super::super::answers::{self, Body, BoxError, set};
use super::super::links::{self, LinkProblem};
use super::super::script::Stage;
use super::super::wire::{Raw, Switch, Then};
use super::super::{Seen, Shared, api};
use super::range::{AskedRange, is_match};
use super::refusal::Refusal;
use super::sending::{Sending, tag};
use super::shelf::place;
use super::transfer::{Running, Transfer};
use super::{PartSource, StoreFault, TagField};

/// The answer to a request for a part.
pub(in super::super) async fn respond(
    shared: Arc<Shared>,
    switch: Switch,
    seen: Seen,
) -> Result<Response<Body>, BoxError> {
    // Faults are for requests in the order in which they come, held or not.
    let (entry, decision) = {
        let mut stage = shared.stage();
        stage.hits.file += 1;
        let entry = stage.shelf.note(&seen);
        let now = api::now_ms(stage.clock_offset) / 1_000;
        let delay = delay(&mut stage, &seen);
        (entry, Decided { decision: decide(&mut stage, &seen, now), delay })
    };
    let running = Running::begin(shared.store.clone());
    let mut held = shared.store_held.subscribe();
    let _ = held.wait_for(|held| *held == 0).await;

    if let Some(delay) = decision.delay {
        tokio::time::sleep(delay).await;
    }
    let response = match decision.decision {
        Decision::Answer(response) => response,
        Decision::Hang => std::future::pending().await,
        Decision::Reset => {
            switch.write(Raw { bytes: Vec::new(), then: Then::End });
            return Err("told to reset".into());
        }
        Decision::Send(sending) => {
            let sending = if sending.is_hash_wanted() { sending.with_hash().await? } else { *sending };
            let mut response = Response::new(answers::full(""));
            *response.status_mut() = sending.status();
            sending.fields(response.headers_mut());
            *response.body_mut() = Transfer::new(sending, &shared, switch, running).into_body();
            response
        }
    };
    if let Some(request) = shared.stage().shelf.requests.get_mut(entry) {
        request.status = response.status().as_u16();
    }
    Ok(response)
}

struct Decided {
    decision: Decision,
    delay: Option<std::time::Duration>,
}

enum Decision {
    Answer(Response<Body>),
    Hang,
    Reset,
    Send(Box<Sending>),
}

fn part_of(seen: &Seen) -> u32 {
    place(seen.path()).map_or(0, |(_, part)| part)
}

fn delay(stage: &mut Stage, seen: &Seen) -> Option<std::time::Duration> {
    match stage.shelf.take_first(part_of(seen), |fault| matches!(fault, StoreFault::Delay(_)))? {
        StoreFault::Delay(time) => Some(time),
        _ => None,
    }
}

fn decide(stage: &mut Stage, seen: &Seen, now: u64) -> Decision {
    let form = stage.script.link_form;
    let refuse = |refusal: Refusal| Decision::Answer(refusal.respond(form));
    let signature = match admit(stage, seen, now) {
        Ok(signature) => signature,
        Err(refusal) => return refuse(refusal),
    };
    let part = part_of(seen);
    match stage.shelf.take_first(part, StoreFault::is_answer) {
        Some(StoreFault::Expired) => return refuse(Refusal::Link(LinkProblem::Expired)),
        Some(StoreFault::Status(status)) => return refuse(Refusal::Status(status)),
        Some(StoreFault::Redirect(to)) => {
            let mut response = answers::respond(302, "text/plain", "");
            set(response.headers_mut(), "location", &to);
            return Decision::Answer(response);
        }
        Some(StoreFault::Hang) => return Decision::Hang,
        Some(StoreFault::Reset) => return Decision::Reset,
        _ => {}
    }
    let source = (part as usize).checked_sub(1).and_then(|index| stage.script.store.parts.get(index));
    let Some(source) = source.cloned() else { return refuse(Refusal::NoSuchKey) };
    select(stage, seen, signature, source).map_or_else(refuse, |sending| Decision::Send(Box::new(sending)))
}

/// The signature of the link, if the request may be answered at all.
fn admit(stage: &Stage, seen: &Seen, now: u64) -> Result<String, Refusal> {
    if seen.method != "GET" {
        return Err(Refusal::Verb);
    }
    if !seen.header("authorization").is_empty() {
        return Err(Refusal::TwoCredentials);
    }
    if seen.headers.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-")) {
        return Err(Refusal::Unsigned);
    }
    let (_, query) = seen.target.split_once('?').unwrap_or_default();
    let signature = links::check(&stage.key, seen.path(), query, now).map_err(Refusal::Link)?;
    if stage.shelf.dead.contains(&signature) {
        return Err(Refusal::Link(LinkProblem::Expired));
    }
    Ok(signature)
}

/// The object's bytes that are asked for, and the faults that they meet.
fn select(stage: &mut Stage, seen: &Seen, signature: String, source: PartSource) -> Result<Sending, Refusal> {
    let (path, part) = (seen.path().to_owned(), part_of(seen));
    let changes = stage.shelf.changes(&path);
    let (form, script) = (stage.script.link_form, &stage.script.store);
    let strong = tag(&path, changes);
    let tag = match script.tag {
        TagField::Strong => Some(strong),
        TagField::Weak => Some(format!("W/{strong}")),
        TagField::Absent => None,
    };
    let hash = script.hash;
    if !is_match(seen, tag.as_deref()) {
        return Err(Refusal::Precondition);
    }
    let size = source.size();
    let mut sending = Sending {
        range: AskedRange::of(seen, size, tag.as_deref()),
        part: source,
        path,
        signature,
        changes,
        form,
        tag,
        hash,
        crc32c: None,
        shift: 0,
        is_transcoded: false,
        end: None,
        expire: None,
        flip: None,
        rate: None,
    };
    let shelf = &mut stage.shelf;
    for fault in shelf.take(part, |fault| matches!(fault, StoreFault::Transcode | StoreFault::IgnoreRange)) {
        sending.range = AskedRange::Whole;
        sending.is_transcoded |= fault == StoreFault::Transcode;
    }
    if sending.range == AskedRange::Unsatisfiable {
        return Err(Refusal::Range { size });
    }
    if let Some(StoreFault::ShiftRange(by)) =
        shelf.take_first(part, |fault| matches!(fault, StoreFault::ShiftRange(_)))
    {
        sending.shift = by;
    }
    if let Some(StoreFault::Rate(rate)) = shelf.take_first(part, |fault| matches!(fault, StoreFault::Rate(_)))
    {
        sending.rate = Some(rate);
    }
    let (first, end) = sending.span();
    let reached = |fault: &StoreFault| fault.position().is_some_and(|at| first <= at && at < end);
    sending.end = shelf.take_nearest(part, |fault| reached(fault) && fault.end().is_some());
    let at = |fault: Option<StoreFault>| fault.and_then(|fault| fault.position());
    sending.expire =
        at(shelf.take_nearest(part, |fault| reached(fault) && matches!(fault, StoreFault::Expire(_))));
    sending.flip =
        at(shelf.take_nearest(part, |fault| reached(fault) && matches!(fault, StoreFault::Flip(_))));
    Ok(sending)
}
