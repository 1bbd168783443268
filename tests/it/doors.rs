//! The doors of the real program: what opens, for whom, and what is refused before it is served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use exportgate::fake::{Fake, Settings, State};
use exportgate::shared::SealKeys;
use tempfile::TempDir;

use crate::support::doors::{Door, tls_client};
use crate::support::pki::Authority;
use crate::support::program::{Program, exportgate};
use crate::support::{ORG, TOKEN, V, World, flag, keep_secret, results, scope};

fn curl(args: &[&str]) -> String {
    let output = std::process::Command::new("curl").args(["-si", "-m", "20"]).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What the program says when it refuses to start with exit code 2.
fn refused(home: &Path, args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = exportgate(home);
    command.arg("serve").args(args).env("SNYK_TOKEN", TOKEN).envs(env.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(!text.contains(TOKEN));
    text
}

#[test]
fn other_machines_are_served_only_where_clients_are_known_and_tls_is_spoken() {
    let home = TempDir::new().unwrap();
    let clients = home.path().join("clients.toml");
    std::fs::write(&clients, "[clients.a]\nunix_users = [0]\n").unwrap();
    let clients = clients.display().to_string();
    let open = refused(home.path(), &["--listen", "0.0.0.0:0"], &[]);
    for named in [
        "access.clients_file",
        "exportgate key new",
        "tls:0.0.0.0:0",
        "tls.certificate",
        "listener.allow_plain_http",
    ] {
        assert!(open.contains(named), "{named} in {open}");
    }
    let with_clients = [("EXPORTGATE_ACCESS_CLIENTS_FILE", clients.as_str())];
    assert!(refused(home.path(), &["--listen", "[::]:0"], &with_clients).contains("tls:[::]:0"));
    assert!(
        refused(home.path(), &["--listen", "tls:0.0.0.0:0"], &with_clients).contains("needs tls.certificate")
    );
    let plain = [("EXPORTGATE_LISTENER_ALLOW_PLAIN_HTTP", "true")];
    assert!(refused(home.path(), &["--listen", "0.0.0.0:0"], &plain).contains("set access.clients_file"));
    // A clients file that cannot be read, or with a mistake, is told with its lines.
    std::fs::write(&clients, "[clients.a]\nkeys = ['egk_0123456789']\norg = ['*']\noperations = ['write']\n")
        .unwrap();
    let wrong = refused(home.path(), &[], &with_clients);
    for named in [
        "clients.toml:2: clients.a.keys: this is a key itself",
        "clients.toml:3: clients.a.org: no such key",
        "clients.toml:4: clients.a.operations: must be of",
    ] {
        assert!(wrong.contains(named), "{named} in {wrong}");
    }
    assert!(!wrong.contains("0123456789"));
    std::fs::write(
        &clients,
        "[clients.a]\nunix_users = [1]\n[clients.b]\nunix_users = [1]\n[clients.c]\norgs = ['*']\n",
    )
    .unwrap();
    let shared = refused(home.path(), &[], &with_clients);
    assert!(
        shared.contains("clients a and b share a value of unix_users")
            && shared.contains("clients.c: is known by nothing"),
        "{shared}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_clients_and_without_tls_before_it_all_addresses_may_be_served() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let clients = home.path().join("clients.toml");
    std::fs::write(&clients, "[clients.a]\nunix_users = [0]\n").unwrap();
    let env = [
        ("EXPORTGATE_ACCESS_CLIENTS_FILE", clients.to_str().unwrap()),
        ("EXPORTGATE_LISTENER_ALLOW_PLAIN_HTTP", "true"),
        ("EXPORTGATE_LISTEN", "0.0.0.0:0"),
    ];
    let program = Program::serve_at(home.path(), &fake, None, &env);
    let url = format!("http://127.0.0.1:{}{}", program.address.port(), results("e1"));
    let answer = curl(&[&url]);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(fake.hits().api(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_what_a_page_or_a_forged_request_sends_is_refused_and_told_which_key_allows_it() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let program = Program::serve(home.path(), &fake, &[], &[]);
    let url = format!("http://{}{}", program.address, results("e1"));
    for (field, code, key) in [
        ("Host: evil.example", "foreign_host", "access.hosts"),
        ("Host: 169.254.169.254", "foreign_host", "access.hosts"),
        ("X-Forwarded-For: 1.2.3.4", "forwarded", "access.allow_forwarded"),
        ("Forwarded: for=1.2.3.4", "forwarded", "access.allow_forwarded"),
        ("Origin: null", "web_page", "tools send none"),
        ("Sec-Fetch-Site: cross-site", "web_page", "tools send none"),
    ] {
        let answer = curl(&["-H", field, &url]);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains(code) && answer.contains(key),
            "{answer}"
        );
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    }
    assert_eq!(fake.hits().api(), 0);
    drop(program);
    let env = [
        ("EXPORTGATE_ACCESS_HOSTS", "gate.internal"),
        ("EXPORTGATE_ACCESS_ALLOW_FORWARDED", "true"),
        ("EXPORTGATE_ACCESS_REQUIRED_HEADER", "X-Gate: yes"),
    ];
    let program = Program::serve(home.path(), &fake, &[], &env);
    let url = format!("http://{}{}", program.address, results("e1"));
    let fields = ["-H", "Host: gate.internal", "-H", "X-Forwarded-For: 1.2.3.4"];
    let without = curl(&[&fields[..], &[&url]].concat());
    assert!(without.starts_with("HTTP/1.1 403") && without.contains("access.required_header"), "{without}");
    let with = curl(&[&fields[..], &["-H", "X-Gate: yes", &url]].concat());
    assert!(with.starts_with("HTTP/1.1 404") && fake.hits().api() == 1, "{with}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_speaks_both_versions_of_http_and_answers_plain_http_clearly() {
    let authority = Authority::new("servers");
    let server = authority.server();
    let directory = TempDir::new().unwrap();
    for (name, text) in [("cert", &server.certificate_pem), ("key", &server.key_pem)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let flags = vec![
        flag("listen", "tls:127.0.0.1:0"),
        flag("tls.certificate", directory.path().join("cert").display()),
        flag("tls.key", directory.path().join("key").display()),
        flag("listener.handshake_timeout", "300ms"),
    ];
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for alpn in [&[b"h2".as_slice()][..], &[b"http/1.1"], &[]] {
        let door = world.door(0, Some(&tls_client(&authority.pem(), None, alpn)));
        assert_eq!(door.get(&results("e1"), &[]).await.status, 200);
        // On loopback, the same rules hold inside TLS.
        let page = door.get(&results("e1"), &[("origin", "https://evil.example")]).await;
        assert_eq!(page.code(), "web_page");
    }
    assert_eq!(world.fake.hits().results, 1);
    let Door::Tls(address, _) = world.door(0, Some(&tls_client(&authority.pem(), None, &[]))) else {
        panic!("TLS")
    };
    let plain = tokio::task::spawn_blocking(move || curl(&[&format!("http://{address}{}", results("e1"))]));
    let plain = plain.await.unwrap();
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("https://"), "{plain}");
    // Who says nothing is let go, and so is who stops in the middle of the handshake.
    for first in [&[][..], &[0x16, 3, 1, 2]] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(first).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_has_its_mode_and_takes_no_strangers_place() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let socket = home.path().join("gate.sock");
    let listen = format!("unix:{}", socket.display());
    // A file that is no socket is somebody's.
    std::fs::write(&socket, "important").unwrap();
    let mut command = exportgate(home.path());
    command.args(["serve", "--listen", &listen]).env("SNYK_TOKEN", TOKEN);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("no socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "important");
    std::fs::remove_file(&socket).unwrap();
    // One that nobody listens on any more is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let env = [("EXPORTGATE_LISTENER_UNIX_MODE", "0660")];
    let mut program = Program::serve(home.path(), &fake, &["--listen", &listen], &env);
    let found = std::fs::metadata(&socket).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let answer =
        curl(&["--unix-socket", socket.to_str().unwrap(), &format!("http://any.name{}", results("e1"))]);
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // One that is in use is not taken over.
    let mut second = exportgate(home.path());
    second.args(["serve", "--listen", &listen]).env("SNYK_TOKEN", TOKEN);
    assert!(!second.output().unwrap().status.success());
    assert_eq!(std::fs::metadata(&socket).unwrap().ino(), found.ino());
    assert_eq!(program.terminate(), Some(0));
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_systemd_passed_are_served() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
    // What systemd does: descriptor 3, and the variables for this very process.
    let script =
        format!("exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"", passed.as_raw_fd());
    let program = Program::serve_at(home.path(), &fake, Some(&script), &[("EXPORTGATE_LISTEN", "systemd")]);
    assert_eq!(program.address, address);
    let answer = curl(&[&format!("http://{address}{}", results("e1"))]);
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_leaves_no_core_and_reports_exposed_secrets() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let env = [("EXPORTGATE_CREDENTIAL_TOKEN_FILE", token.to_str().unwrap())];
    let mut program = Program::serve(home.path(), &fake, &[], &env);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let url = format!("http://{}{}", program.address, results("e1"));
    assert!(curl(&[&url]).starts_with("HTTP/1.1 404"));
    let log = program.log();
    assert_eq!(program.terminate(), Some(0));
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains("everybody on this machine can read or change this secret file"), "{text}");
}

#[test]
fn a_sealing_key_is_made_once_and_no_output_repeats_it() {
    let home = TempDir::new().unwrap();
    let seal = exportgate(home.path()).args(["key", "new", "--seal"]).output().unwrap();
    let (sealing, told) = (String::from_utf8(seal.stdout).unwrap(), String::from_utf8(seal.stderr).unwrap());
    keep_secret([sealing.trim().to_owned()]);
    assert!(SealKeys::parse(sealing.as_bytes()).is_ok() && told.contains("shared.key_file"), "{told}");
    assert!(!told.contains(sealing.trim()));
    for args in [vec!["key", "new"], vec!["key", "new", "--seal", "--client", "a"]] {
        assert_eq!(exportgate(home.path()).args(&args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    let key_file = home.path().join("seal");
    std::fs::write(&key_file, &sealing).unwrap();
    let check = |content: &str| {
        std::fs::write(&key_file, content).unwrap();
        let mut command = exportgate(home.path());
        command.arg("check").env("SNYK_TOKEN", TOKEN).env("EXPORTGATE_SHARED_URL", "redis://127.0.0.1");
        let output = command.env("EXPORTGATE_SHARED_KEY_FILE", &key_file).output().unwrap();
        (output.status.success(), [output.stdout, output.stderr].concat())
    };
    let (is_valid, said) = check(&sealing);
    assert!(is_valid && !String::from_utf8_lossy(&said).contains(sealing.trim()));
    let (is_valid, said) = check(&sealing[..20]);
    let said = String::from_utf8_lossy(&said);
    assert!(!is_valid && said.contains("shared.key_file: line 1 is no key of 32 bytes"), "{said}");
}

#[test]
fn a_key_is_made_once_and_a_dry_run_names_the_rule() {
    let home = TempDir::new().unwrap();
    let made = exportgate(home.path())
        .args(["key", "new", "--client", "ci", "--until", "2100-01-01"])
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    keep_secret([key.clone()]);
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(key.starts_with("egk_") && key.len() == 52, "{}", key.len());
    assert!(!told.contains(&key) && told.contains("until 2100-01-01"));
    for bad in [["--client", "a b"], ["--until", "soon"]] {
        let args = if bad[0] == "--client" {
            vec!["key", "new", bad[0], bad[1]]
        } else {
            vec!["key", "new", "--client", "a", bad[0], bad[1]]
        };
        assert_eq!(exportgate(home.path()).args(&args).output().unwrap().status.code(), Some(2));
    }
    // What it prints is what the file takes.
    let snippet =
        &told[told.find("[clients.ci]").unwrap()..].replace("orgs = []", &format!("orgs = ['{ORG}']"));
    let clients = home.path().join("clients.toml");
    let files = format!("[clients.files]\nunix_users = [4242]\norgs = ['{ORG}']\noperations = ['files']\n");
    std::fs::write(&clients, format!("{snippet}\n{files}")).unwrap();
    let check = |client: &str, method: &str, path: &str| {
        let mut command = exportgate(home.path());
        command.args(["check", "--as", client, method, path]).env("SNYK_TOKEN", TOKEN);
        command.env("EXPORTGATE_ACCESS_CLIENTS_FILE", &clients);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let read = format!("/orgs/{ORG}/export/e1?{V}");
    let (code, text) = check("ci", "GET", &read);
    assert!(
        code == Some(0) && text.contains("operations holds \"read\"") && text.contains("credential default"),
        "{text}"
    );
    for (client, class) in [("ci", "read"), ("files", "files")] {
        let (code, text) = check(client, "GET", &format!("/orgs/{ORG}/export/e1/files/1.csv"));
        let rule = format!("operations holds \"{class}\"");
        assert!(code == Some(0) && text.contains(&rule), "{text}");
    }
    for (client, method, path, rule) in [
        ("ci", "POST", format!("/orgs/{ORG}/export?{V}"), "operations does not hold \"start\""),
        ("ci", "GET", "/orgs/other/export/e1".to_owned(), "orgs does not hold this org"),
        ("ci", "GET", "/groups/g/export/e1".to_owned(), "groups does not hold this group"),
        ("ci", "GET", "/rest/self".to_owned(), "404 unknown_route"),
        ("ci", "DELETE", read.clone(), "405 method_not_allowed"),
        ("ci", "GET", "/groups/g/export/e1/table.csv".to_owned(), "groups does not hold this group"),
        ("ci", "DELETE", format!("/orgs/{ORG}/export/e1/files"), "405 method_not_allowed"),
        ("files", "GET", read.clone(), "operations does not hold \"read\""),
        ("files", "GET", format!("/orgs/{ORG}/jobs/export/e1"), "operations does not hold \"read\""),
        ("nobody", "GET", read.clone(), "401, unknown client; the clients are: ci, files"),
    ] {
        let (code, text) = check(client, method, &path);
        assert!(code == Some(1) && text.contains(rule), "{rule} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doubtful_framing_ends_the_connection_and_an_unread_body_is_no_second_request() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "hit", State::Finished);
    let home = TempDir::new().unwrap();
    let program = Program::serve(home.path(), &fake, &[], &[]);
    let send = |bytes: String| {
        let mut stream = TcpStream::connect(program.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let target = results("hit");
    for fields in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: ,chunked",
        "content-length: 010",
        "content-length: +1",
        "content-length: 1, 2",
    ] {
        for method in ["GET", "POST"] {
            let smuggled = format!("GET /orgs/{ORG}/export/smuggled?{V} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            let answer =
                send(format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n\r\n{smuggled}"));
            assert!(answer.starts_with("HTTP/1.1 400"), "{fields}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}: {answer}");
        }
    }
    let old = send(format!(
        "GET {target} HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ));
    assert!(old.contains(" 400 ") && old.matches("HTTP/1.").count() == 1, "{old}");
    assert_eq!(fake.hits().api(), 0);
    // A body that a hit or a refusal does not read is drained, or the connection ends: never a request.
    assert!(
        send(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .contains("200 OK")
    );
    let inner = format!("GET /orgs/{ORG}/export/smuggled?{V} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for path in [target.as_str(), "/nothing/here"] {
        let body = inner.clone();
        let first =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer =
            send(format!("{first}GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"));
        assert!(answer.matches("HTTP/1.1 ").count() <= 2, "{answer}");
    }
    assert_eq!(fake.hits().results, 1);
    assert!(fake.requests().iter().all(|seen| !seen.target.contains("smuggled")));
}
