//! The outbox has what is on record and not shipped, whatever happens between a reading and the taking off.

use super::*;
use crate::journal::command::WriterCommand;
use crate::journal::database::Database;
use crate::journal::sends::{SendsListener, SendsReader};
use crate::journal::ship::outbox;

#[test]
fn what_changes_while_it_is_shipped_is_shipped_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let ship = ShipSettings {
        address: DatabaseAddress::Unix("/nonexistent".into()),
        user: "gate".into(),
        database: "audit".into(),
        password_file: None,
        ca_file: None,
        max_rows: 100,
        timeout: Duration::from_secs(1),
    };
    let settings = Settings { ship: Some(ship), ..settings(&path) };
    let mut database = Database::open(&settings, Duration::from_secs(1), &Arc::default()).unwrap();
    let mut write = |command: WriterCommand| {
        let (mut sends, listener) = (SendsReader::default(), SendsListener::default());
        database.write([command].iter(), &Clock::system(), &mut sends, &listener).unwrap();
    };
    let open = Attempt { status: None, ..attempt(1) };
    write(WriterCommand::Attempt(Box::new(open), Vec::new()));
    let first = outbox::read(&path, 10).unwrap();
    assert_eq!((first.rows.len(), &first.rows[0].columns["status"]), (1, &serde_json::Value::Null));
    // Its answer comes while the row is on its way.
    write(WriterCommand::Attempt(Box::new(attempt(1)), Vec::new()));
    write(WriterCommand::Serve(Uuid::from_u128(1), vec![served(7, "bob"), served(8, "carol")]));
    write(WriterCommand::Shipped(first.last));
    let second = outbox::read(&path, 10).unwrap();
    assert_eq!((second.rows.len(), second.lost), (3, 0));
    assert_eq!(second.rows[0].columns["status"], 503);
    write(WriterCommand::Shipped(second.last));
    assert_eq!(outbox::size(&path).unwrap().rows, 0);
    // A number is never used twice, so that a late taking off takes nothing.
    write(WriterCommand::Attempt(Box::new(attempt(2)), Vec::new()));
    write(WriterCommand::Shipped(second.last));
    assert_eq!(outbox::read(&path, 10).unwrap().rows.len(), 1);
    // What is deleted here before it was shipped is known to be missing there.
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM attempts", []).unwrap();
    assert_eq!(outbox::read(&path, 10).unwrap().lost, 1);
}
