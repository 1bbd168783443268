//! A look at the engine before it is relied on: the scripts, the user's rights, eviction, replicas and the clock.

use std::time::Duration;

use tokio::sync::mpsc;

use super::connection::EngineConnection;
use super::error::EngineError;
use super::script::{FORMAT, Script};
use super::settings::Settings;
use super::{MAX_GAP, milliseconds};
use crate::clock::Clock;

/// Longest time of the whole look.
const LIMIT: Duration = Duration::from_secs(10);
/// Removes what the look wrote.
const CLEAN: &str = "return redis.call('DEL', unpack(KEYS))";
/// The rights that are needed, as the engine's `ACL SETUSER` takes them.
const RIGHTS: &str = "-@all +hello +auth +select +script|load +eval +evalsha +subscribe +publish +info +time +hget +hmget +hset +hdel +hgetall +del +rpush +ltrim +lrange +pttl +pexpire";

/// The judgement on one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// As it should be.
    Good,
    /// It works, and somebody should look.
    Warning,
    /// The engine is of no use like this.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The thing.
    pub what: &'static str,
    /// The judgement.
    pub judgement: Judgement,
    /// The facts, and what to set.
    pub text: String,
}

/// Looks at the engine.
pub async fn examine(settings: &Settings, clock: &Clock) -> Vec<Finding> {
    let mut findings = Vec::new();
    let looked = tokio::time::timeout(LIMIT, look(settings, clock, &mut findings)).await;
    if let Err(error) = looked.unwrap_or(Err(EngineError::Timeout)) {
        findings
            .push(bad("connection", format!("{}: {error}{}", settings.address, advice(settings, &error))));
    }
    findings
}

async fn look(settings: &Settings, clock: &Clock, findings: &mut Vec<Finding>) -> Result<(), EngineError> {
    let (sender, _messages) = mpsc::unbounded_channel();
    let channel = format!("{}:holds", settings.prefix);
    let (connection, driver) = EngineConnection::open(settings, &channel, sender).await?;
    let looking = async {
        let server = Facts::of(&connection, "server").await?;
        let version = server.get("valkey_version").or(server.get("redis_version")).unwrap_or("unknown");
        findings.push(good("connection", format!("{}, version {version}", settings.address)));
        findings.push(scripts(&connection, settings, clock).await);
        findings.push(eviction(&Facts::of(&connection, "memory").await?, settings.seal.is_some()));
        findings.extend(replicas(&Facts::of(&connection, "replication").await?));
        Ok(())
    };
    tokio::select! {
        looked = looking => looked,
        () = driver => Err(EngineError::Broken("closed by the engine".to_owned())),
    }
}

fn advice(settings: &Settings, error: &EngineError) -> String {
    if settings.identity.is_none() && error.to_string().contains("CertificateRequired") {
        return "; it asks for a certificate: set shared.client_certificate and shared.client_key".to_owned();
    }
    let (EngineError::Refused(text) | EngineError::Connect(text)) = error else { return String::new() };
    let text = text.to_ascii_lowercase();
    if text.contains("noauth") {
        return "; it wants a password: set shared.user and shared.password_file".to_owned();
    }
    let wrong = text.contains("wrongpass");
    if !wrong && !text.contains("noperm") {
        return String::new();
    }
    let prefix = &settings.prefix;
    let user = if settings.user.is_empty() { "exportgate" } else { &settings.user };
    let cause = if wrong {
        "the password in shared.password_file is wrong, or there is no such user"
    } else {
        "rights are missing"
    };
    format!("; {cause}; the user's rights: ACL SETUSER {user} on >PASSWORD ~{prefix}:* &{prefix}:* {RIGHTS}")
}

/// Runs the scripts, on names of their own.
async fn scripts(connection: &EngineConnection, settings: &Settings, clock: &Clock) -> Finding {
    let name = |name| format!("{}:check:{name}", settings.prefix);
    let [fleet, ledger, gateways, purges, place] =
        ["fleet", "ledger", "gateways", "purges", "place"].map(name);
    let common = [FORMAT.to_owned(), MAX_GAP.as_millis().to_string(), "0".to_owned()];
    let with = |own: &[&str]| {
        let own = own.iter().map(|text| (*text).to_owned());
        common.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    let began = clock.now();
    let ran = async {
        let channel = name("holds");
        let member = with(&["check", "check", "1000", "0", "check", "1000"]);
        let reserve = with(&["1", "1", "check", &channel, "10:1000:1", "1000"]);
        let claim = with(&["check", "check", "1000", "-1", "-1", "0", "", "0", "0"]);
        let land = with(&["check", "check", "answer", "check", "0", "1000", "-", "1", &channel, "check"]);
        let calls = [
            (Script::Beat, [&fleet, &gateways], member),
            (Script::Reserve, [&fleet, &ledger], reserve),
            (Script::Claim, [&fleet, &place], claim),
            (Script::Renew, [&fleet, &place], with(&["check", "check", "1000"])),
            (Script::Land, [&fleet, &place], land),
            (Script::Purge, [&fleet, &purges], with(&["0", "*", &channel, "1"])),
            (Script::Missed, [&fleet, &purges], with(&["0", "1000"])),
            (Script::Gateways, [&fleet, &gateways], with(&[])),
        ];
        let mut time = 0;
        for (script, keys, arguments) in calls {
            let reply = connection.run(script, &keys.map(String::clone), &arguments).await?.checked()?;
            time = reply.number(script.place_of_time())?;
        }
        connection.look(&["EVAL", CLEAN, "5", &fleet, &ledger, &gateways, &purges, &place]).await?;
        Ok(time)
    };
    match ran.await {
        Ok(time) => {
            let ended = clock.now();
            let took = ended.mono.saturating_duration_since(began.mono);
            let ours = ended.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let apart = (milliseconds(ours) - time).unsigned_abs() / 1_000;
            let slow = slow(took, settings.timeout);
            let text = format!(
                "they run; nine calls took {} ms; its clock is {apart} s from ours, which does no harm{slow}",
                took.as_millis()
            );
            let judgement = if slow.is_empty() { Judgement::Good } else { Judgement::Warning };
            Finding { what: "scripts", judgement, text }
        }
        Err(error) => bad("scripts", format!("{error}{}", advice(settings, &error))),
    }
}

fn slow(took: Duration, timeout: Duration) -> &'static str {
    if took > timeout * 5 { "; too slow: bring it nearer, or raise shared.timeout" } else { "" }
}

fn eviction(memory: &Facts, has_answers: bool) -> Finding {
    let policy = memory.get("maxmemory_policy").unwrap_or("unknown");
    let is_bounded = memory.get("maxmemory").is_some_and(|most| most != "0");
    if is_bounded && policy.starts_with("allkeys") {
        let text = format!(
            "maxmemory-policy is {policy}: the ledgers may be evicted, and each time the common part is shut for a minute; set noeviction or volatile-lru"
        );
        return Finding { what: "eviction", judgement: Judgement::Warning, text };
    }
    if is_bounded && has_answers && policy == "noeviction" {
        let text = "maxmemory-policy is noeviction: with its memory full of finished exports all calls fail; set volatile-lru, which drops these alone";
        return Finding { what: "eviction", judgement: Judgement::Warning, text: text.to_owned() };
    }
    good("eviction", format!("maxmemory-policy is {policy}"))
}

fn replicas(replication: &Facts) -> Option<Finding> {
    if replication.get("role").is_some_and(|role| role != "master") {
        return Some(bad("replicas", "this is a replica: name the primary".to_owned()));
    }
    let count = replication.get("connected_slaves").unwrap_or("0");
    if count == "0" {
        return None;
    }
    let text = format!(
        "{count} connected; min-replicas-to-write should be 1 or more, so that a primary that is cut off grants nothing beside another one"
    );
    let is_safe = replication.get("min_slaves_good_slaves").is_some();
    let judgement = if is_safe { Judgement::Good } else { Judgement::Warning };
    Some(Finding {
        what: "replicas",
        judgement,
        text: if is_safe { format!("{count} connected") } else { text },
    })
}

/// A section of the answer to `INFO`, as lines.
struct Facts(Vec<String>);

impl Facts {
    async fn of(connection: &EngineConnection, section: &str) -> Result<Self, EngineError> {
        connection.look(&["INFO", section]).await.map(Self)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }
}

fn good(what: &'static str, text: String) -> Finding {
    Finding { what, judgement: Judgement::Good, text }
}

fn bad(what: &'static str, text: String) -> Finding {
    Finding { what, judgement: Judgement::Bad, text }
}
