//! `kill -9` at random times, again and again until a run ends well: one start, and one output.

use std::process::Stdio;
use std::time::Duration;

use super::Desk;
use super::stub::{Stub, StubGateway, StubPart};

/// Kills of this test: `FETCH_KILLS`, or this many.
const KILLS: u32 = 10;

fn kills() -> u32 {
    std::env::var("FETCH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

#[test]
fn a_run_that_is_killed_anywhere_goes_on_with_the_same_command() {
    let part = |at: usize| {
        let rows: Vec<String> =
            (0..20_000).map(|row| format!("{at},\"row {row}\nof part {at}\"\n")).collect();
        let rows = rows.concat();
        StubPart::of(format!("PART,TEXT\n{rows}"))
    };
    let parts: Vec<StubPart> = (1..=4).map(part).collect();
    let expected: Vec<u8> = parts
        .iter()
        .enumerate()
        .flat_map(|(at, part)| if at == 0 { &part.content[..] } else { &part.content["PART,TEXT\n".len()..] })
        .copied()
        .collect();
    let mut left = kills();
    while left > 0 {
        let slow = Duration::from_millis(10);
        let stub =
            Stub { parts: parts.clone(), slow, slow_start: Duration::from_millis(30), ..Stub::default() };
        let desk = Desk::before(StubGateway::start(stub));
        let mut warned = 0;
        loop {
            let wait = fastrand::u64(0..900);
            let mut child = desk.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
            let killer = std::time::Instant::now();
            let ended = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if left > 0 && killer.elapsed() >= Duration::from_millis(wait) {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            if ended.is_none() {
                child.kill().unwrap();
                left -= 1;
            }
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            warned += u32::from(text.contains("there may be an export more"));
            if let Some(status) = ended {
                assert_eq!(status.code(), Some(0), "{text}");
                break;
            }
            // What has the final name is whole.
            if desk.has("issues.csv") {
                assert!(desk.file("issues.csv") == expected);
            }
        }
        assert!(desk.file("issues.csv") == expected);
        assert!(desk.has("issues.csv.manifest.json") && !desk.has(".issues.csv.exportgate"));
        let starts = desk.gateway.stub().starts;
        assert!(starts <= 1 + warned, "{starts} starts, {warned} said so");
    }
}
