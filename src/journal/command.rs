//! The commands to the thread that owns the file.

use std::fmt;

use uuid::Uuid;

use super::named::NamedJob;
use super::record::{Attempt, Served};
use super::starts::StartCommand;
use super::transfer::TransferRecord;
use crate::clock::Now;

/// A command to the thread that owns the file.
#[derive(Debug)]
pub(super) enum WriterCommand {
    /// Records an attempt and the clients that it answered.
    Attempt(Box<Attempt>, Vec<Served>),
    /// Records the clients that an attempt answered later.
    Serve(Uuid, Vec<Served>),
    /// Puts a request on record before it is sent, if it may still be sent then.
    Reserve(Box<Attempt>, Confirm),
    /// Marks a request on record as not sent.
    Withdraw(Uuid),
    /// Records the transfer of a file.
    Transfer(Box<TransferRecord>),
    /// Reads the requests that other processes sent, and writes nothing.
    Look,
    /// Changes the row of a named export.
    Named(NamedJob),
    /// Finds or forgets starts.
    Start(StartCommand),
    /// Takes the rows up to this one off the outbox.
    Shipped(i64),
}

/// Decides whether a request may be sent at a time.
pub(super) struct Confirm(pub(super) Box<dyn Fn(Now) -> bool + Send>);

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirm").finish_non_exhaustive()
    }
}

impl WriterCommand {
    /// Most rows that it inserts.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Attempt(_, served) => 1 + served.len(),
            Self::Serve(_, served) => served.len(),
            Self::Transfer(_) => 1,
            Self::Reserve(..)
            | Self::Withdraw(_)
            | Self::Look
            | Self::Named(_)
            | Self::Start(_)
            | Self::Shipped(_) => 0,
        }
    }

    /// True for a record, which is kept until it can be written.
    pub(super) fn is_record(&self) -> bool {
        match self {
            Self::Attempt(..) | Self::Serve(..) | Self::Transfer(_) => true,
            Self::Reserve(..) | Self::Withdraw(_) | Self::Look | Self::Named(_) | Self::Shipped(_) => false,
            Self::Start(command) => matches!(command, StartCommand::Forget(_)),
        }
    }
}
