//! One cache and one flight for all gateways (0017): what one of them has is found by the others, and of those that ask the same
//! at one time one asks Snyk. All values are sealed, and names are hashes: without `shared.key_file` nothing of this is used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::error::EngineError;
use super::script::{Script, ScriptReply};
use super::{Shared, duration, milliseconds};

/// A follower looks at its flight so often, besides hearing of it.
const LOOK: Duration = Duration::from_millis(250);
/// The life of an answer that is no finished export.
const ANSWER: Duration = Duration::from_secs(10);
/// Most landings that a follower has not heard of yet: more than these it takes for its own.
pub(super) const MOST_LANDINGS: usize = 256;

/// The place of all that is kept of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlightPlace {
    /// The name of its hash, behind the prefix.
    group: String,
    /// Its name in the hash.
    question: String,
    /// The text of the question: values that were sealed for another one do not open.
    text: Arc<str>,
}

/// The name of all that is kept of an export. It tells nobody which it is.
#[must_use]
pub fn export_name(scope: &str, export: &str) -> String {
    hashed(&format!("export\n{scope}\n{export}"))
}

impl FlightPlace {
    /// The place of a question about an export; `text` is all of the question.
    #[must_use]
    pub fn of_export(scope: &str, export: &str, text: &str) -> Self {
        Self { group: format!("x:{}", export_name(scope, export)), question: hashed(text), text: text.into() }
    }

    /// The place of equal starts; `text` is all that they have in common.
    #[must_use]
    pub fn of_start(text: &str) -> Self {
        Self { group: format!("s:{}", hashed(text)), question: "start".to_owned(), text: text.into() }
    }

    fn name(&self) -> String {
        format!("{}:{}", self.group, self.question)
    }

    fn context(&self, kind: &str) -> Vec<u8> {
        [kind.as_bytes(), b"\n", self.text.as_bytes()].concat()
    }
}

/// The answers of others that an asker takes. Ages count from the time at which a flight was claimed, so that Snyk was asked later.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlightClaim<'a> {
    /// Greatest age of a finished export; `None` for none.
    pub entry: Option<Duration>,
    /// Greatest age of another answer; `None` for none.
    pub answer: Option<Duration>,
    /// Least life left of a finished export's links.
    pub least_life: Duration,
    /// The tag of the entry that is known already.
    pub known: &'a str,
    /// The flight that was followed: whatever was claimed since is taken.
    pub since: Option<FlightStart>,
    /// True to follow another gateway's flight.
    pub follows: bool,
}

/// The engine's time of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlightStart(i64);

/// The outcome of a claim.
#[derive(Debug)]
pub enum Claimed {
    /// A finished export.
    Entry(KeptValue),
    /// Another answer.
    Answer(KeptValue),
    /// The flight that was followed brought no answer.
    Failed,
    /// Another gateway leads.
    Wait(FlightStart),
    /// The same, and its flight is not to be followed.
    Busy,
    /// The asker leads.
    Lead(Lead),
}

/// A value that was kept.
#[derive(Debug)]
pub struct KeptValue {
    /// The value.
    pub value: Vec<u8>,
    /// A time no later than the one at which it was asked for.
    pub asked: Instant,
    /// The time of its landing, or an earlier one.
    pub landed: Instant,
    /// The end of its freshness.
    pub fresh: Instant,
    /// The end of its life.
    pub life: Instant,
}

/// The right to land an answer.
#[derive(Debug, Clone)]
pub struct Lead {
    place: FlightPlace,
    fence: String,
    /// The number of purges when it was claimed; unknown where the answer to the claim was lost.
    purges: Option<i64>,
}

/// The end of a flight.
#[derive(Debug, Clone, Copy)]
pub enum Landing<'a> {
    /// A finished export.
    Entry {
        /// Its bytes.
        value: &'a [u8],
        /// Time until it is not fresh any more.
        fresh: Duration,
        /// Time until its first link dies.
        life: Duration,
        /// Names this answer, and tells nothing of it.
        tag: &'a str,
    },
    /// Another answer.
    Answer {
        /// Its bytes.
        value: &'a [u8],
        /// True if it is of use though nobody follows.
        is_kept: bool,
    },
    /// There is none: the followers are to ask for themselves.
    Failed,
    /// Snyk was not asked.
    Left,
}

/// The outcome of a landing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    /// True if the flight was its leader's still. Else nothing was stored.
    pub is_ours: bool,
    /// True if there was a purge meanwhile.
    pub is_purged: bool,
}

/// Hears of the flights that have landed.
#[derive(Debug)]
pub struct Landings(broadcast::Receiver<Arc<str>>);

impl Landings {
    /// Resolves when a flight has landed at `place`, or it is time to look.
    pub async fn next(&mut self, place: &FlightPlace) {
        let name = place.name();
        let heard = async { while self.0.recv().await.is_ok_and(|landed| *landed != *name) {} };
        // Late is as good: it looks again.
        let _ = tokio::time::timeout(LOOK, heard).await;
    }
}

impl Lead {
    /// True if it is the lead of a flight for the question at `place`.
    #[must_use]
    pub fn is_at(&self, place: &FlightPlace) -> bool {
        self.place == *place
    }
}

impl Shared {
    /// True if answers are shared: there is a key to seal them.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        self.0.settings.seal.is_some()
    }

    /// To be called before a claim, so that no landing is missed.
    #[must_use]
    pub fn landings(&self) -> Landings {
        Landings(self.0.landings.subscribe())
    }

    /// Finds the answer to a question, or has the asker lead or follow. `None` where the engine is of no use and the asker is on
    /// its own; where it may have heard of the claim all the same, the asker leads.
    pub async fn claim(&self, place: &FlightPlace, claim: FlightClaim<'_>) -> Option<Claimed> {
        let inner = &self.0;
        inner.settings.seal.as_ref()?;
        let fence = Uuid::new_v4().simple().to_string();
        let asked = inner.clock.now().mono;
        let reply = match self.claimed(place, &fence, claim).await {
            Ok(reply) => reply,
            Err(EngineError::Away) => return None,
            Err(_) => return Some(Claimed::Lead(Lead { place: place.clone(), fence, purges: None })),
        };
        let claimed = self.read(place, &reply, asked);
        if claimed.is_none() && reply.text(2) != Some("lead") {
            // A value that does not open is none.
            let claim = FlightClaim { entry: None, answer: None, since: None, ..claim };
            let again = self.claimed(place, &fence, claim).await.ok()?;
            return self.read(place, &again, asked).or_else(|| lead(place, fence, &again));
        }
        claimed.or_else(|| lead(place, fence, &reply))
    }

    async fn claimed(
        &self,
        place: &FlightPlace,
        fence: &str,
        claim: FlightClaim<'_>,
    ) -> Result<ScriptReply, EngineError> {
        let age = |age: Option<Duration>| age.map_or(-1, milliseconds).to_string();
        let own = [
            place.question.clone(),
            fence.to_owned(),
            milliseconds(self.0.settings.lease).to_string(),
            age(claim.entry),
            age(claim.answer),
            milliseconds(claim.least_life).to_string(),
            claim.known.to_owned(),
            claim.since.map_or(0, |since| since.0).to_string(),
            u8::from(claim.follows).to_string(),
        ];
        self.0.call(Script::Claim, &self.keys(place), &own).await
    }

    /// The outcome of a claim that is no lead; `None` also for a value that does not open.
    fn read(&self, place: &FlightPlace, reply: &ScriptReply, asked: Instant) -> Option<Claimed> {
        let after = |at: usize| reply.number(at).map_or(asked, |left| asked + duration(left.max(0)));
        let before = |at: usize| {
            let age = duration(reply.number(at).unwrap_or(0).max(0));
            asked.checked_sub(age).unwrap_or(asked)
        };
        let value = |kind: &str| {
            let value = self.0.settings.seal.as_ref()?.open(&place.context(kind), reply.bytes(3))?;
            Some(KeptValue { value, asked: before(4), landed: before(5), fresh: after(6), life: after(7) })
        };
        let counts = &self.0.counts;
        Some(match reply.text(2)? {
            "entry" => Claimed::Entry(value("entry").inspect(|_| counts.took_entry())?),
            "answer" => Claimed::Answer(value("answer").inspect(|_| counts.took_answer())?),
            "failed" => Claimed::Failed,
            "wait" => Claimed::Wait(FlightStart(reply.number(3).ok()?)),
            "busy" => Claimed::Busy,
            _ => return None,
        })
    }

    /// Renews the lease of a flight for as long as it is polled.
    pub async fn keep(&self, lead: &Lead) {
        let lease = self.0.settings.lease;
        let own = [lead.place.question.clone(), lead.fence.clone(), milliseconds(lease).to_string()];
        loop {
            tokio::time::sleep(lease / 3).await;
            // One that is lost is found when it lands.
            let _ = self.0.call(Script::Renew, &self.keys(&lead.place), &own).await;
        }
    }

    /// Ends a flight. An answer that is larger than `shared.max_entry`, or cannot be sealed, is none for the others.
    ///
    /// # Errors
    /// [`EngineError`]: what became of it is unknown.
    pub async fn land(&self, lead: &Lead, landing: Landing<'_>) -> Result<Landed, EngineError> {
        let Lead { place, fence, purges } = lead;
        let settings = &self.0.settings;
        let sealed = |kind: &str, value: &[u8]| {
            let keys = settings.seal.as_ref().filter(|_| value.len() <= settings.max_entry)?;
            keys.seal(&place.context(kind), value)
        };
        let none = ("failed", Vec::new(), Duration::ZERO, ANSWER);
        let (kind, value, fresh, life) = match landing {
            Landing::Entry { value, fresh, life, .. } => {
                sealed("entry", value).map_or(none, |value| ("entry", value, fresh, life))
            }
            Landing::Answer { value, .. } => {
                sealed("answer", value).map_or(none, |value| ("answer", value, Duration::ZERO, ANSWER))
            }
            Landing::Failed => none,
            Landing::Left => ("left", Vec::new(), Duration::ZERO, Duration::ZERO),
        };
        let tag = if let Landing::Entry { tag, .. } = landing { tag } else { "-" };
        let is_kept = matches!(landing, Landing::Answer { is_kept: true, .. });
        let own = [
            place.question.clone().into_bytes(),
            fence.clone().into_bytes(),
            kind.as_bytes().to_vec(),
            value,
            milliseconds(fresh).to_string().into_bytes(),
            milliseconds(life).to_string().into_bytes(),
            tag.as_bytes().to_vec(),
            u8::from(is_kept).to_string().into_bytes(),
            self.0.channel().into_bytes(),
            place.name().into_bytes(),
        ];
        let reply = self.0.call(Script::Land, &self.keys(place), &own).await?;
        let (is_ours, now) = (reply.number(2)? == 1, reply.number(3)?);
        if is_ours && kind == "entry" {
            self.0.counts.stored_entry();
        }
        Ok(Landed { is_ours, is_purged: purges.is_some_and(|before| before != now) })
    }

    fn keys(&self, place: &FlightPlace) -> [String; 2] {
        [self.0.fleet_key(), format!("{}:{}", self.0.settings.prefix, place.group)]
    }
}

fn lead(place: &FlightPlace, fence: String, reply: &ScriptReply) -> Option<Claimed> {
    let is_lead = reply.text(2) == Some("lead");
    is_lead.then(|| Claimed::Lead(Lead { place: place.clone(), fence, purges: reply.number(3).ok() }))
}

/// Half of a SHA-256 in hex.
fn hashed(text: &str) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(16).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}
