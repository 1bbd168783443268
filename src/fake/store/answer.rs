//! How a request for a part is answered: by the link, then by the faults, then by the object.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Response, StatusCode};

use super::super::answers::{self, Body, BoxError, set};
use super::super::links::{self, LinkForm, LinkProblem};
use super::super::script::Stage;
use super::super::wire::{Raw, Switch, Then};
use super::super::{Seen, Shared, api};
use super::range::{AskedRange, is_match};
use super::refusal::Refusal;
use super::shelf::place;
use super::transfer::{Running, Transfer};
use super::{HashField, PartSource, StoreFault, TagField};

/// The answer to a request for a part.
pub(in super::super) async fn respond(
    shared: Arc<Shared>,
    switch: Switch,
    seen: Seen,
) -> Result<Response<Body>, BoxError> {
    let running = Running::begin(shared.store.clone());
    let entry = {
        let mut stage = shared.stage();
        stage.hits.file += 1;
        stage.shelf.note(&seen)
    };
    let mut held = shared.store_held.subscribe();
    let _ = held.wait_for(|held| *held == 0).await;

    let decision = {
        let mut stage = shared.stage();
        let now = api::now_ms(stage.clock_offset) / 1_000;
        let delay = delay(&mut stage, &seen);
        Decided { decision: decide(&mut stage, &seen, now), delay }
    };
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

/// The object of an answer, and what is to go wrong.
pub(super) struct Sending {
    pub(super) part: PartSource,
    pub(super) path: String,
    pub(super) signature: String,
    /// The number of its changes.
    changes: u64,
    form: LinkForm,
    tag: Option<String>,
    hash: HashField,
    crc32c: Option<u32>,
    pub(super) range: AskedRange,
    shift: u64,
    is_transcoded: bool,
    /// Ends the answer at its position.
    pub(super) end: Option<StoreFault>,
    pub(super) expire: Option<u64>,
    pub(super) flip: Option<u64>,
    pub(super) rate: Option<u64>,
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

/// A strong entity tag.
fn tag(path: &str, changes: u64) -> String {
    let digest = digest(path, changes);
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn digest(path: &str, changes: u64) -> Vec<u8> {
    let text = format!("{path}\n{changes}");
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

impl Sending {
    /// The first position, and the one after the last.
    pub(super) fn span(&self) -> (u64, u64) {
        match self.range {
            AskedRange::Part { first, last } => (first, last + 1),
            AskedRange::Whole | AskedRange::Unsatisfiable => (0, self.part.size()),
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changes % 2 == 1
    }

    fn is_google(&self) -> bool {
        !matches!(
            self.form,
            LinkForm::S3V4
                | LinkForm::S3V4Temporary
                | LinkForm::R2
                | LinkForm::S3V2
                | LinkForm::CloudFront
                | LinkForm::Azure
        )
    }

    fn is_hash_wanted(&self) -> bool {
        self.is_google() && self.hash != HashField::Absent
    }

    /// With its hash, which may take a while.
    async fn with_hash(mut self: Box<Self>) -> io::Result<Self> {
        let (part, is_changed) = (self.part.clone(), self.is_changed());
        self.crc32c = Some(tokio::task::spawn_blocking(move || part.crc32c_of(is_changed)).await?);
        Ok(*self)
    }

    fn status(&self) -> StatusCode {
        match self.range {
            AskedRange::Part { .. } => StatusCode::PARTIAL_CONTENT,
            AskedRange::Whole | AskedRange::Unsatisfiable => StatusCode::OK,
        }
    }

    fn fields(&self, fields: &mut HeaderMap) {
        let size = self.part.size();
        set(fields, "content-type", "text/csv");
        set(fields, "last-modified", "Sun, 01 Jun 2031 08:00:00 GMT");
        if let Some(tag) = &self.tag {
            set(fields, "etag", tag);
        }
        if self.is_google() {
            self.google_fields(fields);
        } else {
            set(fields, "server", "AmazonS3");
        }
        if self.is_transcoded {
            return;
        }
        let (first, end) = self.span();
        set(fields, "accept-ranges", "bytes");
        set(fields, "content-length", &(end - first).to_string());
        if let AskedRange::Part { first, last } = self.range {
            let by = self.shift;
            set(fields, "content-range", &format!("bytes {}-{}/{size}", first + by, last + by));
        }
    }

    fn google_fields(&self, fields: &mut HeaderMap) {
        let generation = 1_770_000_000_000_000 + self.changes;
        set(fields, "server", "UploadServer");
        set(fields, "x-goog-generation", &generation.to_string());
        set(fields, "x-goog-metageneration", "1");
        set(fields, "x-goog-storage-class", "STANDARD");
        if self.is_transcoded {
            set(fields, "x-goog-stored-content-encoding", "gzip");
            set(fields, "warning", "214 UploadServer gunzipped");
            set(fields, "vary", "Accept-Encoding");
        } else {
            set(fields, "x-goog-stored-content-encoding", "identity");
            set(fields, "x-goog-stored-content-length", &self.part.size().to_string());
        }
        let Some(crc32c) = self.crc32c else { return };
        // Of the stored object, which the decoded bytes are not.
        let is_other = self.is_transcoded || self.hash == HashField::Wrong;
        let crc32c = BASE64_STANDARD.encode((crc32c ^ u32::from(is_other)).to_be_bytes());
        let md5 = BASE64_STANDARD.encode(&digest(&self.path, self.changes)[..16]);
        if self.hash == HashField::TwoLines {
            set(fields, "x-goog-hash", &format!("md5={md5}"));
            set(fields, "x-goog-hash", &format!("crc32c={crc32c}"));
        } else {
            set(fields, "x-goog-hash", &format!("crc32c={crc32c},md5={md5}"));
        }
    }
}
