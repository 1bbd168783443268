//! `exportgate check --live`: each slot is tried, and what is not Snyk's word is not taken for it.

use exportgate::fake::{Fake, Fault, Script, Settings};
use tempfile::TempDir;

use crate::support::program::exportgate;
use crate::support::{TOKEN, artefacts, keep_secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_live_check_tells_whether_token_and_clock_are_right() {
    let fake = Fake::start(Settings { token: Some(TOKEN.to_owned()), ..Settings::default() }).await.unwrap();
    let home = TempDir::new().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, fake.ca_pem()).unwrap();
    let check = |token: &'static str, upstream: String| {
        let mut command = exportgate(home.path());
        command.args(["check", "--live", "--upstream", &upstream]).env("SNYK_TOKEN", token);
        command.env("EXPORTGATE_UPSTREAM_CA_FILE", &ca);
        tokio::task::spawn_blocking(move || {
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        })
    };
    let (code, text) = check(TOKEN, fake.url()).await.unwrap();
    assert!(
        code == Some(0)
            && text
                .contains("default active: 200, the token is good, version 2024-10-15 served, clocks agree"),
        "{text}"
    );
    let id = text.split("snyk-request-id ").nth(1).unwrap().trim_end().trim_end_matches(']').to_owned();
    assert_eq!(fake.hits().other, 1);
    let (code, text) = check("another-token-0123456789", fake.url()).await.unwrap();
    assert!(
        code == Some(1) && text.contains("401, refused: the token is wrong, or belongs to another region"),
        "{text}"
    );
    fake.step_clock(600);
    let (_, text) = check(TOKEN, fake.url()).await.unwrap();
    assert!(text.contains("this clock is 9m") || text.contains("this clock is 10m"), "{text}");
    assert!(text.contains("behind Snyk's"), "{text}");
    let (code, text) = check(TOKEN, "https://127.0.0.1:1".to_owned()).await.unwrap();
    assert!(
        code == Some(1) && text.contains("no answer from https://127.0.0.1:1 (connection_refused"),
        "{text}"
    );
    // Its calls are on record like any other.
    let found = exportgate(home.path()).args(["requests", "--id", &id, "--format", "json"]).output().unwrap();
    assert!(String::from_utf8(found.stdout).unwrap().contains("\"status\": 200"));
}

const NEXT: &str = "n3xt-7e57-c0de-5eed-0123456789abcdef";

/// Runs the check in `home`, where `token` and `next` are the files of the slots; its exit code, and its lines.
async fn check(home: &TempDir, fake: &Fake, env: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    keep_secret([NEXT.to_owned()]);
    let file = |name: &str| home.path().join(name);
    std::fs::write(file("ca.pem"), fake.ca_pem()).unwrap();
    let mut command = exportgate(home.path());
    command.args(["check", "--live", "--upstream", &fake.url()]);
    command.env("EXPORTGATE_UPSTREAM_CA_FILE", file("ca.pem"));
    command.env("EXPORTGATE_CREDENTIAL_TOKEN_FILE", file("token"));
    command.env("EXPORTGATE_CREDENTIAL_NEXT_TOKEN_FILE", file("next"));
    command.envs(env.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let name = format!("live-{}.txt", uuid::Uuid::new_v4().simple());
    std::fs::write(artefacts().join(name), [&output.stdout[..], &output.stderr[..]].concat()).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_of_each_credential_is_asked_with_its_own_value() {
    let fake = Fake::start(Settings { token: Some(TOKEN.to_owned()), ..Settings::default() }).await.unwrap();
    let home = TempDir::new().unwrap();
    let file = |name: &str| home.path().join(name);
    std::fs::write(file("token"), TOKEN).unwrap();
    // A next one that is not there yet is no failure.
    let (code, lines) = check(&home, &fake, &[]).await;
    assert_eq!((code, lines.len()), (Some(0), 2), "{lines:?}");
    assert!(lines[0].starts_with("default active: 200, the token is good"), "{lines:?}");
    let missing = format!("default next: {} is missing or empty: not asked", file("next").display());
    assert_eq!((&lines[1], fake.hits().other), (&missing, 1));
    // One that Snyk refuses is said, and one that cannot even be sent.
    for (next, told) in [(NEXT, "401, refused"), ("two words", "next: the token has a character")] {
        std::fs::write(file("next"), next).unwrap();
        let (code, lines) = check(&home, &fake, &[]).await;
        assert!(code == Some(0) && lines[1].starts_with("default next: "), "{lines:?}");
        assert!(lines[1].contains(told) && lines[0].contains("the token is good"), "{lines:?}");
    }
    // A good next one does not make up for an active one that is refused.
    std::fs::write(file("next"), NEXT).unwrap();
    fake.accept(&[NEXT]);
    let (code, lines) = check(&home, &fake, &[]).await;
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(
        lines[0].starts_with("default active: 401") && lines[1].starts_with("default next: 200"),
        "{lines:?}"
    );
    let config = file("e.toml");
    let eu = format!("[credentials.eu]\norgs = ['a']\ntoken_file = '{}'\n", file("next").display());
    std::fs::write(&config, eu).unwrap();
    let (code, lines) = check(&home, &fake, &[("EXPORTGATE_CONFIG", config.to_str().unwrap())]).await;
    assert_eq!((code, lines.len()), (Some(1), 3));
    assert!(lines[2].starts_with("eu active: 200, the token is good"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_snyks_own_word_counts_and_each_refusal_has_its_words() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("token"), TOKEN).unwrap();
    let portal = "https://portal.example/login?return=here";
    for (fault, told) in [
        (
            Fault::Html,
            vec!["200, but not from Snyk's API (text/html", "upstream.url (https://127", "HTTPS_PROXY"],
        ),
        (Fault::Gzip, vec!["200, but not from Snyk's API"]),
        (Fault::Redirect(portal.to_owned()), vec!["303, a redirect to portal.example", "upstream.url"]),
        (
            Fault::Status(503),
            vec!["Snyk answered 503 Service Unavailable", "no word on the token", "snyk-request-id "],
        ),
        (Fault::Status(403), vec!["403, refused: Snyk knows the token", "role and plan"]),
        (Fault::Status(404), vec!["Snyk answered 404", "the path of upstream.url (https://127"]),
        (Fault::Status(400), vec!["Snyk answered 400 Bad Request"]),
        (
            Fault::TooManyRequests { retry_after: 42 },
            vec!["429, the rate limit is used up", "again after 42 s"],
        ),
        (
            Fault::NoHealthyUpstream,
            vec!["503, but not from Snyk's API (text/plain, no snyk-request-id)", "edge"],
        ),
        (Fault::Reset, vec!["no answer from https://127"]),
    ] {
        fake.fault(fault.clone(), Some(1));
        let (code, lines) = check(&home, &fake, &[]).await;
        assert_eq!(code, Some(1), "{fault:?} {lines:?}");
        for told in told {
            assert!(lines[0].contains(told), "{told} in {lines:?}");
        }
        assert!(!lines[0].contains("is good") && !lines[0].contains("return=here"), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_refuses_is_said_with_its_reason() {
    keep_secret(["l1ve-0f-a-secret-0123".to_owned()]);
    let script = Script { oauth_secret: Some("l1ve-0f-a-secret-0123".to_owned()), ..Script::default() };
    let fake = Fake::start(Settings { script, ..Settings::default() }).await.unwrap();
    let home = TempDir::new().unwrap();
    let secret = home.path().join("secret");
    let with = |content: &str| {
        std::fs::write(&secret, content).unwrap();
        [
            ("EXPORTGATE_CREDENTIAL_TOKEN_FILE", ""),
            ("EXPORTGATE_CREDENTIAL_CLIENT_ID", "svc-1"),
            ("EXPORTGATE_CREDENTIAL_CLIENT_SECRET_FILE", secret.to_str().unwrap()),
        ]
    };
    let (code, lines) = check(&home, &fake, &with("l1ve-0f-a-secret-0123")).await;
    assert!(code == Some(0) && lines[0].starts_with("default active: 200, the token is good"), "{lines:?}");
    let (code, lines) = check(&home, &fake, &with("another")).await;
    assert_eq!(code, Some(1));
    assert!(
        lines[0].contains("refused with 401 Unauthorized (invalid_client): not asked; check client_id"),
        "{lines:?}"
    );
}
