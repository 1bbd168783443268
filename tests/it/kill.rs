//! `kill -9` at any moment loses no record of an answer that a client received.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;

use exportgate::fake::{Fake, Script, Settings, State};
use exportgate::journal::{Query, find};
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::{keep_file, results, scope};

/// New exports for a round, so that some answers are stored and then hit, among polls of one that goes on.
pub(crate) fn targets(fake: &Fake, round: usize, exports: usize) -> Vec<String> {
    let mut targets = vec![results("pending")];
    for export in 0..exports {
        let name = format!("r{round}-{export}");
        fake.put_export(&scope(), &name, State::Finished);
        targets.extend([results(&name), results(&name), results("pending")]);
    }
    targets
}

/// Asks over and over until the program is gone; the request ids of all answers that came whole.
pub(crate) fn ask(
    address: SocketAddr,
    targets: &[String],
    received: &Mutex<Vec<(String, bool)>>,
    told: &mpsc::Sender<()>,
) {
    let Ok(stream) = TcpStream::connect(address) else { return };
    let mut reader = BufReader::new(stream);
    for target in targets.iter().cycle() {
        if write!(reader.get_mut(), "GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").is_err() {
            return;
        }
        let (mut id, mut length, mut hit) = (None, 0, false);
        loop {
            let mut line = String::new();
            if !matches!(reader.read_line(&mut line), Ok(1..)) || !line.ends_with("\r\n") {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if lower.starts_with("exportgate-request-id: ") {
                id = Some(line.trim_end()[23..].to_owned());
            } else if lower.starts_with("content-length: ") {
                length = line.trim_end()[16..].parse().unwrap();
            } else if lower.starts_with("cache-status: ") {
                hit = lower.contains("; hit");
            } else if line == "\r\n" {
                break;
            }
        }
        if reader.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        received.lock().unwrap().push((id.expect("each answer has an id"), hit));
        let _ = told.send(());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_at_any_moment_loses_no_record_of_an_answer() {
    let fake = Fake::start(Settings { script: Script::default(), ..Settings::default() }).await.unwrap();
    fake.put_export(&scope(), "pending", State::Word("PENDING".into()));
    let home = TempDir::new().unwrap();
    let journal = home.path().join("journal.db");
    for round in 0..20_usize {
        let path = journal.to_string_lossy().into_owned();
        let wait = [("EXPORTGATE_JOURNAL_MAX_WAIT", "10s")];
        let mut program = Program::serve(home.path(), &fake, &["--journal", &path], &wait);
        let targets = targets(&fake, round, 20);
        let received = Mutex::new(Vec::new());
        let (told, tells) = mpsc::channel();
        let address = program.address;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (targets, received, told) = (&targets, &received, told.clone());
                scope.spawn(move || ask(address, targets, received, &told));
            }
            // A different moment each time: after so many answers.
            for _ in 0..(50 + 37 * round) {
                tells.recv().expect("answers come");
            }
            program.kill();
        });
        let rows =
            find(&journal, &Query { limit: 1_000_000, ..Query::default() }).expect("the journal is whole");
        assert!(!rows.is_empty());
        let connection = rusqlite::Connection::open(&journal).unwrap();
        let mut select = connection
            .prepare(
                "SELECT (SELECT count(*) FROM served WHERE request_id = ?1)
                      + (SELECT count(*) FROM attempts WHERE request_id = ?1 AND answered = 1)",
            )
            .unwrap();
        let received = received.into_inner().unwrap();
        assert!(received.iter().any(|(_, hit)| *hit) && received.iter().any(|(_, hit)| !*hit));
        for (id, hit) in &received {
            let found: i64 = select.query_row([id], |row| row.get(0)).unwrap();
            assert_eq!(found, i64::from(!*hit), "round {round}: {id}");
        }
        // What a hit replays was recorded before it: no attempt at the upstream that brought an answer
        // to anybody is missing.
        let stored: i64 = connection
            .query_row(
                "SELECT count(DISTINCT export_id) FROM attempts WHERE export_status = 'FINISHED'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!(stored > 0);
    }
    keep_file(&journal);
}
