//! The failures of the engine.

/// The engine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no connection.
    #[error("not connected")]
    Away,
    /// It did not answer in time.
    #[error("no answer in time (shared.timeout)")]
    Timeout,
    /// No connection was made.
    #[error("{0}")]
    Connect(String),
    /// `shared.password_file` or `shared.ca_file` cannot be used.
    #[error("{0}")]
    File(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It refused: no rights, no memory, a replica, or data that are not loaded yet.
    #[error("{0}")]
    Refused(String),
    /// The data are of another version of exportgate.
    #[error("its data have the format {0}, which this version does not know")]
    Format(String),
    /// Its answer is none of our scripts'.
    #[error("an answer that cannot be read")]
    Unreadable,
    /// Its clock went faster than ours.
    #[error("its clock was set forward")]
    ClockAhead,
    /// This build has no support for it.
    #[error("this build of exportgate has no support for [shared] (cargo feature \"shared\")")]
    NotBuilt,
}
