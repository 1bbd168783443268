//! The states of named exports, for all gateways (0020): one hash for each name and question, with a lease, a fence and a version.
//! The states are sealed: without `shared.key_file` nothing of this is used.

use std::time::Duration;

use super::error::EngineError;
use super::names::hashed;
use super::script::Script;
use super::{Shared, duration, milliseconds};

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(30);
/// The engine keeps a state for so long after the last look at it: Snyk has deleted the files by then.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// A state that the engine does not have is left to its last holder for so long.
const LAST_HOLDER_FIRST: Duration = Duration::from_secs(3);

/// The place of a named export's state.
#[derive(Debug, Clone)]
pub struct NamedPlace {
    name: String,
    context: Vec<u8>,
}

impl NamedPlace {
    /// The place for a name and the digest of its question. It tells nobody which name.
    #[must_use]
    pub fn new(name: &str, question: &str) -> Self {
        let text = format!("named\n{name}\n{question}");
        Self { name: format!("n:{}", hashed(&text)), context: text.into_bytes() }
    }
}

/// The part of a gateway in a look at a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedAct {
    /// It looks alone.
    Look,
    /// It takes the lease where that is free, or renews it.
    Take,
    /// It ends its lease.
    Leave,
}

/// A state as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSeen {
    /// True if the lease is the caller's.
    pub is_held: bool,
    /// The number of the lease: another one for each new holder.
    pub fence: i64,
    /// The number of the state: another one for each change.
    pub version: i64,
    /// The state; `None` if there is none, or it does not open.
    pub state: Option<String>,
    /// Its age by the engine's clock, if that is known.
    pub age: Option<Duration>,
}

impl Shared {
    /// Looks at a state as the gateway `holder`, whose last fence was `fence` (0 for none).
    ///
    /// # Errors
    /// [`EngineError`]: nothing is known of it.
    pub async fn look_named(
        &self,
        place: &NamedPlace,
        holder: &str,
        act: NamedAct,
        fence: i64,
    ) -> Result<NamedSeen, EngineError> {
        let act = match act {
            NamedAct::Look => "look",
            NamedAct::Take => "take",
            NamedAct::Leave => "leave",
        };
        let own = own(holder, act, fence);
        let reply = self.0.call(Script::Named, &self.named_keys(place), &own).await?;
        let opened = self.0.settings.seal.as_ref().and_then(|keys| keys.open(&place.context, reply.bytes(5)));
        let age = Some(reply.number(6)?).filter(|age| *age >= 0).map(duration);
        Ok(NamedSeen {
            is_held: reply.number(2)? == 1,
            fence: reply.number(3)?,
            version: reply.number(4)?,
            state: opened.and_then(|state| String::from_utf8(state).ok()),
            age,
        })
    }

    /// Puts a state in place of the one that was `seen` under the caller's lease. Gives its version; `None` if the lease is
    /// another's by now, or the state another.
    ///
    /// # Errors
    /// [`EngineError`]: it may have been put.
    pub async fn put_named(
        &self,
        place: &NamedPlace,
        holder: &str,
        seen: &NamedSeen,
        state: &str,
    ) -> Result<Option<i64>, EngineError> {
        let sealed =
            self.0.settings.seal.as_ref().and_then(|keys| keys.seal(&place.context, state.as_bytes()));
        let mut own = own(holder, "put", seen.fence);
        own[4] = seen.version.to_string().into_bytes();
        own[5] = sealed.ok_or(EngineError::Away)?;
        let reply = self.0.call(Script::Named, &self.named_keys(place), &own).await?;
        Ok(if reply.number(2)? == 1 { Some(reply.number(4)?) } else { None })
    }

    fn named_keys(&self, place: &NamedPlace) -> [String; 2] {
        [self.0.fleet_key(), format!("{}:{}", self.0.settings.prefix, place.name)]
    }
}

/// The arguments of the script, with nothing to put.
fn own(holder: &str, act: &str, fence: i64) -> [Vec<u8>; 8] {
    let number = |number: i64| number.to_string().into_bytes();
    [
        holder.as_bytes().to_vec(),
        act.as_bytes().to_vec(),
        number(milliseconds(LEASE)),
        number(fence),
        number(0),
        Vec::new(),
        number(milliseconds(KEPT)),
        number(milliseconds(LAST_HOLDER_FIRST)),
    ]
}
