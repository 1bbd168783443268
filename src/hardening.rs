//! What the process does to itself before it holds a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps and reading this process's memory by its own user off, so that a crash leaves no
/// credential on a disk; lets it open as many sockets as the machine's hard limit allows.
///
/// What cannot be had is given back, to be said when there is a log, and not fatal: a container may forbid it.
#[must_use]
pub fn harden() -> Vec<String> {
    let mut denied = Vec::new();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        denied.push(format!("core dumps cannot be turned off: {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        denied.push(format!("this process's memory cannot be closed to its own user: {error}"));
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        denied.push(format!("the limit on open files cannot be raised: {error}"));
    }
    denied
}

/// How many files and sockets may be open at once; `None` without a limit.
#[must_use]
pub fn max_open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
