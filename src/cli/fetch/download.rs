//! The download of one part: resumed by a range where it broke off, and started again where the store has another object.

use std::io::{self, Write as _};
use std::time::Duration;

use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::caller::{CallAnswer, CallFailure, FetchCall, pause};
use super::failure::{Ending, EndingKind};
use super::index::FetchPart;
use super::merge::PartFile;
use super::own_file;
use super::progress::FetchEvent;
use super::proof::{PartClaim, prove};
use super::question::FetchQuestion;
use super::session::Session;
use super::wait::CREDENTIAL;
use crate::transport::CheckedBody;

/// Longest time without a byte of a body.
const IDLE: Duration = Duration::from_mins(1);
/// Tries that brought no byte, one after another, before the part is given up.
const MAX_FRUITLESS: u32 = 5;
/// The end of a file that a gateway holds back until the rest is proven.
const HELD_BACK: u64 = 64 * 1024;
const BUFFER: usize = 256 * 1024;
const MAX_ERROR: usize = 64 * 1024;

/// A part that is being downloaded.
struct PartDownload<'a> {
    session: &'a Session,
    part: &'a FetchPart,
    target: String,
    claim: PartClaim,
    /// Bytes on the disk.
    have: u64,
}

/// The outcome of one request.
enum TryOutcome {
    Whole,
    /// The body broke off; more is to be had.
    Broken(String),
    /// It broke off where only the proof was missing, or the object changed meanwhile.
    Unproven(String),
    /// The place asked for a pause.
    Pause(String, Duration),
}

impl Session {
    /// Downloads a part and proves it, or goes on with what an earlier run has of it.
    pub(super) async fn part(&self, part: &FetchPart) -> Result<PartFile, Ending> {
        let claim = self.folder.load(&claim_name(part.part)).unwrap_or_default();
        let mut download =
            PartDownload { session: self, part, target: FetchQuestion::file(&part.path), claim, have: 0 };
        download.fetch().await?;
        let (whole, rule) = (self.folder.part(part.part, "csv"), self.args.rows);
        let (path, claim) = (whole.clone(), download.claim.clone());
        let indexed = part.clone();
        let proven = tokio::task::spawn_blocking(move || prove(&path, &indexed, &claim, rule)).await;
        let proven = proven.map_err(|error| Ending::failed(error.to_string()))?;
        let facts = proven.inspect_err(|ending| {
            // What is not whole is not kept: the next run must not trust it.
            if ending.kind == EndingKind::NotWhole {
                let _ = std::fs::remove_file(&whole);
            }
        })?;
        for text in &facts.warnings {
            self.progress.say(&FetchEvent::Warning { text: text.clone() });
        }
        let proven = facts.proven.held.iter().map(|rung| rung.word()).collect();
        let (bytes, rows) = (facts.proven.bytes, facts.proven.rows);
        self.progress.say(&FetchEvent::PartDone { part: part.part, bytes, rows, proven });
        Ok(PartFile { path: whole, facts })
    }
}

fn claim_name(part: u32) -> String {
    format!("part-{part:05}.json")
}

impl PartDownload<'_> {
    async fn fetch(&mut self) -> Result<(), Ending> {
        let folder = &self.session.folder;
        let (whole, partial) = (folder.part(self.part.part, "csv"), folder.part(self.part.part, "partial"));
        if let Ok(found) = whole.symlink_metadata() {
            self.have = found.len();
            if self.is_still_same().await? {
                self.session.progress.came(self.have);
                return Ok(());
            }
            std::fs::remove_file(&whole).map_err(|error| Ending::of_file(&whole, &error))?;
            self.have = 0;
        } else if self.claim.tag.is_some() {
            self.have = partial.symlink_metadata().map_or(0, |found| found.len());
            self.session.progress.came(self.have);
        }
        let (mut fruitless, mut unproven) = (0, 0);
        loop {
            let had = self.have;
            let outcome = self.try_once().await?;
            fruitless = if self.have > had { 0 } else { fruitless + 1 };
            unproven = if matches!(outcome, TryOutcome::Unproven(_)) { unproven + 1 } else { 0 };
            match outcome {
                TryOutcome::Whole => break,
                TryOutcome::Pause(why, wait) => self.session.pause(why, wait).await?,
                TryOutcome::Unproven(why) if unproven >= MAX_FRUITLESS => {
                    return Err(self.unproven(&format!("{why}, {unproven} times in a row")));
                }
                TryOutcome::Broken(why) | TryOutcome::Unproven(why) if fruitless >= MAX_FRUITLESS => {
                    let text = format!(
                        "part {}: {why}, {fruitless} times in a row: run the same command again later; what came is kept",
                        self.part.part
                    );
                    return Err(Ending::failed(text));
                }
                TryOutcome::Broken(why) | TryOutcome::Unproven(why) => {
                    let wait = Duration::from_secs(1 << fruitless.min(4));
                    self.session.pause(format!("part {}: {why}", self.part.part), wait).await?;
                }
            }
        }
        std::fs::rename(&partial, &whole).map_err(|error| Ending::of_file(&partial, &error))
    }

    /// The end of a run whose part is not what the store announced.
    fn unproven(&self, why: &str) -> Ending {
        let log =
            if self.session.caller.is_direct { "The log above names" } else { "The gateway's log names" };
        Ending::not_whole(format!(
            "part {} could not be proven: {why}. {log} the proof that failed. Run the same command again; if it ends so again, another try cannot help: --restart begins with a new export",
            self.part.part
        ))
    }

    /// A try that broke off. What a gateway holds back until the proof is all that was missing of it, or more was.
    fn broken(&self, why: String) -> TryOutcome {
        let size = self.claim.size.or(self.part.file_size);
        if size.is_some_and(|size| size.saturating_sub(self.have) <= HELD_BACK) {
            TryOutcome::Unproven(format!("{why} in its last 64 KiB"))
        } else {
            TryOutcome::Broken(why)
        }
    }

    /// Asks whether a part that is on the disk already is still the one that the export has.
    async fn is_still_same(&self) -> Result<bool, Ending> {
        let Some(tag) = self.claim.tag.as_deref().and_then(|tag| HeaderValue::try_from(tag).ok()) else {
            return Ok(false);
        };
        let answer = self.session.caller.send(self.call(vec![(IF_NONE_MATCH, tag)])).await;
        Ok(answer.is_ok_and(|answer| answer.status() == StatusCode::NOT_MODIFIED))
    }

    fn call(&self, fields: Vec<(HeaderName, HeaderValue)>) -> FetchCall<'_> {
        FetchCall { name: format!("part {}", self.part.part), target: &self.target, fields, body: None }
    }

    async fn try_once(&mut self) -> Result<TryOutcome, Ending> {
        let mut fields = Vec::new();
        let tag = self.claim.tag.as_deref().and_then(|tag| HeaderValue::try_from(tag).ok());
        if let Some(tag) = tag.filter(|_| self.have > 0) {
            if self.claim.size == Some(self.have) {
                return Ok(TryOutcome::Whole);
            }
            fields
                .push((RANGE, HeaderValue::try_from(format!("bytes={}-", self.have)).unwrap_or(tag.clone())));
            fields.push((IF_RANGE, tag));
        }
        let answer = match self.session.caller.send(self.call(fields)).await {
            Ok(answer) => answer,
            Err(CallFailure { is_unsent: true, text }) => return Ok(TryOutcome::Broken(text)),
            // A header section may be lost with the connection that a failed proof ends.
            Err(CallFailure { text, .. }) => return Ok(self.broken(text)),
        };
        self.check_object(&answer)?;
        match answer.status() {
            StatusCode::OK => {
                if !has_certain_end(&answer) {
                    let text = format!(
                        "part {}: the end of the answer is not certain (no length, no chunks): is a proxy in between?",
                        self.part.part
                    );
                    return Err(Ending::not_whole(text));
                }
                let size = length(&answer);
                self.begin(PartClaim::of(answer.headers(), size))?;
                self.take(answer.into_body()).await
            }
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) = range(&answer).unwrap_or_default();
                let claim = PartClaim::of(answer.headers(), Some(total));
                if start != self.have || claim.tag != self.claim.tag || self.claim.size != Some(total) {
                    self.begin(PartClaim::default())?;
                    return Ok(TryOutcome::Broken(
                        "the file has changed; it is taken from its start".to_owned(),
                    ));
                }
                self.take(answer.into_body()).await
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.begin(PartClaim::default())?;
                Ok(TryOutcome::Broken("the file is shorter by now; it is taken from its start".to_owned()))
            }
            _ => self.refused(answer).await,
        }
    }

    /// Snyk may list the parts in another order than in the index: then another part comes under this number.
    fn check_object<B>(&self, answer: &Response<B>) -> Result<(), Ending> {
        let came = answer.headers().get("exportgate-object").and_then(|object| object.to_str().ok());
        if came.zip(self.part.object.as_deref()).is_none_or(|(came, listed)| came == listed) {
            return Ok(());
        }
        Err(Ending::not_whole(format!(
            "part {}: Snyk lists the parts of this export in another order by now. Run the same command again; if this comes again, with --restart",
            self.part.part
        )))
    }

    /// Begins the part anew, with the claim on the disk before its first byte.
    fn begin(&mut self, claim: PartClaim) -> Result<(), Ending> {
        let folder = &self.session.folder;
        let partial = folder.part(self.part.part, "partial");
        own_file::create(&partial).map_err(|error| Ending::of_file(&partial, &error))?;
        self.session.progress.dropped(self.have);
        self.have = 0;
        folder.save(&claim_name(self.part.part), &claim)?;
        self.claim = claim;
        Ok(())
    }

    async fn take(&mut self, mut body: CheckedBody) -> Result<TryOutcome, Ending> {
        let partial = self.session.folder.part(self.part.part, "partial");
        let failed = |error: io::Error| Ending::of_file(&partial, &error);
        let mut file = own_file::append(&partial).map_err(failed)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut is_silent = false;
        let end = loop {
            let frame = match timeout(IDLE, body.frame()).await {
                Err(_) => {
                    is_silent = true;
                    break Some(format!("no byte came for {} s", IDLE.as_secs()));
                }
                Ok(None) => break None,
                Ok(Some(Err(_))) => break Some("the transfer broke off".to_owned()),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            self.session.progress.came(data.len() as u64);
            buffer.extend_from_slice(&data);
            if buffer.len() >= BUFFER / 2 {
                tokio::task::block_in_place(|| file.write_all(&buffer)).map_err(failed)?;
                self.have += buffer.len() as u64;
                buffer.clear();
            }
        };
        tokio::task::block_in_place(|| file.write_all(&buffer)).map_err(failed)?;
        self.have += buffer.len() as u64;
        Ok(match end {
            None if self.claim.size.is_none_or(|size| size == self.have) => TryOutcome::Whole,
            end => {
                let why = end.unwrap_or_else(|| "the transfer ended early".to_owned());
                if is_silent { TryOutcome::Broken(why) } else { self.broken(why) }
            }
        })
    }

    async fn refused(&mut self, answer: Response<CheckedBody>) -> Result<TryOutcome, Ending> {
        let (status, wait) = (answer.status(), pause(answer.headers()));
        let (head, body) = answer.into_parts();
        let body = timeout(IDLE, http_body_util::Limited::new(body, MAX_ERROR).collect()).await;
        let body =
            body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let error =
            CallAnswer { status, fields: head.headers, body, is_direct: self.session.caller.is_direct }
                .error();
        let text = format!("part {}: {}", self.part.part, error.text);
        let is_final = ["host_not_allowed", "not_csv", "header_too_long"].contains(&error.code.as_str());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Ending::new(EndingKind::NotAuthorised, text))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Ok(TryOutcome::Pause(text, wait.unwrap_or(Duration::from_secs(5))))
            }
            _ if error.code == "link_missing" => Err(Ending::not_whole(text)),
            _ if error.code == "not_proven" => Err(self.unproven(&error.text)),
            _ if error.code == "object_changed" => {
                self.begin(PartClaim::default())?;
                Ok(TryOutcome::Unproven(error.text))
            }
            _ if error.code.starts_with(CREDENTIAL) => Err(Ending::new(EndingKind::NotAuthorised, text)),
            _ if is_final => Err(Ending::failed(text)),
            status if status.is_server_error() => Ok(TryOutcome::Broken(error.text)),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(Ending::failed(format!("{text}. Snyk keeps files for three days: --restart begins anew")))
            }
            _ => Err(Ending::failed(text)),
        }
    }
}

fn length(answer: &Response<CheckedBody>) -> Option<u64> {
    answer.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// True if a body that broke off cannot look whole.
fn has_certain_end(answer: &Response<CheckedBody>) -> bool {
    let fields = answer.headers();
    answer.version() == Version::HTTP_2
        || fields.contains_key(CONTENT_LENGTH)
        || fields.contains_key(TRANSFER_ENCODING)
}

/// Start and total of a `Content-Range` that goes to the end.
fn range(answer: &Response<CheckedBody>) -> Option<(u64, u64)> {
    let text = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, end.parse::<u64>().ok()?, total.parse().ok()?);
    (end.checked_add(1) == Some(total)).then_some((start, total))
}
