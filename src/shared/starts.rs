//! Equal starts of all gateways (0020): the answer to the newest, sealed, for as long as its export is there.

use std::time::Duration;

use super::error::EngineError;
use super::flight::FlightPlace;
use super::names::{export_name, hashed};
use super::script::Script;
use super::{Shared, duration, milliseconds};

/// Snyk keeps files for so long.
const LONGEST: Duration = Duration::from_hours(72);
/// A start counts for so long without a sign that its export has finished.
const UNFINISHED: Duration = Duration::from_mins(30);

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartSeen {
    /// The number of purges: a start that is sent now is put with it.
    pub purges: i64,
    /// The answer to the newest equal start, and its age by the engine's clock.
    pub start: Option<(Vec<u8>, Duration)>,
    /// The name of the newest one's export, if that has failed.
    pub failed: Option<String>,
}

/// A start that was made.
#[derive(Debug, Clone, Copy)]
pub struct NewStart<'a> {
    /// The id of the org or group.
    pub scope: &'a str,
    /// The id of the export.
    pub export: &'a str,
    /// The version that it asked for.
    pub version: &'a str,
    /// The answer.
    pub value: &'a [u8],
    /// Its age.
    pub age: Duration,
    /// The number of purges before it was sent.
    pub purges: i64,
}

/// The fate of an export, as its answers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFate<'a> {
    /// It has finished.
    Finished,
    /// It has failed.
    Failed,
    /// It is not known to this version of the API.
    Unknown(&'a str),
}

impl Shared {
    /// Finds the newest equal start, at most `max_age` old.
    ///
    /// # Errors
    /// [`EngineError`]: nothing is known of one.
    pub async fn find_start(&self, place: &FlightPlace, max_age: Duration) -> Result<StartSeen, EngineError> {
        let number = |span| milliseconds(span).to_string();
        let own = [
            "start".to_owned(),
            String::new(),
            "find".to_owned(),
            self.exports(),
            number(max_age),
            number(UNFINISHED),
        ];
        let asked = self.0.clock.now().mono;
        let reply = self.0.call(Script::Start, &self.keys(place), &own).await?;
        let keys = self.0.settings.seal.as_ref();
        let value = keys.and_then(|keys| keys.open(&place.context("start"), reply.bytes(3)));
        let age = duration(reply.number(4)?.max(0)) + (self.0.clock.now().mono - asked);
        let failed = reply.text(5).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(StartSeen { purges: reply.number(2)?, start: value.map(|value| (value, age)), failed })
    }

    /// Puts a start where equal ones find it, unless there was a purge since, or a newer one is there.
    ///
    /// # Errors
    /// [`EngineError`]: it may have been put.
    pub async fn put_start(&self, place: &FlightPlace, start: NewStart<'_>) -> Result<(), EngineError> {
        let NewStart { scope, export, version, value, age, purges } = start;
        let sealed = self.0.settings.seal.as_ref().and_then(|keys| keys.seal(&place.context("start"), value));
        let number = |span| milliseconds(span).to_string().into_bytes();
        let own = [
            b"start".to_vec(),
            Vec::new(),
            b"put".to_vec(),
            self.exports().into_bytes(),
            export_name(scope, export).into_bytes(),
            sealed.ok_or(EngineError::Away)?,
            number(age),
            version_name(version).into_bytes(),
            purges.to_string().into_bytes(),
            number(LONGEST),
        ];
        self.0.call(Script::Start, &self.keys(place), &own).await.map(drop)
    }

    /// Notes what became of an export: a start whose export has failed answers nobody.
    ///
    /// # Errors
    /// [`EngineError`]: it may not be noted.
    pub async fn note_fate(
        &self,
        scope: &str,
        export: &str,
        fate: ExportFate<'_>,
    ) -> Result<(), EngineError> {
        let (fate, version) = match fate {
            ExportFate::Finished => ("finished", String::new()),
            ExportFate::Failed => ("failed", String::new()),
            ExportFate::Unknown(version) => ("unknown", version_name(version)),
        };
        let keys = [self.0.fleet_key(), format!("{}{}", self.exports(), export_name(scope, export))];
        let own = ["start".to_owned(), String::new(), fate.to_owned(), version];
        self.0.call(Script::Fate, &keys, &own).await.map(drop)
    }

    /// The beginning of the names of exports' hashes.
    fn exports(&self) -> String {
        format!("{}:x:", self.0.settings.prefix)
    }
}

fn version_name(version: &str) -> String {
    hashed(&format!("version\n{version}"))
}
