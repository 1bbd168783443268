//! The program as a user meets it: its commands, its errors, its exit codes.

use std::process::Output;

use exportgate::fake::{Fake, Settings, State};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::program::{Program, exportgate};
use crate::support::{TOKEN, artefacts, results, scope};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn keep(name: &str, output: &Output) {
    std::fs::write(artefacts().join(format!("{name}-{}.txt", std::process::id())), text(output)).unwrap();
}

#[test]
fn every_problem_is_reported_at_once_with_exit_code_2() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("e.toml");
    std::fs::write(
        &file,
        format!("lisen = [\"x\"]\n[credential]\ntoken = \"{TOKEN}\"\n[cache]\nmax_age = \"long\"\n"),
    )
    .unwrap();
    let output = exportgate(home.path())
        .args(["serve", "--listen", "0.0.0.0:1", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    for expected in [
        "e.toml:1: lisen: no such key; did you mean listen?",
        "e.toml:3: credential.token",
        "e.toml:5: cache.max_age",
        "--listen: listen: other machines reach 0.0.0.0:1",
        "no Snyk credential",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    keep("problems", &output);
}

#[test]
fn check_shows_what_is_in_force_and_no_secret() {
    let home = TempDir::new().unwrap();
    let output = exportgate(home.path())
        .args(["check", "--upstream", "https://api.eu.snyk.io/rest"])
        .env("SNYK_TOKEN", TOKEN)
        .env("EXPORTGATE_CACHE_MAX_AGE", "30m")
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("url = \"https://api.eu.snyk.io\"") && text.contains("# --upstream"));
    assert!(text.contains("max_age = \"30m\"") && text.contains("# EXPORTGATE_CACHE_MAX_AGE"));
    assert!(!text.contains(TOKEN));
    keep("check", &output);
}

/// What Kubernetes puts into every container beside a Service that is called `exportgate`, and one for its admin
/// listener; and what Docker does for `--link`.
const LINKS: [(&str, &str); 16] = [
    ("EXPORTGATE_SERVICE_HOST", "10.96.0.11"),
    ("EXPORTGATE_SERVICE_PORT", "443"),
    ("EXPORTGATE_SERVICE_PORT_HTTPS", "443"),
    ("EXPORTGATE_PORT", "tcp://10.96.0.11:443"),
    ("EXPORTGATE_PORT_443_TCP", "tcp://10.96.0.11:443"),
    ("EXPORTGATE_PORT_443_TCP_PROTO", "tcp"),
    ("EXPORTGATE_PORT_443_TCP_PORT", "443"),
    ("EXPORTGATE_PORT_443_TCP_ADDR", "10.96.0.11"),
    ("EXPORTGATE_ADMIN_SERVICE_HOST", "fd00::b"),
    ("EXPORTGATE_ADMIN_SERVICE_PORT", "7081"),
    ("EXPORTGATE_ADMIN_PORT", "tcp://[fd00::b]:7081"),
    ("EXPORTGATE_ADMIN_PORT_7081_TCP", "tcp://[fd00::b]:7081"),
    ("EXPORTGATE_ADMIN_PORT_7081_TCP_ADDR", "fd00::b"),
    ("EXPORTGATE_OLD_NAME", "/gate/exportgate-old"),
    ("EXPORTGATE_OLD_ENV_LANG", "C.UTF-8"),
    ("EXPORTGATE_OLD_PORT", "tcp://172.17.0.5:7080"),
];

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_service_are_no_settings_and_a_misspelled_setting_is_still_one() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    assert_eq!(Program::serve(home.path(), &fake, &[], &LINKS).terminate(), Some(0));
    let mut command = exportgate(home.path());
    command.arg("check").env("SNYK_TOKEN", TOKEN).envs(LINKS).env("EXPORTGATE_PORT_443", "443");
    let output = command.env("EXPORTGATE_LISTEM", "127.0.0.1:1").output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.matches("no such setting").count(), 2, "{text}");
    assert!(text.contains("EXPORTGATE_LISTEM: no such setting; did you mean EXPORTGATE_LISTEN?"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_counts_as_unset() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let env = [
        ("EXPORTGATE_CONFIG", ""),
        ("EXPORTGATE_CACHE_MAX_AGE", ""),
        ("EXPORTGATE_LISTENER_H2C", ""),
        ("EXPORTGATE_LOG_FORMAT", ""),
        ("EXPORTGATE_BUDGET_SHARE", ""),
        ("EXPORTGATE_TLS_KEY", ""),
        ("SNYK_TOKEN", ""),
        ("SNYK_API", ""),
        ("EXPORTGATE_CREDENTIAL_TOKEN_FILE", file.to_str().unwrap()),
    ];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    // The file is read again too where one is named.
    assert_eq!(program.terminate(), Some(0));
}

#[test]
fn an_unusable_token_file_is_a_clear_error() {
    let home = TempDir::new().unwrap();
    let serve = || {
        let mut command = exportgate(home.path());
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("EXPORTGATE_CREDENTIAL_TOKEN_FILE", home.path().join("t"));
        command.output().unwrap()
    };
    let output = serve();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("EXPORTGATE_CREDENTIAL_TOKEN_FILE: credential.token_file: cannot be read"),
        "{}",
        text(&output)
    );
    std::fs::write(home.path().join("t"), " \n").unwrap();
    assert!(text(&serve()).contains("the token is empty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_found_while_the_gateway_runs_and_after() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let home = TempDir::new().unwrap();
    let mut program = Program::serve(home.path(), &fake, &[], &[]);
    let url = format!("http://{}{}", program.address, results("e1"));
    let curl = std::process::Command::new("curl").args(["-si", &url]).output().expect("curl runs");
    let answer = String::from_utf8(curl.stdout).unwrap();
    let id = answer
        .lines()
        .find_map(|line| line.strip_prefix("exportgate-request-id: "))
        .unwrap()
        .trim()
        .to_owned();
    let snyk_id =
        answer.lines().find_map(|line| line.strip_prefix("snyk-request-id: ")).unwrap().trim().to_owned();
    // The journal is in the user's state directory: nothing needs to be said to find it.
    let requests = |args: &[&str]| {
        let output =
            exportgate(home.path()).env_remove("RUST_LOG").arg("requests").args(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        keep(&format!("requests{}", args.join("")), &output);
        text(&output)
    };
    assert!(requests(&["--id", &id]).contains(&snyk_id));
    assert!(requests(&["--since", "1h", "--status", "200"]).contains(&snyk_id));
    assert!(requests(&["--status", "5xx"]).contains("No matching requests"));
    let rows: serde_json::Value =
        serde_json::from_str(&requests(&["--export", "e1", "--format", "json"])).unwrap();
    assert_eq!(
        (&rows[0]["received_id"], &rows[0]["export_status"]),
        (&snyk_id.as_str().into(), &"PENDING".into())
    );
    assert!(requests(&["--format", "csv"]).starts_with("started,latency_ms,operation"));
    let support = requests(&["--support"]);
    assert!(
        support.contains(&format!("snyk-request-id: {snyk_id}")) && support.contains("export: e1"),
        "{support}"
    );
    let plain = std::process::Command::new("sqlite3")
        .arg(home.path().join(".local/state/exportgate/journal.db"))
        .arg("SELECT received_id FROM requests")
        .output()
        .expect("sqlite3 runs");
    assert_eq!(String::from_utf8(plain.stdout).unwrap().trim(), snyk_id);
    assert_eq!(program.terminate(), Some(0));
    assert!(requests(&["--id", &snyk_id.to_uppercase()]).contains(&snyk_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let socket = home.path().join("gate.sock");
    let address = format!("unix:{}", socket.display());
    let mut program = Program::serve(home.path(), &fake, &["--listen", &address], &[]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let curl = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
        .arg(&socket)
        .arg(format!("http://localhost{}", results("e1")))
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8(curl.stdout).unwrap(), "404");
    // One that was left behind by a kill is taken over.
    program.kill();
    let mut again = Program::serve(home.path(), &fake, &["--listen", &address], &[]);
    assert_eq!(again.terminate(), Some(0));
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corporate_proxy_is_used_and_no_proxy_is_honoured() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:pass@{}", listener.local_addr().unwrap());
    let (connects, mut connected) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let mut client = BufReader::new(listener.accept().await.unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                client.read_line(&mut head).await.unwrap();
            }
            let target = head.split(' ').nth(1).unwrap().to_owned();
            connects.send(head.clone()).unwrap();
            let mut upstream = tokio::net::TcpStream::connect(target).await.unwrap();
            client.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await });
        }
    });
    let ask = |program: &Program| {
        let url = format!("http://{}{}", program.address, results("e1"));
        let curl = std::process::Command::new("curl")
            .args(["-s", "-w", "%{http_code}", "-o", "/dev/null", &url])
            .output();
        assert_eq!(String::from_utf8(curl.expect("curl runs").stdout).unwrap(), "404");
    };
    ask(&Program::serve(home.path(), &fake, &[], &[("HTTPS_PROXY", &proxy)]));
    let head = connected.recv().await.unwrap();
    assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1", fake.address())), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz"), "{head}");
    ask(&Program::serve(home.path(), &fake, &[], &[("HTTPS_PROXY", &proxy), ("NO_PROXY", "127.0.0.1")]));
    assert!(connected.try_recv().is_err());
}

#[test]
fn the_demo_runs_to_a_cached_result() {
    let home = TempDir::new().unwrap();
    let output = exportgate(home.path()).args(["demo", "--once"]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("exportgate; hit; ttl=") && text.contains("3 more were answered from the cache"),
        "{text}"
    );
}

#[test]
fn the_demo_of_a_fleet_shows_that_everything_holds() {
    let home = TempDir::new().unwrap();
    let demo = |path: &str| {
        let mut command = exportgate(home.path());
        command.env("PATH", path).args(["demo", "--replicas", "3", "--once"]).output().unwrap()
    };
    let output = demo("/usr/local/bin:/usr/bin:/bin");
    let said = text(&output);
    assert!(output.status.success() && !said.contains("DOES NOT HOLD"), "{said}");
    assert!(said.contains("300 of 300 have the export, all alike: holds"), "{said}");
    assert!(said.contains("Snyk was asked 1 time(s) for all of them: holds"), "{said}");
    assert_eq!(said.matches("of 60 in any second: holds").count(), 3, "{said}");
    assert!(said.contains("from the gateways' own parts"), "{said}");
    // Without an engine there is nothing to show.
    let output = demo("/nowhere");
    let said = text(&output);
    assert!(output.status.code() == Some(2) && said.contains("apt-get install redis-server"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_in_the_clear_is_spoken_only_where_it_is_opened() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let ask = |program: &Program, version: &str| {
        let url = format!("http://{}{}", program.address, results("e1"));
        let shown = "%{http_code} %{http_version}";
        let curl = std::process::Command::new("curl")
            .args(["-s", version, "-w", shown, "-o", "/dev/null", &url])
            .output();
        String::from_utf8(curl.expect("curl runs").stdout).unwrap()
    };
    let open = Program::serve(home.path(), &fake, &[], &[("EXPORTGATE_LISTENER_H2C", "true")]);
    assert_eq!(ask(&open, "--http2-prior-knowledge"), "404 2");
    assert_eq!(ask(&open, "--http1.1"), "404 1.1");
    let closed = Program::serve(home.path(), &fake, &[], &[]);
    assert!(ask(&closed, "--http2-prior-knowledge").starts_with("000"));
    // An offer to upgrade is not taken up.
    assert_eq!(ask(&closed, "--http2"), "404 1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_starts_no_export() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let program = Program::serve(home.path(), &fake, &[], &[]);
    let url = format!("http://{}/{}/export?version=2024-10-15", program.address, scope());
    let page = ["-s", "-H", "origin: https://page.example", "-d", "{}", &url];
    let curl = std::process::Command::new("curl").args(page).output().expect("curl runs");
    assert!(String::from_utf8(curl.stdout).unwrap().contains("\"code\":\"web_page\""));
    assert_eq!(fake.hits().api(), 0);
}
