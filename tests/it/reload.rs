//! The configuration is read again, and the program replaced, under load: no request fails.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use exportgate::fake::{Fake, Settings, State};
use exportgate::transport::{self, HttpClient};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use tempfile::TempDir;

use crate::support::doors::{Door, tls_client};
use crate::support::pki::Authority;
use crate::support::program::Program;
use crate::support::raw::DEADLINE;
use crate::support::{TOKEN, results, scope};

/// Clients that ask all the time: some keep their connections, as hyper's client does, the others make a new one
/// for each request. What is no 200 is a failure. A connection that was kept may be closed in the very moment that
/// it is used again: then the request goes once more on a new one, as all clients do (RFC 9112 §9.3.1).
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    running: tokio::task::JoinSet<()>,
}

impl Load {
    fn begin(address: SocketAddr) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            running: tokio::task::JoinSet::new(),
        };
        let target = format!("http://{address}{}", results("e1"));
        for client in 0..8 {
            let kept = client < 4;
            let (stop, answered, failed) =
                (Arc::clone(&load.stop), Arc::clone(&load.answered), Arc::clone(&load.failed));
            let target = target.clone();
            load.running.spawn(async move {
                let new = || {
                    transport::client(&"http://x".parse().unwrap(), None, Duration::from_secs(10)).unwrap()
                };
                let mut client = new();
                while !stop.load(Ordering::SeqCst) {
                    if !kept {
                        client = new();
                    }
                    let mut asked = ask(&client, &target).await;
                    if kept && asked.as_ref().is_err_and(|why| why.contains("IncompleteMessage")) {
                        client = new();
                        asked = ask(&client, &target).await;
                    }
                    match asked {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::SeqCst)),
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                }
            });
        }
        load
    }

    /// Resolves when so many more answers have come.
    async fn more(&self, count: usize) {
        let until = self.answered.load(Ordering::SeqCst) + count;
        while self.answered.load(Ordering::SeqCst) < until {
            assert!(self.failed.lock().unwrap().is_empty(), "{:?}", self.failed.lock().unwrap());
            tokio::task::yield_now().await;
        }
    }

    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
        assert!(self.failed.lock().unwrap().is_empty(), "{:?}", self.failed.lock().unwrap());
        self.answered.load(Ordering::SeqCst)
    }
}

async fn ask(client: &HttpClient, target: &str) -> Result<(), String> {
    let request = Request::builder().uri(target).body(Either::Left(Full::new(Bytes::new()))).unwrap();
    let (head, body) = client.request(request).await.map_err(|error| format!("{error:?}"))?.into_parts();
    body.collect().await.map_err(|error| format!("{error:?}"))?;
    if head.status == StatusCode::OK { Ok(()) } else { Err(head.status.to_string()) }
}

async fn fake() -> Fake {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "e1", State::Finished);
    fake
}

fn signal(program: &Program, name: &str) {
    let pid = program.child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// Resolves when the log holds `count` lines with `text`.
async fn logged(program: &Program, text: &str, count: usize) -> String {
    let path = program.log();
    let looking = async {
        loop {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if log.lines().filter(|line| line.contains(text)).count() >= count {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let logged = tokio::time::timeout(DEADLINE, looking).await;
    logged.unwrap_or_else(|_| panic!("{count} times {text:?} is not in {}", path.display()))
}

/// A configuration that differs from others in what may change: budget, log level, limits, clients' file, TLS.
fn configuration(path: &Path, n: usize, more: &str) {
    let text = format!(
        "budget.share = 0.{}\nlog.filter = \"{}\"\nlistener.max_connections = {}\nbackoff.ramp = {}\n{more}\n",
        n % 8 + 2,
        ["info", "debug"][n % 2],
        1_000 + n,
        n % 50 + 1,
    );
    crate::access::replace(path, &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_reloads_under_load_fail_no_request() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let (config, token) = (home.path().join("exportgate.toml"), home.path().join("token"));
    std::fs::write(&token, TOKEN).unwrap();
    configuration(&config, 0, "");
    let env = [
        ("EXPORTGATE_CONFIG", config.to_str().unwrap()),
        ("EXPORTGATE_CREDENTIAL_TOKEN_FILE", token.to_str().unwrap()),
        // RUST_LOG would come before log.filter.
        ("RUST_LOG", ""),
    ];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    let load = Load::begin(program.address);
    load.more(100).await;
    for n in 1..=200 {
        configuration(&config, n, "");
        signal(&program, "HUP");
        logged(&program, "configuration reloaded", n).await;
        load.more(5).await;
    }
    let answered = load.end().await;
    assert!(answered > 1_000, "{answered}");
    assert_eq!(program.terminate(), Some(0));
    let log = std::fs::read_to_string(program.log()).unwrap();
    assert!(log.matches("configuration changed").count() >= 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_is_said_with_its_line() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let config = home.path().join("exportgate.toml");
    configuration(&config, 0, "");
    let mut program = Program::serve(
        home.path(),
        &fake,
        &[],
        &[("EXPORTGATE_CONFIG", config.to_str().unwrap()), ("RUST_LOG", "")],
    );
    configuration(&config, 1, "budget.nothing = 1");
    // Without a signal: the file is looked at.
    let log = logged(&program, "configuration reload failed", 1).await;
    assert!(log.contains("exportgate.toml:5: budget.nothing"), "{log}");
    assert!(!log.contains("configuration changed"));
    // What is good again is taken, and what needs a restart is named.
    configuration(&config, 2, "cache.max_bytes = \"1MiB\"");
    let log = logged(&program, "take effect after a restart only", 1).await;
    assert!(log.contains("\"keys\":\"cache.max_bytes\""), "{log}");
    logged(&program, "configuration changed", 1).await;
    // Another credential is taken in the same way.
    let token = home.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    configuration(
        &config,
        2,
        &format!("[credentials.more]\norgs = [\"o\"]\ntoken_file = \"{}\"", token.display()),
    );
    logged(&program, "configuration changed", 2).await;
    let load = Load::begin(program.address);
    load.more(20).await;
    load.end().await;
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_replacements_of_the_program_under_load_fail_no_request() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    // What systemd does for a socket unit: the socket outlives the program.
    let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
    let script =
        format!("exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"", passed.as_raw_fd());
    let journal = home.path().join("journal.db").display().to_string();
    let env = [
        ("EXPORTGATE_LISTEN", "systemd"),
        ("EXPORTGATE_JOURNAL_PATH", journal.as_str()),
        ("RUST_LOG", "info"),
    ];
    let mut program = Program::serve_at(home.path(), &fake, Some(&script), &env);
    let load = Load::begin(address);
    load.more(50).await;
    for _ in 0..20 {
        let mut old = program;
        assert_eq!(tokio::task::block_in_place(|| old.terminate()), Some(0));
        program = Program::serve_at(home.path(), &fake, Some(&script), &env);
        load.more(20).await;
    }
    let answered = load.end().await;
    assert!(answered >= 50 + 20 * 20, "{answered}");
    assert_eq!(program.terminate(), Some(0));
}

/// What an admin call gives.
async fn look(program: &Program, target: &str) -> String {
    let got = Door::Plain(program.admin()).get(target, &[]).await;
    assert_eq!(got.status, StatusCode::OK, "{got:?}");
    String::from_utf8(got.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_stays_as_it_was_however_often_it_is_read() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let (config, clients) = (home.path().join("exportgate.toml"), home.path().join("clients.toml"));
    std::fs::write(&clients, "").unwrap();
    configuration(&config, 0, "");
    let env = [("EXPORTGATE_CONFIG", config.to_str().unwrap()), ("RUST_LOG", "")];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    configuration(&config, 0, &format!("access.clients_file = \"{}\"", clients.display()));
    let later = "\"keys\":\"access.clients_file\"";
    logged(&program, later, 1).await;
    for n in 1..=3 {
        signal(&program, "HUP");
        let log = logged(&program, later, n + 1).await;
        assert!(!log.contains("configuration changed"), "{log}");
    }
    // Nobody was asked for a key when it started, and nobody is told now that they are.
    let door = Door::Plain(program.address);
    assert_eq!(door.get(&results("e1"), &[]).await.status, StatusCode::OK);
    let shown: serde_json::Value = serde_json::from_str(&look(&program, "/api/config").await).unwrap();
    let key =
        shown["keys"].as_array().unwrap().iter().find(|key| key["name"] == "access.clients_file").unwrap();
    assert_eq!(key["value"], "\"\"");
    let status = look(&program, "/api/status").await;
    assert!(status.contains("take effect after a restart only: access.clients_file"), "{status}");
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_stays_one_until_what_failed_is_mended() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let (config, clients) = (home.path().join("exportgate.toml"), home.path().join("clients.toml"));
    std::fs::write(&clients, "[clients.user]\nunix_users = [1]\n").unwrap();
    configuration(&config, 0, &format!("access.clients_file = \"{}\"", clients.display()));
    let env = [("EXPORTGATE_CONFIG", config.to_str().unwrap()), ("RUST_LOG", "")];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    std::fs::remove_file(&clients).unwrap();
    signal(&program, "HUP");
    logged(&program, "configuration reload failed", 1).await;
    // The configuration's own file is as it was, and is looked at all the time.
    let failing = "exportgate_reload_failing{source=\"configuration\"} 1";
    let until = std::time::Instant::now() + Duration::from_millis(2_500);
    while std::time::Instant::now() < until {
        let metrics = look(&program, "/metrics").await;
        assert!(metrics.contains(failing), "{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(&clients, "[clients.user]\nunix_users = [1]\n").unwrap();
    logged(&program, "configuration reloaded", 1).await;
    assert!(!look(&program, "/metrics").await.contains(failing));
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_another_credential_fetched_is_served() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let config = home.path().join("exportgate.toml");
    let token = |name: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, TOKEN).unwrap();
        format!("credential.token_file = \"{}\"", path.display())
    };
    configuration(&config, 0, &token("one"));
    // The variable stands for the token that the test's programs are given otherwise.
    let env = [
        ("EXPORTGATE_CONFIG", config.to_str().unwrap()),
        ("RUST_LOG", ""),
        ("EXPORTGATE_CREDENTIAL_RELOAD_INTERVAL", "1s"),
    ];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    let door = Door::Plain(program.address);
    let get = || async { door.get(&results("e1"), &[]).await };
    assert!(!get().await.is_hit());
    assert!(get().await.is_hit());
    // One is on its way with the first credential when the second comes.
    fake.put_export(&scope(), "e2", State::Finished);
    let gate = fake.hold();
    let before = fake.hits().results;
    let slow = {
        let door = Door::Plain(program.address);
        tokio::spawn(async move { door.get(&results("e2"), &[]).await })
    };
    while fake.hits().results == before {
        tokio::task::yield_now().await;
    }
    configuration(&config, 0, &token("two"));
    logged(&program, "configuration changed", 1).await;
    let other = {
        let door = Door::Plain(program.address);
        tokio::spawn(async move { door.get(&results("e2"), &[]).await })
    };
    while fake.hits().results == before + 1 {
        tokio::task::yield_now().await;
    }
    drop(gate);
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    let other = other.await.unwrap();
    assert!(!other.cache().contains("collapsed"), "{}", other.cache());
    assert!(!get().await.is_hit());
    assert!(get().await.is_hit());
    let listed = look(&program, "/api/exports").await;
    assert!(listed.contains("\"credential\":\"default\""), "{listed}");
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_files_of_tls_are_used_at_both_listeners() {
    let (fake, home) = (fake().await, TempDir::new().unwrap());
    let (config, admin_token) = (home.path().join("exportgate.toml"), home.path().join("admin"));
    std::fs::write(&admin_token, "the-token-of-the-admin").unwrap();
    let authorities = [Authority::new("one"), Authority::new("two")];
    let write = |n: usize| {
        let server = authorities[n].server();
        let path = |name: &str| home.path().join(format!("{n}.{name}"));
        std::fs::write(path("pem"), &server.certificate_pem).unwrap();
        std::fs::write(path("key"), &server.key_pem).unwrap();
        let (certificate, key) = (path("pem"), path("key"));
        let more = format!(
            "tls.certificate = \"{}\"\ntls.key = \"{}\"\nadmin.token_file = \"{}\"",
            certificate.display(),
            key.display(),
            admin_token.display()
        );
        configuration(&config, 0, &more);
    };
    write(0);
    let env = [
        ("EXPORTGATE_CONFIG", config.to_str().unwrap()),
        ("RUST_LOG", ""),
        ("EXPORTGATE_LISTEN", "tls:127.0.0.1:0"),
        ("EXPORTGATE_ADMIN_LISTEN", "tls:127.0.0.1:0"),
    ];
    let mut program = Program::serve_at(home.path(), &fake, None, &env);
    let knows = async |address: SocketAddr, n: usize| {
        let client = tls_client(&authorities[n].pem(), None, &[b"http/1.1"]);
        Door::Tls(address, client).connect().await.is_ok()
    };
    for address in [program.address, program.admin()] {
        assert!(knows(address, 0).await && !knows(address, 1).await, "{address}");
    }
    write(1);
    logged(&program, "configuration changed", 1).await;
    for address in [program.address, program.admin()] {
        assert!(!knows(address, 0).await && knows(address, 1).await, "{address}");
    }
    assert_eq!(program.terminate(), Some(0));
}
