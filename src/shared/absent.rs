//! The connection of a build without support for a shared engine.

use tokio::sync::mpsc;

use super::error::EngineError;
use super::script::{ConnectionDriver, HoldMessage, Script, ScriptReply};
use super::settings::Settings;

/// None can be made.
#[derive(Debug)]
pub(super) enum NoConnection {}

pub(super) use NoConnection as EngineConnection;

#[expect(clippy::unused_async, reason = "the connection of other builds waits")]
impl NoConnection {
    pub(super) async fn open(
        _: &Settings,
        _: &str,
        _: mpsc::UnboundedSender<HoldMessage>,
    ) -> Result<(Self, ConnectionDriver), EngineError> {
        Err(EngineError::NotBuilt)
    }

    pub(super) async fn run(
        &self,
        _: Script,
        _: &[String],
        _: &[impl AsRef<[u8]>],
    ) -> Result<ScriptReply, EngineError> {
        match *self {}
    }

    pub(super) async fn look(&self, _: &[&str]) -> Result<Vec<String>, EngineError> {
        match *self {}
    }
}
