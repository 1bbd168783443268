//! What the fake knows and how exports go on: a plain state machine, given the time.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::hmac;
use bytes::Bytes;
use uuid::Uuid;

use super::links::LinkForm;
use super::store::{Shelf, StoreScript};
use super::target::{Call, Operation};
use super::{Fault, KEPT, Seen, Target};

/// How exports go.
#[derive(Debug, Clone)]
pub struct Script {
    /// So many GETs of an export (of its status and results together) find it unfinished.
    pub polls: u32,
    /// And it is unfinished for so many seconds.
    pub seconds: f64,
    /// Whether job status says `STARTED` after the first `PENDING`.
    pub started_word: bool,
    /// How links are signed.
    pub link_form: LinkForm,
    /// The store behind the links, and the parts that every export has.
    pub store: StoreScript,
    /// How long each part's link lives; the last repeats. A start call's own wish wins.
    pub link_seconds: Vec<u64>,
    /// How a finished export's job status is answered.
    pub job_status: JobStatus,
    /// Whether a start without a date filter is accepted; else it gets 400, as Snyk documents it.
    pub accept_any_start: bool,
    /// Whether answers have the fields that an edge was seen to add: a weak `ETag`, an `Expires` of the same
    /// second, `Server: envoy` and `Vary`.
    pub edge_fields: bool,
    /// Seconds that `Date` is ahead of the clock that links are signed by.
    pub date_offset: i64,
    /// Start calls an hour; more get 429.
    pub starts_per_hour: Option<u32>,
    /// The secret of any OAuth client. With it, the tokens that were handed out are accepted, until they end.
    pub oauth_secret: Option<String>,
    /// How long access tokens live.
    pub token_seconds: u64,
    /// Requests a minute; over it every request gets 429 until none comes for a minute.
    pub requests_per_minute: Option<u32>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            polls: 2,
            seconds: 0.0,
            started_word: false,
            link_form: LinkForm::GcsV4,
            store: StoreScript::default(),
            link_seconds: vec![3_600],
            job_status: JobStatus::Inline,
            accept_any_start: false,
            edge_fields: false,
            date_offset: 0,
            starts_per_hour: None,
            oauth_secret: None,
            token_seconds: 3_600,
            requests_per_minute: None,
        }
    }
}

/// How a finished export's job status is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum JobStatus {
    /// With the status alone.
    Plain,
    /// With the results in it, as the results call is.
    Inline,
    /// With 303 to the results call.
    Redirect,
}

/// What an export is.
#[derive(Debug, Clone)]
pub enum State {
    /// It goes by the script.
    Scripted,
    /// It is finished.
    Finished,
    /// Its status is this word.
    Word(String),
    /// It is answered with just this.
    Raw {
        /// The status code.
        status: u16,
        /// The fields.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
}

/// How often each operation was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Start calls.
    pub start: u64,
    /// Job status calls.
    pub job_status: u64,
    /// Results calls.
    pub results: u64,
    /// Other API calls.
    pub other: u64,
    /// Files.
    pub file: u64,
    /// Access tokens that were asked for.
    pub token: u64,
}

impl Hits {
    /// All API calls.
    #[must_use]
    pub fn api(&self) -> u64 {
        self.start + self.job_status + self.results + self.other
    }

    fn count(&mut self, seen: &Seen) {
        match Call::of(seen).map(|call| call.operation) {
            Some(Operation::Start) => self.start += 1,
            Some(Operation::JobStatus(_)) => self.job_status += 1,
            Some(Operation::Results(_)) => self.results += 1,
            None => self.other += 1,
        }
    }
}

#[derive(Debug)]
pub(super) struct Export {
    pub(super) state: State,
    started: u64,
    polls: u32,
    link_seconds: Option<u64>,
}

/// A fault that is to come, and how often; without an end where that is not said.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) fault: Fault,
    pub(super) times: Option<u32>,
}

/// Everything the fake knows.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) script: Script,
    pub(super) hits: Hits,
    pub(super) seen: Vec<Seen>,
    pub(super) signatures: Vec<String>,
    pub(super) faults: Vec<Plan>,
    pub(super) token_faults: Vec<Plan>,
    /// The only tokens that are accepted, besides those that were handed out.
    pub(super) accepted: Option<Vec<String>>,
    /// Access tokens that were handed out, and when they end (Unix milliseconds).
    issued: Vec<(String, u64)>,
    pub(super) clock_offset: i64,
    pub(super) key: hmac::Key,
    pub(super) shelf: Shelf,
    exports: HashMap<(String, String), Export>,
    starts: VecDeque<u64>,
    limiter: Limiter,
}

/// Snyk's limit for one credential: over it, everything is refused until nothing comes for a minute.
#[derive(Debug, Clone, Default)]
pub struct Limiter {
    recent: VecDeque<u64>,
    locked_out: bool,
}

impl Limiter {
    /// Notes a request at its time (milliseconds); whether it is let through, with so many a minute.
    pub fn admit(&mut self, most: u32, now_ms: u64) -> bool {
        let quiet = self.recent.back().is_none_or(|last| last + 60_000 <= now_ms);
        self.locked_out &= !quiet;
        while self.recent.front().is_some_and(|at| at + 60_000 <= now_ms) {
            self.recent.pop_front();
        }
        self.recent.push_back(now_ms);
        self.locked_out |= self.recent.len() > most as usize;
        !self.locked_out
    }

    /// Requests left in this minute.
    #[must_use]
    pub fn remaining(&self, most: u32) -> u32 {
        most.saturating_sub(u32::try_from(self.recent.len()).unwrap_or(u32::MAX))
    }
}

impl Stage {
    pub(super) fn new(script: Script) -> Self {
        Self {
            script,
            hits: Hits::default(),
            seen: Vec::new(),
            signatures: Vec::new(),
            faults: Vec::new(),
            token_faults: Vec::new(),
            accepted: None,
            issued: Vec::new(),
            clock_offset: 0,
            key: hmac::Key::new(hmac::HMAC_SHA256, Uuid::new_v4().as_bytes()),
            shelf: Shelf::default(),
            exports: HashMap::new(),
            starts: VecDeque::new(),
            limiter: Limiter::default(),
        }
    }

    pub(super) fn put(&mut self, scope: &str, export: &str, state: State) {
        let export_state = Export { state, started: 0, polls: 0, link_seconds: None };
        self.exports.insert((scope.to_owned(), export.to_owned()), export_state);
    }

    /// A new export; its id. `None` when the hour's starts are used up.
    pub(super) fn start(
        &mut self,
        scope: &str,
        now_ms: u64,
        link_seconds: Option<u64>,
    ) -> Result<String, u64> {
        while self.starts.front().is_some_and(|at| at + 3_600_000 <= now_ms) {
            self.starts.pop_front();
        }
        if self.script.starts_per_hour.is_some_and(|most| self.starts.len() >= most as usize) {
            return Err(self.starts.front().map_or(3_600, |at| (at + 3_600_000 - now_ms).div_ceil(1_000)));
        }
        self.starts.push_back(now_ms);
        let id = Uuid::new_v4().to_string();
        let export = Export { state: State::Scripted, started: now_ms, polls: 0, link_seconds };
        self.exports.insert((scope.to_owned(), id.clone()), export);
        Ok(id)
    }

    /// What a GET of an export finds, one poll later; `None` where there is none.
    pub(super) fn poll(&mut self, scope: &str, export: &str, is_status: bool, now_ms: u64) -> Option<State> {
        let script = &self.script;
        let export = self.exports.get_mut(&(scope.to_owned(), export.to_owned()))?;
        let State::Scripted = export.state else { return Some(export.state.clone()) };
        export.polls += 1;
        let age = std::time::Duration::from_millis(now_ms.saturating_sub(export.started)).as_secs_f64();
        if export.polls > script.polls && age >= script.seconds {
            return Some(State::Finished);
        }
        let word = if script.started_word && is_status && export.polls > 1 { "STARTED" } else { "PENDING" };
        Some(State::Word(word.to_owned()))
    }

    /// How long the links of an export's part live.
    pub(super) fn link_seconds(&self, scope: &str, export: &str, part: usize) -> u64 {
        let own =
            self.exports.get(&(scope.to_owned(), export.to_owned())).and_then(|export| export.link_seconds);
        let scripted = || self.script.link_seconds.get(part).or(self.script.link_seconds.last()).copied();
        own.or_else(scripted).unwrap_or(3_600)
    }

    /// Notes a request at its time; whether the rate limit lets it through.
    pub(super) fn admit(&mut self, now_ms: u64) -> bool {
        self.script.requests_per_minute.is_none_or(|most| self.limiter.admit(most, now_ms))
    }

    /// Requests left in this minute, and how many it has.
    pub(super) fn remaining(&self) -> Option<(u32, u32)> {
        self.script.requests_per_minute.map(|most| (self.limiter.remaining(most), most))
    }

    /// Counts a call and keeps it.
    pub(super) fn note(&mut self, seen: &Seen) {
        self.hits.count(seen);
        if self.seen.len() < KEPT {
            self.seen.push(seen.clone());
        }
    }

    /// The kept calls that `target` is about.
    pub(super) fn hits_of(&self, target: &Target) -> Hits {
        let mut hits = Hits::default();
        self.seen.iter().filter(|seen| target.includes(seen)).for_each(|seen| hits.count(seen));
        hits
    }

    pub(super) fn keep_signature(&mut self, signature: String) {
        if self.signatures.len() < KEPT {
            self.signatures.push(signature);
        }
    }

    /// Hands out an access token.
    pub(super) fn issue(&mut self, now_ms: u64) -> String {
        let token = format!("issued-{}", Uuid::new_v4());
        self.issued.push((token.clone(), now_ms + self.script.token_seconds * 1_000));
        token
    }

    /// Whether an API call with this token is answered.
    pub(super) fn accepts(&self, token: &str, now_ms: u64) -> bool {
        let anything = self.accepted.is_none() && self.script.oauth_secret.is_none();
        anything
            || self.accepted.iter().flatten().any(|accepted| accepted == token)
            || self.issued.iter().any(|(issued, ends)| issued == token && now_ms < *ends)
    }

    /// Forgets what was handed out: it is accepted no more.
    pub(super) fn revoke_issued(&mut self) {
        self.issued.clear();
    }

    /// The faults of this call.
    pub(super) fn next_faults(&mut self, seen: &Seen) -> Vec<Fault> {
        due(&mut self.faults, |target| target.includes(seen))
    }

    /// The faults of this request for an access token.
    pub(super) fn next_token_faults(&mut self) -> Vec<Fault> {
        due(&mut self.token_faults, |_| true)
    }
}

fn due(plans: &mut Vec<Plan>, is_about: impl Fn(&Target) -> bool) -> Vec<Fault> {
    let mut due = Vec::new();
    plans.retain_mut(|plan| {
        if !is_about(&plan.target) {
            return true;
        }
        due.push(plan.fault.clone());
        let Some(left) = &mut plan.times else { return true };
        *left = left.saturating_sub(1);
        *left > 0
    });
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripted_export_finishes_after_its_polls_and_seconds() {
        let script = Script { polls: 1, seconds: 2.0, started_word: true, ..Script::default() };
        let mut stage = Stage::new(script);
        let id = stage.start("orgs/o", 0, None).expect("a start");
        let mut word = |now| match stage.poll("orgs/o", &id, true, now) {
            Some(State::Word(word)) => word,
            Some(State::Finished) => "FINISHED".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!([word(0), word(1_999), word(2_000)], ["PENDING", "STARTED", "FINISHED"]);
        assert!(stage.poll("orgs/other", &id, true, 0).is_none());
    }

    #[test]
    fn knocking_keeps_the_door_shut_and_a_quiet_minute_opens_it() {
        let mut stage = Stage::new(Script { requests_per_minute: Some(2), ..Script::default() });
        let admitted: Vec<bool> =
            [0, 1, 2, 50_000, 100_000, 159_999, 219_999].map(|at| stage.admit(at)).to_vec();
        assert_eq!(admitted, [true, true, false, false, false, false, true]);
    }

    #[test]
    fn starts_are_counted_by_the_hour() {
        let mut stage = Stage::new(Script { starts_per_hour: Some(1), ..Script::default() });
        assert!(stage.start("orgs/o", 0, None).is_ok());
        assert_eq!(stage.start("orgs/o", 600_000, None), Err(3_000));
        assert!(stage.start("orgs/o", 3_600_000, None).is_ok());
    }
}
