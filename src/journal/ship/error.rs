//! The failures of the database of many gateways.

/// The database did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShipError {
    /// It did not answer in time.
    #[error("no answer in time (journal.ship_timeout)")]
    Timeout,
    /// No connection was made.
    #[error("no connection: {0}")]
    Connect(String),
    /// `journal.ship_password_file` or `journal.ship_ca_file` cannot be used.
    #[error("{0}")]
    File(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It refused: no rights, no tables, read-only.
    #[error("{text} (SQLSTATE {code})")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// Its own words.
        text: String,
    },
    /// The tables are of another version of exportgate.
    #[error(
        "its tables have the format {0}, and this exportgate knows 1: upgrade the gateways, or run the SQL of `exportgate journal schema`"
    )]
    Format(i32),
    /// The file of the journal cannot be read.
    #[error("the outbox cannot be read: {0}")]
    Outbox(String),
    /// This build has no support for it.
    #[error("this build of exportgate has no support for journal.ship_to (cargo feature \"postgres\")")]
    NotBuilt,
}

impl ShipError {
    /// Something is wrong with what is written, so that writing it again fails again (class 22, and a value that is missing).
    pub(super) fn is_in_the_data(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code.starts_with("22") || code == "23502")
    }

    /// The remedy, where the words of the database do not tell it.
    pub(super) fn advice(&self) -> &'static str {
        let Self::Refused { code, .. } = self else { return "" };
        match code.as_str() {
            "42P01" | "3F000" | "42883" => {
                "; it has no tables of exportgate: run the SQL of `exportgate journal schema` there"
            }
            "42501" => "; grant the role exportgate_writer to the user of journal.ship_to",
            _ => "",
        }
    }
}
