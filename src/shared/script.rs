//! The scripts, and what they answer.

use std::future::Future;
use std::pin::Pin;

use super::error::EngineError;

/// The work of a connection, to be polled for as long as it is used.
pub(super) type ConnectionDriver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A message on the channel of holds.
#[derive(Debug)]
pub(super) struct HoldMessage(pub(super) String);

/// The format of fleet and ledgers. Gateways with another one have their own parts alone.
pub(super) const FORMAT: &str = "1";

const RESERVE: &str = concat!(include_str!("epoch.lua"), include_str!("reserve.lua"));
const BEAT: &str = concat!(include_str!("epoch.lua"), include_str!("beat.lua"));
const CLAIM: &str = concat!(include_str!("epoch.lua"), include_str!("place.lua"), include_str!("claim.lua"));
const RENEW: &str = concat!(include_str!("epoch.lua"), include_str!("place.lua"), include_str!("renew.lua"));
const LAND: &str = concat!(include_str!("epoch.lua"), include_str!("place.lua"), include_str!("land.lua"));

/// A script on the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Asks for grants.
    Reserve,
    /// Says that a member lives.
    Beat,
    /// Finds an answer, or has one gateway ask.
    Claim,
    /// Renews the lease of a flight.
    Renew,
    /// Ends a flight.
    Land,
}

impl Script {
    pub(super) const ALL: [Self; 5] = [Self::Reserve, Self::Beat, Self::Claim, Self::Renew, Self::Land];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Reserve => RESERVE,
            Self::Beat => BEAT,
            Self::Claim => CLAIM,
            Self::Renew => RENEW,
            Self::Land => LAND,
        }
    }

    /// The place of the engine's time in an answer.
    pub(super) const fn place_of_time(self) -> usize {
        match self {
            Self::Reserve => 5,
            Self::Beat => 3,
            Self::Claim | Self::Renew | Self::Land => 1,
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
