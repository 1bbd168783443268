//! `kill -9` at random times, again and again until a run ends well: one start, and one output.
//!
//! `EXPORTGATE_FETCH_KILLS=50` kills so often; the default is a few.

use std::process::{Child, Stdio};
use std::time::Duration;

use super::rig::Rig;
use crate::support::raw;

const KILLS: u32 = 8;
/// A run that is not killed takes longer: the download alone has a second.
const LONGEST: u64 = 3_000;
/// The start and its answer are within this, and so is all that follows the last part.
const AT_AN_END: u64 = 300;
const MORE: &str = "there may be an export more";

fn kills() -> u32 {
    std::env::var("EXPORTGATE_FETCH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

/// Waits for a time to kill at: near the start, anywhere, or when all parts are there.
fn wait(left: u32, rig: &Rig, child: &mut Child) {
    let longest = if left % 3 == 1 { LONGEST } else { AT_AN_END };
    if left % 3 == 2 {
        raw::poll("all parts, or an end", || {
            (rig.has_all_parts() || child.try_wait().unwrap().is_some()).then_some(())
        });
    }
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..longest)));
}

#[test]
#[expect(clippy::print_stdout, reason = "figures are told")]
fn a_run_that_is_killed_anywhere_goes_on_with_the_same_command() {
    let table = Rig::table();
    let (mut left, mut rounds, mut said) = (kills(), 0, 0);
    while left > 0 {
        let rig = Rig::with(&["--store-fault", "rate:1000000", "--fault", "delay:50@starts"]);
        let mut warned = 0;
        loop {
            let mut child = rig.command(None, &[]).stderr(Stdio::piped()).spawn().unwrap();
            let is_killed = left > 0 && {
                wait(left, &rig, &mut child);
                child.try_wait().unwrap().is_none()
            };
            if is_killed {
                child.kill().unwrap();
                left -= 1;
            }
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            warned += u64::from(text.contains(MORE));
            rig.assert_no_secret();
            // Whatever has the final name is whole.
            assert!(rig.read("issues.csv").is_none_or(|found| found == table), "{text}");
            if output.status.code().is_some() {
                assert_eq!(output.status.code(), Some(0), "{text}");
                break;
            }
        }
        assert!(rig.read("issues.csv").is_some() && rig.read("issues.csv.manifest.json").is_some());
        assert!(!rig.home.path().join(".issues.csv.exportgate").exists(), "the state has gone");
        let starts = rig.starts();
        assert!((1..=1 + warned).contains(&starts), "{starts} starts, and {warned} runs said so");
        (rounds, said) = (rounds + 1, said + warned);
    }
    println!("{} kills in {rounds} exports; {said} runs said that there may be an export more", kills());
}
