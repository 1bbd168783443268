//! Downloads that break off, change, or bring something else than was announced.

use std::collections::VecDeque;

use super::stub::{Stub, StubGateway, StubPart};
use super::{Desk, sample};

fn table(rows: usize) -> Vec<u8> {
    let row = |at: usize| format!("{at},\"cell {at}, with a \"\"quote\"\"\"\n");
    ["A,B\n".to_owned(), (0..rows).map(row).collect()].concat().into_bytes()
}

fn before(part: StubPart) -> Desk {
    Desk::before(StubGateway::start(Stub { parts: vec![part], ..Stub::default() }))
}

fn gets(desk: &Desk) -> Vec<String> {
    desk.gateway.stub().seen.iter().filter(|line| line.contains(".csv")).cloned().collect()
}

#[test]
fn a_part_that_breaks_off_goes_on_where_it_was() {
    let whole = table(100_000);
    let desk =
        before(StubPart { cuts: VecDeque::from([1_000_000, 2_000_000]), ..StubPart::of(whole.clone()) });
    desk.run(&[]).ended(0, "part 1: the transfer broke off");
    assert_eq!(desk.file("issues.csv"), whole);
    let gets = gets(&desk);
    assert_eq!(gets.len(), 3, "{gets:?}");
    assert!(gets[1].ends_with("bytes=1000000-") && gets[2].ends_with("bytes=2000000-"), "{gets:?}");
}

#[test]
fn a_part_that_has_changed_is_taken_from_its_start() {
    let whole = table(50_000);
    let desk = before(StubPart { cuts: VecDeque::from([900_000]), ..StubPart::of(table(60_000)) });
    let mut first = desk.command(&["--timeout", "1s"]);
    let slow = std::time::Duration::from_millis(40);
    desk.gateway.stub().slow = slow;
    assert_eq!(first.output().unwrap().status.code(), Some(3));
    *desk.gateway.stub() = Stub { parts: vec![StubPart::of(whole.clone())], ..Stub::default() };
    desk.run(&[]).ended(0, "complete");
    assert_eq!(desk.file("issues.csv"), whole);
    assert_eq!(desk.gateway.stub().starts, 0);
}

#[test]
fn what_came_in_an_earlier_run_is_asked_for_once_more_and_kept() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    desk.gateway.stub().parts[2].crc32c = Some(1);
    desk.run(&[]).ended(6, "part 3: the bytes that came have another checksum (CRC32C)");
    assert!(!desk.has("issues.csv") && desk.has(".issues.csv.exportgate/part-00001.csv"));
    assert!(!desk.has(".issues.csv.exportgate/part-00003.csv"), "what is not whole is not kept");
    desk.gateway.stub().parts[2] = StubPart::of(sample("a3"));
    // The order of the parts may be another one by now.
    desk.gateway.stub().parts.swap(0, 1);
    desk.run(&[]).ended(0, "complete: 5 rows");
    let text = String::from_utf8(desk.file("issues.csv")).unwrap();
    assert!(text.find("#i3").unwrap() < text.find("#i1").unwrap(), "{text}");
    assert_eq!(desk.gateway.stub().starts, 1);
}

#[test]
fn a_part_without_a_length_is_whole_only_where_its_end_came() {
    let whole = table(30_000);
    let part = StubPart { is_decoded: true, crc32c: None, file_size: None, ..StubPart::of(whole.clone()) };
    let desk = before(StubPart { cuts: VecDeque::from([400_000]), ..part });
    desk.run(&[])
        .ended(0, "1 part, proven by closed quotes alone")
        .ended(0, "warning: part 1: nothing but its closed quotes");
    assert_eq!(desk.file("issues.csv"), whole);
    assert_eq!(gets(&desk).len(), 2);
    assert!(gets(&desk).iter().all(|get| !get.contains("bytes=")), "{:?}", gets(&desk));
}

#[test]
fn snyks_numbers_count_where_nothing_stronger_did() {
    let wrong = |crc32c| StubPart { row_count: Some(9), crc32c, ..StubPart::of(sample("d1")) };
    let proven = Some(crc32c::crc32c(&sample("d1")));
    let text = "part 1: 1 rows came where Snyk's row_count says 9";
    let weak = StubPart { file_size: None, ..wrong(None) };
    before(weak).run(&[]).ended(6, text);
    let desk = before(wrong(proven));
    desk.run(&[]).ended(0, &format!("warning: {text}"));
    assert_eq!(desk.manifest()["warnings"][0], text);
    desk.run(&["--clobber", "--rows", "fail"]).ended(6, text);
}

#[test]
fn the_rows_of_all_parts_are_those_that_snyk_announced() {
    let desk = Desk::before(StubGateway::of(&["a1", "a2", "a3"]));
    desk.gateway.stub().row_count = Some(5);
    desk.run(&["--rows", "fail"]).ended(0, "closed quotes; as many rows as Snyk announced");
    let text = "all parts have 5 rows where Snyk's row_count of the export says 9";
    desk.gateway.stub().row_count = Some(9);
    let ran = desk.run(&["--clobber"]).ended(0, &format!("warning: {text}"));
    assert!(!ran.err.contains("as many rows"), "{}", ran.err);
    assert_eq!(desk.manifest()["warnings"][0], text);
    for args in [&["-o", "b.csv"][..], &["-o", "p", "--parts"], &["-o", "-"]] {
        let ran = desk.run(&[args, &["--rows", "fail"]].concat()).ended(6, text);
        // To standard output, at least the last part does not come.
        assert!(!desk.has("b.csv") && !desk.has("p/part-0001.csv") && ran.out.len() < 592);
    }
    for part in &mut desk.gateway.stub().parts {
        (part.crc32c, part.file_size) = (None, None);
    }
    desk.run(&["-o", "c.csv"]).ended(6, text);
}

#[test]
fn a_part_that_always_breaks_off_ends_the_run_and_its_bytes_stay() {
    let part = StubPart { cuts: VecDeque::from([300_000, 0, 0, 0, 0, 0]), ..StubPart::of(table(30_000)) };
    let desk = before(part);
    desk.run(&[]).ended(1, "times in a row");
    assert!(!desk.has("issues.csv"));
    desk.run(&[]).ended(0, "going on with export");
    assert!(gets(&desk).last().unwrap().ends_with("bytes=300000-"), "{:?}", gets(&desk));
    assert_eq!(desk.file("issues.csv"), table(30_000));
}

#[test]
fn a_part_that_always_breaks_off_at_its_end_is_not_proven() {
    let desk = before(StubPart { cuts: VecDeque::from([0; 5]), ..StubPart::of(table(10)) });
    let ran = desk.run(&[]).ended(6, "part 1 could not be proven: the transfer broke off in its last 64 KiB");
    assert!(
        ran.err.contains("The gateway's log names the proof") && ran.err.contains("--restart"),
        "{}",
        ran.err
    );
    desk.run(&[]).ended(0, "going on with export");
}

#[test]
fn a_part_that_the_gateway_cannot_prove_ends_the_run() {
    let refusal =
        |code, times| super::stub::Refusal { ending: "/1.csv", status: 502, code, retry_after: None, times };
    let desk = before(StubPart::of(table(10)));
    desk.gateway.stub().refusals = vec![refusal("not_proven", 1)];
    desk.run(&[]).ended(6, "part 1 could not be proven: T: D (502)");
    // What has changed once is asked for again.
    desk.gateway.stub().refusals = vec![refusal("object_changed", 1)];
    desk.run(&[]).ended(0, "complete");
    desk.gateway.stub().refusals = vec![refusal("object_changed", 5)];
    desk.run(&["--clobber"]).ended(6, "part 1 could not be proven: T: D (502), 5 times in a row");
}
