//! The commands that ask the gateway that runs, against an admin listener of the test's own.

use std::convert::Infallible;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use exportgate::fake::{Settings, State};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};

use crate::support::pki::{Authority, Identity};
use crate::support::program::exportgate;
use crate::support::{ORG, World, artefacts, flag, keep_secret, results, scope};

const ADMIN_TOKEN: &str = "adm1n-7e57-c0de-5eed-0123456789abcdef";
const DAY: Duration = Duration::from_hours(24);
const EXPORT: &str = "7c1e0000-0000-4000-8000-0000000000aa";

/// Flags and variables that lead to it.
type Way<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// What the listener was asked, and how it stands.
#[derive(Debug, Default)]
struct Listener {
    asked: Mutex<Vec<String>>,
    stopping: Mutex<bool>,
    wants_token: bool,
}

impl Listener {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let field = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let asked = format!("{} {}", request.method(), request.uri());
        let host = field("host").unwrap_or_default();
        self.asked.lock().unwrap().push(format!("{asked} {}", field("authorization").unwrap_or_default()));
        let made = |status: u16, body: String| {
            Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
        };
        let refused = |status: u16, title: &str, detail: &str| {
            let error = serde_json::json!({"error": {"code": "x", "title": title, "detail": detail}});
            made(status, error.to_string())
        };
        if !(host == "localhost" || host.starts_with("127.0.0.1")) {
            return refused(403, "Wrong Host", "ask for localhost");
        }
        let path = request.uri().path();
        if ["/livez", "/readyz"].contains(&path) {
            let stopping = *self.stopping.lock().unwrap() && path == "/readyz";
            return if stopping { made(503, "stopping\n".into()) } else { made(200, "ok\n".into()) };
        }
        if self.wants_token && field("authorization") != Some(format!("Bearer {ADMIN_TOKEN}")) {
            return refused(401, "Unauthorized", "send the token");
        }
        let ids = format!("/api/exports/825e79b7/{EXPORT}");
        match (request.method().as_str(), path) {
            ("GET", "/api/status") => made(
                200,
                serde_json::json!({"version": "0.1.0", "started": "2026-11-24T09:00:00Z", "uptime_s": 600,
                    "state": "ready", "upstream": "https://api.snyk.io", "totals": {"hit": 10},
                    "parts": [{"name": "journal", "state": "ok", "since": "2026-11-24T09:00:00Z", "detail": "x"}]})
                .to_string(),
            ),
            ("GET", "/api/exports") => made(
                200,
                serde_json::json!({"total": 1, "exports": [{"operation": "results", "scope_kind": "org",
                    "scope_id": "825e79b7", "export_id": EXPORT, "query": "version=2024-10-15",
                    "credential": "snyk", "stored": "2026-11-24T09:00:00Z", "age_s": 12, "fresh_for_s": 2600,
                    "links_end": "2026-11-24T10:00:00Z", "hits": 3, "bytes": 3800}]})
                .to_string(),
            ),
            ("DELETE", "/api/exports") => made(200, r#"{"purged":7}"#.into()),
            ("DELETE", path) if path == ids => made(200, r#"{"purged":2}"#.into()),
            ("DELETE", _) => refused(503, "Not now", "wait\u{1b}[2J"),
            _ => refused(404, "Not found", "no such call"),
        }
    }

    async fn serve(self: Arc<Self>, stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let service = service_fn(move |request| {
            let listener = Arc::clone(&self);
            async move { Ok::<_, Infallible>(listener.answer(&request)) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// Serves; gives the address.
    async fn start(self: &Arc<Self>) -> String {
        keep_secret([ADMIN_TOKEN.to_owned()]);
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let stream = tcp.accept().await.unwrap().0;
                tokio::spawn(Arc::clone(&listener).serve(stream));
            }
        });
        address
    }

    fn start_unix(self: &Arc<Self>, path: &Path) {
        let unix = UnixListener::bind(path).unwrap();
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let stream = unix.accept().await.unwrap().0;
                tokio::spawn(Arc::clone(&listener).serve(stream));
            }
        });
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn run(home: &Path, args: &[&str], env: &[(&str, &str)]) -> (Output, String) {
    let output =
        exportgate(home).env_remove("RUST_LOG").args(args).envs(env.iter().copied()).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let name = format!("looking-after-{}.txt", uuid::Uuid::new_v4().simple());
    std::fs::write(artefacts().join(name), &text).unwrap();
    (output, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_that_runs_is_asked_by_tcp_and_unix_socket() {
    let home = TempDir::new().unwrap();
    let listener = Arc::new(Listener::default());
    let address = listener.start().await;
    let socket = home.path().join("admin.sock");
    listener.start_unix(&socket);
    let by_unix = format!("unix:{}", socket.display());
    let file = home.path().join("e.toml");
    // What else is in the file is not looked at: no credential is needed here.
    std::fs::write(&file, format!("listen = [\"nonsense\"]\n[admin]\nlisten = \"{address}\"\n")).unwrap();
    let by_url = format!("http://{address}/");
    let ways: [Way<'_>; 5] = [
        (&["--config", file.to_str().unwrap()], &[]),
        (&[], &[("EXPORTGATE_ADMIN_LISTEN", &address)]),
        (&["--admin", &by_url], &[]),
        (&["--admin", &by_unix], &[]),
        (&[], &[("EXPORTGATE_ADMIN_LISTEN", &by_unix)]),
    ];
    for (flags, env) in ways {
        let ask = |args: &[&str]| {
            let (output, text) = run(home.path(), &[args, flags].concat(), env);
            assert!(output.status.success() && output.stderr.is_empty(), "{text}");
            text
        };
        let status = ask(&["status"]);
        assert!(status.contains(": ready, up for 10m") && status.contains("10 hit"), "{status}");
        let json: serde_json::Value = serde_json::from_str(&ask(&["status", "--json"])).unwrap();
        assert_eq!(json["state"], "ready");
        let exports = ask(&["exports", "--limit", "7"]);
        assert!(exports.contains(EXPORT) && exports.contains("43m 20s"), "{exports}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&ask(&["exports", "--json"])).unwrap()["total"],
            1
        );
        assert_eq!(ask(&["purge", "--all"]), "Purged 7 entries.\n");
        assert_eq!(ask(&["purge", "825e79b7", EXPORT]), "Purged 2 entries.\n");
        let asked = listener.asked();
        assert_eq!(asked[2], "GET /api/exports?limit=7 ");
        assert_eq!(asked[5], format!("DELETE /api/exports/825e79b7/{EXPORT} "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_listener_answers_as_its_contract_says() {
    let home = TempDir::new().unwrap();
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for _ in 0..2 {
        assert_eq!(world.get(&results("e1")).await.status, 200);
    }
    let ask = |args: &[&str]| {
        let (output, text) = run(home.path(), &[args, &["--admin", &world.admin]].concat(), &[]);
        assert!(output.status.success(), "{text}");
        text
    };
    assert_eq!(ask(&["status", "--probe", "ready"]), "");
    let status = ask(&["status"]);
    for expected in ["1 hit, 0 stale, 1 miss", "1 entries", "breaker      closed", "credential   default"] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
    let exports = ask(&["exports"]);
    assert!(exports.contains(ORG) && exports.contains("e1"), "{exports}");
    assert_eq!(ask(&["purge", ORG, "e1"]), "Purged 1 entry.\n");
    assert_eq!(ask(&["exports"]), "The cache is empty.\n");
    assert_eq!(ask(&["purge", "--all"]), "Purged 0 entries.\n");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_from_its_file_and_asked_for_by_name() {
    let home = TempDir::new().unwrap();
    let listener = Arc::new(Listener { wants_token: true, ..Listener::default() });
    let address = listener.start().await;
    let at = ("EXPORTGATE_ADMIN_LISTEN", address.as_str());
    let (output, text) = run(home.path(), &["status"], &[at]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("wants its admin token: set admin.token_file"), "{text}");
    let (good, bad) = (home.path().join("good"), home.path().join("bad"));
    std::fs::write(&good, format!("{ADMIN_TOKEN}\n")).unwrap();
    std::fs::write(&bad, "another\n").unwrap();
    let configured = |path: &Path| {
        run(home.path(), &["exports"], &[at, ("EXPORTGATE_ADMIN_TOKEN_FILE", path.to_str().unwrap())])
    };
    assert!(configured(&good).0.status.success());
    let (output, text) = configured(&bad);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("refuses the token in") && text.contains("bad"), "{text}");
    // A flag comes before the configuration.
    let flags = ["purge", "--all", "--token-file", good.to_str().unwrap()];
    let by_flag = run(home.path(), &flags, &[at, ("EXPORTGATE_ADMIN_TOKEN_FILE", bad.to_str().unwrap())]);
    assert!(by_flag.0.status.success(), "{}", by_flag.1);
    let (_, text) = run(home.path(), &["status", "--token-file", "/not/there"], &[at]);
    assert!(text.contains("/not/there: No such file"), "{text}");
    // Other machines are not told it in the clear, nor asked at all.
    let (output, text) = run(
        home.path(),
        &["status", "--admin", "http://192.0.2.1:7081", "--token-file", good.to_str().unwrap()],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("could be read on the way"), "{text}");
    // A probe needs none, and reads none.
    listener.asked();
    let unreadable = [at, ("EXPORTGATE_ADMIN_TOKEN_FILE", "/not/there")];
    assert!(run(home.path(), &["status", "--probe", "ready"], &unreadable).0.status.success());
    assert_eq!(listener.asked(), ["GET /readyz "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_says_nothing_but_its_exit_code_when_all_is_well() {
    let home = TempDir::new().unwrap();
    let listener = Arc::new(Listener::default());
    let address = listener.start().await;
    let probe = |what: &str, address: &str| {
        run(home.path(), &["status", "--probe", what], &[("EXPORTGATE_ADMIN_LISTEN", address)])
    };
    for what in ["live", "ready"] {
        let (output, text) = probe(what, &address);
        assert_eq!((output.status.code(), text.as_str()), (Some(0), ""));
    }
    *listener.stopping.lock().unwrap() = true;
    assert_eq!(probe("live", &address).0.status.code(), Some(0));
    let (output, text) = probe("ready", &address);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && text.contains("not ready") && text.contains("stopping"), "{text}");
    // One that hangs is not waited for long.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let began = Instant::now();
    let (output, text) = probe("live", &mute.local_addr().unwrap().to_string());
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("gave no answer within 2 s") && began.elapsed() < Duration::from_secs(8), "{text}");
    // Bad settings are no third answer.
    assert_eq!(probe("live", "nonsense").0.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said_with_what_to_do() {
    let home = TempDir::new().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = home.path().join("none.sock");
    let by_unix = format!("unix:{}", missing.display());
    let ask = |address: &str| run(home.path(), &["status"], &[("EXPORTGATE_ADMIN_LISTEN", address)]);
    for (address, expected) in [
        (free.as_str(), "is it running, and is admin.listen set?"),
        (&by_unix, "is it running, and is admin.listen set?"),
        ("", "admin.listen is empty"),
        ("127.0.0.1:0", "give --admin"),
    ] {
        let (output, text) = ask(address);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert_eq!(ask("nonsense").0.status.code(), Some(2));
    let (_, text) = run(home.path(), &["status", "--config", "/not/there.toml"], &[]);
    assert!(text.contains("/not/there.toml: cannot be read"), "{text}");
    let listener = Arc::new(Listener::default());
    let address = listener.start().await;
    let (output, text) =
        run(home.path(), &["purge", "825e79b7", "other"], &[("EXPORTGATE_ADMIN_LISTEN", &address)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("Not now: wait") && !text.contains('\u{1b}'), "{text}");
    // Ids are no way to another path, and nothing is purged by default.
    for args in [
        &["purge", "825e79b7", "../../x"][..],
        &["purge"],
        &["purge", "825e79b7"],
        &["purge", "--all", "a", "b"],
    ] {
        assert_eq!(run(home.path(), args, &[]).0.status.code(), Some(2), "{args:?}");
    }
}

/// A gateway whose admin listener speaks TLS with a certificate that names neither this machine nor anybody that the
/// platform trusts, as in the Helm chart.
async fn over_tls(directory: &Path, authority: &Authority) -> (World, Vec<(&'static str, String)>) {
    let path = |name: &str| directory.join(name).display().to_string();
    serve_with(directory, &certificate(authority));
    std::fs::write(path("token"), ADMIN_TOKEN).unwrap();
    keep_secret([ADMIN_TOKEN.to_owned()]);
    let world = World::with(
        Settings::default(),
        vec![
            flag("admin.listen", "tls:127.0.0.1:0"),
            flag("admin.token_file", path("token")),
            flag("tls.certificate", path("server.pem")),
            flag("tls.key", path("server.key")),
            flag("access.reload_interval", "300ms"),
        ],
    )
    .await;
    let address = world.admin.strip_prefix("https://").unwrap();
    let env = vec![
        ("EXPORTGATE_ADMIN_LISTEN", format!("tls:{address}")),
        ("EXPORTGATE_ADMIN_TOKEN_FILE", path("token")),
        ("EXPORTGATE_TLS_CERTIFICATE", path("server.pem")),
        ("EXPORTGATE_TLS_KEY", path("server.key")),
    ];
    (world, env)
}

fn certificate(authority: &Authority) -> Identity {
    let now = SystemTime::now();
    authority.server_for("gate.example", (now - DAY, now + 100 * DAY))
}

fn serve_with(directory: &Path, identity: &Identity) {
    std::fs::write(directory.join("server.pem"), &identity.certificate_pem).unwrap();
    std::fs::write(directory.join("server.key"), &identity.key_pem).unwrap();
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

const COMMANDS: [&[&str]; 5] = [
    &["status"],
    &["exports"],
    &["purge", "--all"],
    &["status", "--probe", "live"],
    &["status", "--probe", "ready"],
];

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_certificate_is_trusted_whatever_its_names_and_issuer() {
    let (home, authority) = (TempDir::new().unwrap(), Authority::new("private"));
    let (world, env) = over_tls(home.path(), &authority).await;
    let ask = |args: &[&str], env: &[(&'static str, String)]| run(home.path(), args, &borrowed(env));
    // Not by a proxy: it is this machine.
    let by_proxy = [env.clone(), vec![("HTTPS_PROXY", "http://127.0.0.1:1".to_owned())]].concat();
    for command in COMMANDS {
        let (output, text) = ask(command, &by_proxy);
        assert!(output.status.success(), "{command:?} {text}");
    }
    // One that was replaced: by the time that it is given up, the gateway has it.
    serve_with(home.path(), &certificate(&authority));
    for command in COMMANDS {
        let (output, text) = ask(command, &env);
        assert!(output.status.success(), "{command:?} {text}");
    }
    let served = std::fs::read_to_string(home.path().join("server.pem")).unwrap();
    // Replaced by what the gateway cannot use: it is alive, and nobody can say who it is.
    let other = certificate(&authority);
    std::fs::write(home.path().join("server.pem"), &other.certificate_pem).unwrap();
    for command in COMMANDS {
        let (output, text) = ask(command, &env);
        assert_eq!(output.status.success(), command.contains(&"--probe"), "{command:?} {text}");
        let said = ["shows another certificate than tls.certificate", "server.pem", "file reload failed"];
        assert!(output.status.success() || said.iter().all(|said| text.contains(said)), "{text}");
    }
    std::fs::write(home.path().join("server.pem"), served).unwrap();
    assert!(ask(&["status"], &env).0.status.success());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_not_said_to_be_nobody() {
    let (home, authority) = (TempDir::new().unwrap(), Authority::new("private"));
    let (world, env) = over_tls(home.path(), &authority).await;
    // Another gateway's configuration: its certificate is another one.
    let stranger = TempDir::new().unwrap();
    serve_with(stranger.path(), &certificate(&authority));
    let path = |name: &str| stranger.path().join(name).display().to_string();
    let mut wrong = env.clone();
    (wrong[2].1, wrong[3].1) = (path("server.pem"), path("server.key"));
    for command in COMMANDS {
        let (output, text) = run(home.path(), command, &borrowed(&wrong));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("shows another certificate than tls.certificate"), "{text}");
        assert!(text.contains(&path("server.pem")) && !text.contains("is it running"), "{text}");
    }
    wrong[2].1 = path("none.pem");
    let (_, text) = run(home.path(), &["status"], &borrowed(&wrong));
    assert!(text.contains("none.pem) cannot be used") && text.contains("No such file"), "{text}");
    // By a URL it is the usual trust: the platform's, or --ca's.
    let (output, text) = run(home.path(), &["status", "--admin", &world.admin], &borrowed(&env));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("not trusted") && text.contains("--ca") && !text.contains("is it running"),
        "{text}"
    );
    let ca = path("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let by_ca = ["status", "--admin", &world.admin, "--ca", &ca];
    let (_, text) = run(home.path(), &by_ca, &borrowed(&env));
    assert!(text.contains("not trusted") && text.contains("gate.example"), "{text}");
    world.stop().await;
    let (output, text) = run(home.path(), &["status"], &borrowed(&env));
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("is it running") && !text.contains("trusted"), "{text}");
    // What listens there does not speak TLS.
    let listener = Arc::new(Listener::default());
    let mut plain = env.clone();
    plain[0].1 = format!("tls:{}", listener.start().await);
    let (_, text) = run(home.path(), &["status"], &borrowed(&plain));
    assert!(text.contains("does not speak TLS"), "{text}");
}

#[test]
fn there_are_manual_pages_and_completions() {
    let home = TempDir::new().unwrap();
    let pages = home.path().join("share/man1");
    let (output, text) = run(home.path(), &["man", pages.to_str().unwrap()], &[]);
    assert!(output.status.success() && text.is_empty(), "{text}");
    let names: Vec<String> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in ["exportgate.1", "exportgate-serve.1", "exportgate-status.1", "exportgate-key-new.1"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("exportgate-man")), "{names:?}");
    for shell in ["bash", "zsh", "fish"] {
        let (output, text) = run(home.path(), &["completions", shell], &[]);
        assert!(output.status.success() && text.contains("token-file"), "{shell}");
    }
}
