//! The scripts, and what they answer.

use std::future::Future;
use std::pin::Pin;

use super::error::EngineError;

/// The work of a connection, to be polled for as long as it is used.
pub(super) type ConnectionDriver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A message on the channel of holds and purges.
#[derive(Debug)]
pub(super) struct HoldMessage(pub(super) String);

/// The format of fleet and ledgers. Gateways with another one have their own parts alone.
pub(super) const FORMAT: &str = "1";

/// A script: `LOOKS` if it looks at the server process, then its files.
macro_rules! script {
    (LOOKS $($file:literal)*) => {
        concat!("local knows_process = false\n", include_str!("epoch.lua"), $(include_str!($file)),*)
    };
    ($($file:literal)*) => {
        concat!("local knows_process = true\n", include_str!("epoch.lua"), $(include_str!($file)),*)
    };
}

/// A script on the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Asks for grants.
    Reserve,
    /// Says that a member lives.
    Beat,
    /// Purges, and tells all gateways.
    Purge,
    /// Finds the purges that were not applied.
    Missed,
    /// Finds the gateways that may keep something.
    Gateways,
    /// Finds an answer, or has one gateway ask.
    Claim,
    /// Renews the lease of a flight.
    Renew,
    /// Ends a flight.
    Land,
    /// Finds or puts the answer to an equal start.
    Start,
    /// Notes what became of an export.
    Fate,
    /// The state of a named export.
    Named,
}

impl Script {
    pub(super) const ALL: [Self; 11] = [
        Self::Reserve,
        Self::Beat,
        Self::Purge,
        Self::Missed,
        Self::Gateways,
        Self::Claim,
        Self::Renew,
        Self::Land,
        Self::Start,
        Self::Fate,
        Self::Named,
    ];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Reserve => script!(LOOKS "reserve.lua"),
            Self::Beat => script!(LOOKS "beat.lua"),
            Self::Purge => script!(LOOKS "purge.lua"),
            Self::Missed => script!(LOOKS "missed.lua"),
            Self::Gateways => script!(LOOKS "gateways.lua"),
            Self::Claim => script!("place.lua" "claim.lua"),
            Self::Renew => script!("place.lua" "renew.lua"),
            Self::Land => script!("place.lua" "land.lua"),
            Self::Start => script!("place.lua" "start.lua"),
            Self::Fate => script!("place.lua" "fate.lua"),
            Self::Named => script!(LOOKS "named.lua"),
        }
    }

    /// The place of the engine's time in an answer.
    pub(super) const fn place_of_time(self) -> usize {
        match self {
            Self::Reserve => 5,
            Self::Beat => 3,
            Self::Purge
            | Self::Missed
            | Self::Gateways
            | Self::Claim
            | Self::Renew
            | Self::Land
            | Self::Start
            | Self::Fate
            | Self::Named => 1,
        }
    }
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReplyValue {
    Number(i64),
    Text(String),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
}

/// The answer of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScriptReply(pub(super) Vec<ReplyValue>);

impl ScriptReply {
    /// An answer of another format is of no use.
    pub(super) fn checked(self) -> Result<Self, EngineError> {
        match self.text(0) {
            Some("ok") => Ok(self),
            Some("format") => Err(EngineError::Format(self.text(1).unwrap_or_default().to_owned())),
            _ => Err(EngineError::Unreadable),
        }
    }

    pub(super) fn number(&self, at: usize) -> Result<i64, EngineError> {
        if let Some(ReplyValue::Number(number)) = self.0.get(at) {
            Ok(*number)
        } else {
            Err(EngineError::Unreadable)
        }
    }

    pub(super) fn text(&self, at: usize) -> Option<&str> {
        if let Some(ReplyValue::Text(text)) = self.0.get(at) { Some(text) } else { None }
    }

    pub(super) fn bytes(&self, at: usize) -> &[u8] {
        match self.0.get(at) {
            Some(ReplyValue::Text(text)) => text.as_bytes(),
            Some(ReplyValue::Bytes(bytes)) => bytes,
            Some(ReplyValue::Number(_)) | None => &[],
        }
    }
}
