//! No room for a file, then room again: the same command goes on, and starts nothing.

use std::process::Stdio;

use super::Ran;
use super::rig::Rig;

/// Files of the program may have so many KiB. The limit is an error of a write, as a full disk is, and needs no root.
fn limit(kib: u32) -> String {
    format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"")
}

#[test]
fn a_run_without_room_goes_on_when_there_is_some() {
    let rig = Rig::with(&[]);
    let limited = |kib| Ran::of(rig.command(Some(&limit(kib)), &[]).output().unwrap());
    let text = "make room and run the same command again; what came is kept";
    // A part does not fit, then the table does not.
    assert!(limited(1_000).ended(3, text).err.contains(".partial"));
    let partial = rig.home.path().join(".issues.csv.exportgate/part-00001.partial");
    assert_eq!(partial.metadata().map(|found| found.len()).ok(), Some(1_000 * 1024));
    assert!(limited(2_000).ended(3, text).err.contains("exportgate/table"));
    assert!(rig.read(".issues.csv.exportgate/table").is_none(), "half a table takes room");
    assert!(rig.read("issues.csv").is_none());
    Ran::of(rig.command(None, &[]).output().unwrap()).ended(0, "going on with export");
    assert!(rig.read("issues.csv").unwrap() == Rig::table());
    let manifest: serde_json::Value =
        serde_json::from_slice(&rig.read("issues.csv.manifest.json").unwrap()).unwrap();
    let calls = manifest["calls"].as_array().unwrap();
    let last = &calls[calls.len() - 3..];
    assert!(last.iter().all(|call| call["status"] == 304), "nothing is downloaded twice: {last:?}");
    assert_eq!(rig.starts(), 1);
}

#[test]
fn standard_output_without_room_is_tried_again() {
    let rig = Rig::with(&[]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = rig.command(None, &["-o", "-"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    Ran::of(ran).ended(3, "no space is left for standard output");
    let ran = Ran::of(rig.command(None, &["-o", "-"]).output().unwrap()).ended(0, "going on with export");
    assert!(ran.out == Rig::table());
    assert_eq!(rig.starts(), 1);
}
