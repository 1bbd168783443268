//! The way to Snyk: connections that died, and proxies.

use std::process::Command;
use std::time::{Duration, Instant};

use exportgate::fake::{Fake, Settings, State};
use tempfile::TempDir;

use crate::support::program::{Program, exportgate};
use crate::support::upstream::{Answer, Relay, Upstream};
use crate::support::{World, flag, keep_secret, results, scope};

/// A gateway that reaches its fake through a relay.
async fn relayed() -> (World, Relay) {
    let fake = Fake::start(Settings::default()).await.unwrap();
    fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let relay = Relay::to(fake.address()).await;
    let url = format!("https://{}", relay.address);
    (World::before(fake, &url, vec![flag("upstream.dead_after", "1s")]).await, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_a_dead_connection_goes_again_on_another() {
    let (world, relay) = relayed().await;
    assert_eq!(world.get(&results("e1")).await.status, 200);
    relay.fall_silent();
    let begun = Instant::now();
    let got = world.get(&results("e1")).await;
    assert_eq!((got.status.as_u16(), got.field("exportgate-attempts")), (200, "2"));
    // Far from the time that an answer may take.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!((relay.opened(), world.fake.hits().api()), (2, 2));
    assert_eq!(world.records()[1].error.as_deref(), Some("connection_terminated"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_it_was_idle_is_closed_before_it_is_needed() {
    let (world, mut relay) = relayed().await;
    assert_eq!(world.get(&results("e1")).await.status, 200);
    relay.fall_silent();
    tokio::time::timeout(Duration::from_secs(15), relay.wait_for_closed(1)).await.expect("it is closed");
    let got = world.get(&results("e1")).await;
    assert_eq!((got.status.as_u16(), got.field("exportgate-attempts")), (200, "1"));
    world.stop().await;
}

const PASSWORD: &str = "p4ss#w0rd/of?proxy";

fn ask(program: &Program) -> serde_json::Value {
    let url = format!("http://{}{}", program.address, results("e1"));
    let curl = Command::new("curl").args(["-s", &url]).output().expect("curl runs");
    serde_json::from_slice(&curl.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_fails_is_named_in_answer_log_check_and_status() {
    keep_secret([PASSWORD.to_owned(), "p4ss%23w0rd".to_owned()]);
    let answers = |answer: &'static str| {
        Upstream::http1(move |_, _| Answer { bytes: answer.as_bytes().to_vec(), closes: true })
    };
    let demands_login =
        answers("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 3\r\n\r\nno\n").await;
    let forbids = answers("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    let has_no_way = answers("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    let ends = answers("").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |upstream: &Upstream| upstream.url.trim_start_matches("http://").to_owned();
    for (place, code, told, cause) in [
        (at(&demands_login), "proxy_status", "(407)", "407 Proxy Authentication Required"),
        (at(&forbids), "proxy_status", "(403)", "403 Forbidden"),
        (at(&has_no_way), "proxy_status", "does not reach Snyk", "503 Service Unavailable"),
        (at(&ends), "proxy_unreachable", "did not answer", "no tunnel"),
        (closed.to_string(), "proxy_refused", "refused the connection", "Connection refused"),
        (
            silent.local_addr().unwrap().to_string(),
            "proxy_unreachable",
            "did not answer",
            "not within 400 ms",
        ),
        (
            "no-such-proxy.invalid:3128".to_owned(),
            "proxy_dns",
            "was not resolved",
            "host name was not resolved",
        ),
    ] {
        let (fake, home) = (Fake::start(Settings::default()).await.unwrap(), TempDir::new().unwrap());
        let proxy = format!("http://user:{PASSWORD}@{place}");
        let environment = [
            ("HTTPS_PROXY", proxy.as_str()),
            ("EXPORTGATE_UPSTREAM_CONNECT_TIMEOUT", "400ms"),
            ("EXPORTGATE_RETRY_MAX", "0"),
        ];
        let mut program = Program::serve(home.path(), &fake, &[], &environment);
        let error = ask(&program)["errors"][0].clone();
        let named = format!("{place} (HTTPS_PROXY)");
        assert_eq!((error["code"].as_str(), error["status"].as_str()), (Some(code), Some("502")), "{place}");
        let text = format!("{} {}", error["title"].as_str().unwrap(), error["detail"].as_str().unwrap());
        assert!(text.contains(told) && text.contains(&named) && !text.contains("status page"), "{text}");
        assert_eq!(fake.hits().api(), 0, "{place}");

        let status = exportgate(home.path())
            .args(["status", "--admin", &format!("http://{}", program.admin())])
            .output()
            .unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains(&format!("the proxy {named}")) && status.contains(code), "{status}");
        assert_eq!(program.terminate(), Some(0), "{place}");
        let log = std::fs::read_to_string(program.log()).unwrap();
        assert!(log.contains(&format!("the proxy {named}")) && log.contains(cause), "{place}: {log}");

        let check = exportgate(home.path())
            .args(["check", "--live", "--upstream", &fake.url()])
            .env("SNYK_TOKEN", crate::support::TOKEN)
            .env("EXPORTGATE_JOURNAL_PATH", home.path().join("check.db"))
            .envs(environment)
            .output()
            .unwrap();
        let check = String::from_utf8(check.stdout).unwrap();
        let blamed = format!("the proxy {named}");
        assert!(check.contains(&blamed) && check.contains(code) && check.contains(cause), "{check}");
        for text in [text, status, log, check] {
            assert!(!text.contains("p4ss") && !text.contains("w0rd"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_be_used_is_no_reason_to_go_past_it() {
    let (fake, home) = (Fake::start(Settings::default()).await.unwrap(), TempDir::new().unwrap());
    for proxy in ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://127.0.0.1:port"] {
        let output = exportgate(home.path())
            .args(["serve", "--upstream", &fake.url()])
            .env("SNYK_TOKEN", crate::support::TOKEN)
            .env("HTTPS_PROXY", proxy)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{proxy}: {text}");
        assert!(text.contains("HTTPS_PROXY: must be http://[USER:PASSWORD@]HOST[:PORT]"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_the_password_as_it_is_and_no_proxy_may_name_a_port() {
    keep_secret([PASSWORD.to_owned()]);
    let (fake, home) = (Fake::start(Settings::default()).await.unwrap(), TempDir::new().unwrap());
    let proxy =
        Upstream::http1(|_, _| Answer { bytes: b"HTTP/1.1 407 No\r\n\r\n".to_vec(), closes: true }).await;
    let url = format!("http://user:{PASSWORD}@{}", proxy.url.trim_start_matches("http://"));
    let port = fake.address().port();
    for (exceptions, code) in [
        (format!("127.0.0.1:{}", port - 1), "proxy_status"),
        (format!("localhost,127.0.0.1:{port}"), "SNYK-0000"),
    ] {
        let environment = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", exceptions.as_str())];
        let program = Program::serve(home.path(), &fake, &[], &environment);
        assert_eq!(ask(&program)["errors"][0]["code"], code, "{exceptions}");
    }
    let check = exportgate(home.path())
        .args(["check", "--upstream", &fake.url()])
        .envs([("SNYK_TOKEN", crate::support::TOKEN), ("HTTPS_PROXY", &url)])
        .output()
        .unwrap();
    let named = format!("proxy {} (HTTPS_PROXY)", proxy.url.trim_start_matches("http://"));
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(check.contains(&format!("# Snyk is reached through the {named}\n")), "{check}");
    // "user:" and the password, as RFC 7617 has it.
    let head = &proxy.heads()[0];
    assert!(head.starts_with(&format!("connect 127.0.0.1:{port} http/1.1\r\n")), "{head}");
    let field = "proxy-authorization: basic dXNlcjpwNHNzI3cwcmQvb2Y/cHJveHk=";
    assert!(head.contains(&field.to_ascii_lowercase()), "{head}");
}
