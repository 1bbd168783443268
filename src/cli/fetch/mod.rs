//! `exportgate fetch`: from a question to one complete, proven table.
//!
//! It starts an export or goes on with one, waits for it, downloads its parts, proves each, merges them, and puts the table in
//! its place. All of it goes through the calls for files of a gateway: of one that runs somewhere, or of one in this process.
//! The state stands beside the output, so that the same command goes on wherever a run was stopped, without a second start. Only
//! a run that was stopped while its start call was on its way starts another export.

mod args;
mod caller;
mod columns;
mod completion;
mod download;
mod failure;
mod index;
mod manifest;
mod merge;
mod merge_error;
mod named;
mod output;
mod own_file;
mod place;
mod progress;
mod proof;
mod question;
mod rows;
mod session;
mod signal;
mod state;
mod target;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{CommandError, block_on, print};
use crate::clock::Clock;
use crate::config::Sources;
use caller::Caller;
use completion::Completion;
use failure::{Ending, EndingKind};
use manifest::FetchManifest;
use place::{AskedPlace, OwnGateway};
use progress::{FetchEvent, FetchProgress};
use question::FetchQuestion;
use session::Session;
use signal::StopSignal;
use state::{OpenedState, RunState, seconds};
use target::{FetchTarget, TargetKind};

pub(super) use args::FetchArgs;
use args::ProgressStyleArg;

pub(super) fn run(args: FetchArgs) -> Result<(), CommandError> {
    // Secrets are read after this. A container may forbid it, and a run is short.
    let _ = crate::hardening::harden();
    let clock = Clock::system();
    let question = FetchQuestion::of(&args, clock.now().wall)?;
    let place = AskedPlace::of(&args.conduct, question.named.is_some())?;
    if args.conduct.dry_run {
        return print(&mut anstream::stdout(), &dry_run(&question, &place));
    }
    let target = FetchTarget::of(&args.output, &question)?;
    let progress = Arc::new(FetchProgress::new(args.conduct.progress));
    if args.output.skip_existing && target.exists() {
        return Ok(());
    }
    let Some(prepared) = prepare(args, question, target, progress, clock)? else { return Ok(()) };
    let _unwritten = place.log(prepared.args.conduct.progress == ProgressStyleArg::Json)?;
    let signal = StopSignal::receive(&prepared.progress)
        .map_err(|error| CommandError::Other("signals cannot be received", error.into()))?;
    block_on(Box::pin(conduct(prepared, place, signal)))
}

/// A session without its client, and the state that was found.
struct Prepared {
    args: FetchArgs,
    question: FetchQuestion,
    target: FetchTarget,
    progress: Arc<FetchProgress>,
    clock: Clock,
    opened: OpenedState,
}

/// Opens the state. Gives nothing where only the end of an earlier run was missing.
fn prepare(
    args: FetchArgs,
    question: FetchQuestion,
    target: FetchTarget,
    progress: Arc<FetchProgress>,
    clock: Clock,
) -> Result<Option<Prepared>, Ending> {
    // Where many write, only a sticky folder keeps ours from being swapped: one of our own in it would not.
    let elsewhere = Sources::state_folder().map_or_else(std::env::temp_dir, |folder| folder.join("fetch"));
    let path = target.state_folder(&question, &elsewhere);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let (TargetKind::Stdout | TargetKind::Parts(_), Some(folder)) = (&target.kind, folder) {
        std::fs::create_dir_all(folder).map_err(|error| Ending::of_file(folder, &error))?;
    }
    let mut opened = OpenedState::open(&path, &question, args.conduct.restart, clock.now().wall)?;
    let completion = Completion { folder: &opened.folder, target: &target, progress: &progress };
    if completion.complete_earlier()? {
        return Ok(None);
    }
    if !args.output.clobber && question.named.is_none() && completion.is_done(&question) {
        return Ok(None);
    }
    target.refuse_existing()?;
    completion.refuse_strangers(None)?;
    if let Some(text) = opened.note.take() {
        progress.say(&FetchEvent::Warning { text });
    }
    if opened.state.export.is_none() {
        opened.state.export = recent(&args, &question, &target, &mut opened.state.started, &clock);
    }
    Ok(Some(Prepared { args, question, target, progress, clock, opened }))
}

/// The export of the manifest beside the output, where `--max-age` takes it.
fn recent(
    args: &FetchArgs,
    question: &FetchQuestion,
    target: &FetchTarget,
    started: &mut u64,
    clock: &Clock,
) -> Option<String> {
    let max_age = args.conduct.max_age?;
    let manifest = FetchManifest::read(target.manifest.as_ref()?)?;
    let began = seconds(humantime::parse_rfc3339(&manifest.started).ok()?);
    let age = seconds(clock.now().wall).saturating_sub(began);
    if manifest.question != question.typed || age > max_age.as_secs() {
        return None;
    }
    *started = began;
    Some(manifest.export)
}

async fn conduct(prepared: Prepared, place: AskedPlace, mut signal: StopSignal) -> Result<(), CommandError> {
    let Prepared { args, question, target, progress, clock, opened } = prepared;
    let deadline = clock.now().mono + args.conduct.timeout;
    let (place, own) = match place {
        AskedPlace::Gateway(place) => (place, None),
        AskedPlace::Direct(config) => {
            let own = OwnGateway::start(*config).await?;
            (own.place(), Some(own))
        }
    };
    let OpenedState { folder, mut state, .. } = opened;
    let caller = Caller::new(place, folder.call_log()?)?;
    let args = args.conduct;
    let session = Session { question, args, target, caller, folder, progress, clock, deadline };
    let timeout = session.args.timeout;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(timeout, session.run(&mut state)) => {
            outcome.unwrap_or_else(|_| Err(out_of_time(timeout)))
        }
        signal = signal.came() => Err(signal::ending(signal)),
    };
    let outcome = outcome.map_err(|ending| of_unknown_start(ending, &state));
    session.progress.clear();
    if state.export.is_none() && !state.is_start_sent {
        // Nothing is there to go on with.
        let _ = session.folder.clear();
    }
    if let Some(own) = own {
        own.end().await;
    }
    Ok(outcome?)
}

fn out_of_time(timeout: Duration) -> Ending {
    let text = format!(
        "not complete within {} (--timeout): run the same command again; it goes on, and starts nothing",
        session::words(timeout)
    );
    Ending::new(EndingKind::Unfinished, text)
}

/// A run that was ended while its start call was on its way cannot be gone on with.
fn of_unknown_start(ending: Ending, state: &RunState) -> Ending {
    let is_unfinished = ending.kind == EndingKind::Unfinished;
    let is_stopped = matches!(ending.kind, EndingKind::Stopped(_));
    if state.export.is_some() || !state.is_start_sent || !(is_unfinished || is_stopped) {
        return ending;
    }
    // A loop that runs the command again after a 3 would start one export after another.
    let (kind, why) = if is_unfinished {
        (EndingKind::Failed, "--timeout is over")
    } else {
        (ending.kind, "the run was stopped")
    };
    let text = format!(
        "{why}, and the start call was sent: its outcome is unknown. Snyk may have started the export; the next run starts another one"
    );
    Ending::new(kind, text)
}

/// The request that would start the export.
fn dry_run(question: &FetchQuestion, place: &AskedPlace) -> String {
    let place = place.shown();
    let Some(start) = &question.start else {
        return format!(
            "Nothing would be started. The files would be asked for {place}:\n\nGET {}\n",
            question.files()
        );
    };
    let body = serde_json::to_string_pretty(&start.body).unwrap_or_else(|_| Value::Null.to_string());
    format!(
        "This would be sent {place}; the credential is not shown:\n\nPOST {}\nContent-Type: application/vnd.api+json\n\n{body}\n",
        start.target
    )
}
