//! A journal that cannot be written keeps records, as many as it may, and says so.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test]
async fn a_file_that_is_no_journal_is_left_alone_and_the_journal_recovers() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::write(&path, "this is a letter, not a database").unwrap();
    let journal = journal(&path);
    assert_eq!(journal.record(attempt(1), vec![]).await, Err(Unrecorded::Failing));
    assert!(journal.is_failing());
    assert_eq!(journal.dropped(), 0);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is a letter"));
    assert!(matches!(find(&path, &Query::default()), Err(QueryError::Unreadable { .. })));
    std::fs::remove_file(&path).unwrap();
    while journal.record(attempt(2), vec![]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(!journal.is_failing());
    // What could not be written then is written now.
    assert_eq!(count(&path, &Query::default()), 2);
}

#[tokio::test]
async fn what_waits_for_a_file_that_cannot_be_written_is_bounded_and_lost_at_the_end() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::write(&path, "this is a letter, not a database").unwrap();
    let fewer = Settings { max_pending: 10, ..settings(&path) };
    // It does not try again while this lasts.
    let journal = Journal::open_with_retry(fewer, Clock::system(), Duration::from_hours(1));
    assert_eq!(journal.record(attempt(1), vec![]).await, Err(Unrecorded::Failing));
    for n in 2..=400 {
        assert_eq!(journal.record(attempt(n), vec![]).await, Err(Unrecorded::Failing));
    }
    // A group may be in hand, besides those that are queued.
    while journal.queued() as u64 + journal.dropped() < 400 {
        tokio::task::yield_now().await;
    }
    assert!((10..=266).contains(&journal.queued()), "{}", journal.queued());
    journal.close().await;
    assert_eq!((journal.queued(), journal.dropped()), (0, 400));
}

#[tokio::test]
async fn records_that_wait_are_written_at_the_end_where_that_works() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    std::fs::write(&path, "this is a letter, not a database").unwrap();
    let journal = Journal::open_with_retry(settings(&path), Clock::system(), Duration::from_hours(1));
    for n in 1..=20 {
        assert_eq!(journal.record(attempt(n), vec![served(n, "bob")]).await, Err(Unrecorded::Failing));
    }
    std::fs::remove_file(&path).unwrap();
    journal.close().await;
    assert_eq!((journal.dropped(), count(&path, &Query::default())), (0, 20));
}

#[tokio::test]
async fn a_thread_that_panics_begins_anew_and_what_it_had_in_hand_is_counted() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let panics = AtomicBool::new(true);
    let journal = Journal::start(settings(&path), Clock::system(), move |settings, shared, queue| {
        if panics.swap(false, Ordering::Relaxed) {
            drop(queue.blocking_recv());
            shared.health.in_hand.store(1, Ordering::Relaxed);
            panic!("on purpose");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (clock, retry) = (Clock::system(), Duration::from_millis(1));
        runtime.block_on(writer::Writer::new(settings.clone(), clock, retry, shared.clone()).run(queue));
    });
    assert!(journal.record(attempt(1), vec![]).await.is_err());
    while journal.panics() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(journal.is_failing());
    assert_eq!((journal.dropped(), journal.record(attempt(2), vec![]).await), (1, Err(Unrecorded::Failing)));
    while journal.is_failing() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(journal.record(attempt(3), vec![]).await, Ok(()));
    assert_eq!(count(&path, &Query::default()), 2);
    journal.close().await;
}
