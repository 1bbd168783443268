//! Restrictions that the process sets on itself before it holds a secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Disables core dumps and access to this process's memory by its own user, so that a crash leaves no credential on a
/// disk. Raises the limit on open files to the hard limit.
///
/// Returns the steps that failed, to be logged later. They are not fatal: a container may forbid them.
#[must_use]
pub fn harden() -> Vec<String> {
    let mut denied = Vec::new();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        denied.push(format!("core dumps cannot be disabled: {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        denied.push(format!("access to this process's memory by its own user cannot be disabled: {error}"));
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        denied.push(format!("the limit on open files cannot be raised: {error}"));
    }
    denied
}

/// Limit on open files and sockets, if there is one.
#[must_use]
pub fn max_open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
