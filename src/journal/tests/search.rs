//! A search finds what a filter over all records finds: each of many questions is asked of a file of random records,
//! and answered by looking at every one of them too.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::journal::command::WriterCommand;
use crate::journal::database::Database;
use crate::journal::sends::{SendsListener, SendsReader};

const CLIENTS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const STATUSES: [Option<u16>; 12] = [
    Some(200),
    Some(200),
    Some(200),
    Some(200),
    Some(201),
    Some(202),
    Some(204),
    Some(302),
    Some(404),
    Some(429),
    Some(503),
    None,
];

/// A record, and who was answered by it.
struct Known {
    attempt: Attempt,
    clients: HashSet<String>,
    requests: HashSet<String>,
}

/// Milliseconds after 2001: the times of records, many of them equal.
fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000) + Duration::from_millis(ms)
}

/// Ids that begin alike, some that are no UUIDs.
fn id_of(random: &mut fastrand::Rng) -> String {
    match random.u8(..4) {
        0 => format!("e{}", random.u8(..3)),
        first => format!("{first}c1e0000-0000-4000-8000-00000000000{}", random.u8(..3)),
    }
}

fn random_attempt(random: &mut fastrand::Rng, n: u128) -> Attempt {
    let status = *random.choice(&STATUSES).unwrap();
    let sent_id = Uuid::from_u128(u128::from(random.u32(..40)) << 96 | n);
    Attempt {
        started: at(random.u64(..60)),
        client: Arc::from(*random.choice(&CLIENTS).unwrap()),
        request: Uuid::from_u128(u128::from(random.u32(..40)) << 96 | 1 << 64 | n),
        sent_id,
        received_id: match random.u8(..3) {
            0 => None,
            1 => Some(sent_id.to_string()),
            _ => Some(format!("Returned-{}", random.u8(..40))),
        },
        scope_kind: random.choice(["org", "group"]),
        scope_id: random.bool().then(|| id_of(random)),
        export_id: random.bool().then(|| id_of(random)),
        status,
        error: (status.is_none() || random.u8(..20) == 0).then_some("connection_terminated"),
        ..attempt(n)
    }
}

/// Fills the file with `size` records, some as earlier versions wrote them.
fn fill(database: &mut Database, random: &mut fastrand::Rng, size: u128) -> Vec<Known> {
    let mut known = Vec::new();
    for n in 1..=size {
        let attempt = random_attempt(random, n);
        let joiners = match random.u8(..10) {
            0 => random.u128(..120),
            some => u128::from(some % 4),
        };
        let one = *random.choice(&CLIENTS).unwrap();
        let mut others: Vec<_> = (0..joiners)
            .map(|joiner| {
                let client = if random.bool() { one } else { *random.choice(&CLIENTS).unwrap() };
                let request = u128::from(random.u32(..40)) << 96 | (2 + joiner) << 64 | n;
                Served { request: Uuid::from_u128(request), client: Arc::from(client) }
            })
            .collect();
        let own = Served { request: attempt.request, client: Arc::clone(&attempt.client) };
        let mut at_once = Vec::new();
        match random.u8(..6) {
            // Nobody was there any more.
            0 => {}
            // As before version 3.
            1 => others.push(own),
            _ => at_once.push(own),
        }
        let all = || at_once.iter().chain(&others);
        let clients = all().map(|one| one.client.to_string()).collect();
        let requests =
            all().map(|one| one.request.to_string()).chain([attempt.request.to_string()]).collect();
        let id = attempt.id;
        known.push(Known { attempt: attempt.clone(), clients, requests });
        let commands = [WriterCommand::Attempt(Box::new(attempt), at_once), WriterCommand::Serve(id, others)];
        let (mut sends, listener) = (SendsReader::default(), SendsListener::default());
        database.write(commands.iter(), &Clock::system(), &mut sends, &listener).unwrap();
    }
    known
}

fn is_uuid_part(id: &str) -> bool {
    id.len() >= 8 && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// True if `id` is `asked`, or begins with it.
fn fits(id: &str, asked: &str) -> bool {
    id == asked || (is_uuid_part(asked) && id.starts_with(&asked.to_lowercase()))
}

fn matches(known: &Known, query: &Query) -> bool {
    let Known { attempt, clients, requests } = known;
    let opt = |value: &Option<String>, asked: &str| value.as_deref().is_some_and(|id| fits(id, asked));
    let scope = |kind, asked: &Option<String>| {
        asked.as_ref().is_none_or(|asked| attempt.scope_kind == Some(kind) && opt(&attempt.scope_id, asked))
    };
    let status = query.status.is_none_or(|status| match status {
        StatusFilter::Exactly(status) => attempt.status == Some(status),
        StatusFilter::Class(class) => attempt.status.is_some_and(|status| status / 100 == class),
        StatusFilter::Error => attempt.error.is_some() || attempt.status.is_none(),
    });
    let any = query.id.as_ref().is_none_or(|asked| {
        let received = attempt.received_id.as_ref().map(|id| id.to_lowercase());
        requests.iter().any(|id| fits(id, &asked.to_lowercase()))
            || fits(&attempt.id.to_string(), &asked.to_lowercase())
            || fits(&attempt.sent_id.to_string(), &asked.to_lowercase())
            || opt(&received, &asked.to_lowercase())
            || (is_uuid_part(asked) && asked.len() < 36)
                && (opt(&attempt.export_id, asked) || opt(&attempt.scope_id, asked))
    });
    scope("org", &query.org)
        && scope("group", &query.group)
        && status
        && any
        && query.export.as_ref().is_none_or(|asked| opt(&attempt.export_id, asked))
        && query.client.as_ref().is_none_or(|client| clients.contains(client))
        && query.since.is_none_or(|since| attempt.started >= since)
        && query.until.is_none_or(|until| attempt.started < until)
}

fn random_query(random: &mut fastrand::Rng, known: &[Known]) -> Query {
    let short = |random: &mut fastrand::Rng, id: String| match random.u8(..3) {
        0 if is_uuid_part(&id) => id[..random.usize(8..12)].to_owned(),
        _ => id,
    };
    let one_in = |random: &mut fastrand::Rng, n| random.u8(..n) == 0;
    let scope = one_in(random, 4).then(|| id_of(random)).map(|id| short(random, id));
    let (org, group) = if random.bool() { (scope, None) } else { (None, scope) };
    let id = one_in(random, 5).then(|| {
        let Known { attempt, requests, .. } = random.choice(known).unwrap();
        let of_client = requests.iter().min().unwrap().clone();
        let received = attempt.received_id.clone().unwrap_or_default();
        let export = attempt.export_id.clone().filter(|id| is_uuid_part(id)).unwrap_or_default();
        let ids = [of_client, attempt.sent_id.to_string(), received, export];
        let id = random.choice(ids).unwrap();
        short(random, id)
    });
    let status = one_in(random, 3).then(|| {
        let statuses = ["200", "202", "201", "204", "302", "404", "500", "2xx", "3xx", "4xx", "5xx", "error"];
        random.choice(statuses).unwrap().parse().unwrap()
    });
    Query {
        export: one_in(random, 4).then(|| id_of(random)).map(|id| short(random, id)),
        org,
        group,
        client: one_in(random, 2).then(|| (*random.choice(&CLIENTS).unwrap()).to_owned()),
        // An export's whole id is not among what is looked for.
        id: id.filter(|id| !known.iter().any(|one| one.attempt.export_id.as_ref() == Some(id))),
        status,
        since: one_in(random, 3).then(|| at(random.u64(..60))),
        until: one_in(random, 3).then(|| at(random.u64(..60))),
        limit: random.choice([1, 3, 10, 50, 100_000]).unwrap(),
        within: None,
    }
}

#[test]
fn a_search_finds_what_looking_at_every_record_finds() {
    for seed in 0..5 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("journal.db");
        let mut database = Database::open(&settings(&path), Duration::from_secs(1), &Arc::default()).unwrap();
        let mut known = fill(&mut database, &mut random, 120);
        // The newest first; of those of the same time, what was written last.
        known.reverse();
        known.sort_by_key(|one| std::cmp::Reverse(one.attempt.started));
        let mut found_some = 0;
        for _ in 0..400 {
            let query = random_query(&mut random, &known);
            let expected: Vec<_> = known.iter().filter(|one| matches(one, &query)).collect();
            let most = usize::try_from(query.limit).unwrap();
            let expected: Vec<_> =
                expected.iter().take(most).map(|one| one.attempt.sent_id.to_string()).collect();
            let found: Vec<_> = find(&path, &query).unwrap().into_iter().map(|row| row.sent_id).collect();
            assert_eq!(found, expected, "seed {seed}: {query:?}");
            found_some += usize::from(!found.is_empty());
        }
        assert!(found_some > 100, "{found_some} questions had an answer");
    }
}

#[tokio::test]
async fn a_client_that_joined_one_attempt_often_is_found_by_its_others_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.db");
    let journal = journal(&path);
    for n in 1..=90 {
        journal.record(attempt(n), vec![served(10_000 + n, "bob")]).await.unwrap();
    }
    journal.record(attempt(91), (1..=100).map(|n| served(n, "bob")).collect()).await.unwrap();
    let bob = Query { client: Some("bob".into()), limit: 50, ..Query::default() };
    assert_eq!(find(&path, &bob).unwrap().len(), 50);
}
