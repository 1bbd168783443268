#![expect(clippy::expect_used, reason = "tests")]

use super::*;
use crate::credential::ValueSource;
use crate::listener::Address;

const TOKEN: &str = "f00dfeed-0000-4000-8000-00000000cafe";

fn sources(file: &str, env: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Sources {
    let mut sources = Sources::default();
    let usual = [("SNYK_TOKEN", TOKEN), ("HOME", "/home/u")];
    for (name, value) in usual.iter().chain(env) {
        sources.env.insert((*name).to_owned(), (*value).to_owned());
    }
    sources.read_file("e.toml", file);
    for (key, text, flag) in flags {
        let given = sources::RawValue {
            place: (*flag).to_owned(),
            text: vec![(*text).to_owned()],
            is_one_text: true,
        };
        sources.flags.insert((*key).to_owned(), given);
    }
    sources
}

pub(super) fn resolve(
    file: &str,
    env: &[(&str, &str)],
    flags: &[(&str, &str, &str)],
) -> Result<Config, String> {
    Config::resolve(&sources(file, env, flags))
        .map(|(config, _)| config)
        .map_err(|problems| problems.to_string())
}

/// Every key with its default.
pub(super) fn defaults() -> Resolved {
    let mut sources = Sources::default();
    sources.read_file("e.toml", "[credentials.NAME]\norgs = []\n[exports.NAME]\ncolumns = []");
    let mut reader = reader::Reader::new(&sources);
    let _ = Config::read(&mut reader);
    reader.resolved
}

pub(super) fn problems(file: &str, env: &[(&str, &str)]) -> String {
    resolve(file, env, &[]).expect_err("a problem")
}

#[test]
fn nothing_but_a_token_is_needed() {
    let config = resolve("", &[], &[]).expect("a configuration");
    assert_eq!(config.upstream.root.to_string(), "https://api.snyk.io");
    let listen: Vec<String> = config.listener.listen.iter().map(Address::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:7080", "[::1]:7080"]);
    assert_eq!(config.journal.path, PathBuf::from("/home/u/.local/state/exportgate/journal.db"));
}

#[cfg(feature = "shared")]
#[test]
fn own_parts_and_the_common_part_are_the_limit_whatever_the_split() {
    for (gateways, own) in [(1, "0.25"), (4, "0.25"), (7, "0.9"), (8, "1.0"), (1_000, "0.5"), (3, "0.0")] {
        let file =
            format!("budget.share = 0.7\n[shared]\nurl = 'unix:/s'\ngateways = {gateways}\nown = {own}");
        let admission = resolve(&file, &[], &[]).expect("a configuration").admission;
        for (lane, expected) in
            [(admission.rest, [(1, 112), (60, 1_134)]), (admission.v1, [(1, 140), (60, 700)])]
        {
            let common = lane.common.expect("a common part").limits;
            for (limit, (seconds, most)) in common.iter().zip(expected) {
                let own = lane.limits.iter().find(|own| own.window == limit.window).expect("an own part");
                assert_eq!(limit.window, Duration::from_secs(seconds));
                assert_eq!(own.most * gateways + limit.most, most, "{gateways} {own:?} {limit:?}");
            }
        }
    }
    assert!(
        problems("budget.v1_per_minute = 1\n[shared]\nurl = 'unix:/s'", &[]).contains("budget.v1_per_minute")
    );
    assert!(problems("budget.per_hour = 59\n[shared]\nurl = 'unix:/s'", &[]).contains("budget.per_hour"));
}

#[test]
fn flags_come_before_variables_before_the_file_before_snyk_api() {
    let root = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str, &str)]| {
        resolve(file, env, flags).expect("a configuration").upstream.root.to_string()
    };
    let (file, snyk_api) =
        ("[upstream]\nurl = 'https://file.example'", ("SNYK_API", "https://api.eu.snyk.io/v1"));
    let variable = ("EXPORTGATE_UPSTREAM_URL", "https://env.example");
    assert_eq!(root("", &[snyk_api], &[]), "https://api.eu.snyk.io");
    assert_eq!(root(file, &[snyk_api], &[]), "https://file.example");
    assert_eq!(root(file, &[snyk_api, variable], &[]), "https://env.example");
    let flag = [("upstream.url", "https://flag.example/", "--upstream")];
    assert_eq!(root(file, &[snyk_api, variable], &flag), "https://flag.example");
    // A region in a higher layer wins over a URL in a lower one.
    assert_eq!(root(file, &[("EXPORTGATE_UPSTREAM_REGION", "au")], &[]), "https://api.au.snyk.io");
    assert!(problems("[upstream]\nurl='https://a.example'\nregion='eu'", &[]).contains("not both"));
    let list = resolve("listen = ['127.0.0.1:1']", &[("EXPORTGATE_LISTEN", "127.0.0.1:2, unix:/run/x")], &[]);
    assert_eq!(list.expect("a configuration").listener.listen.len(), 2);
}

#[test]
fn all_problems_are_reported_together_with_their_lines() {
    let text = problems(
        "listen = [\"0.0.0.0:80\"]\n[upstream]\nconect_timeout = \"5s\"\nmax_answer = \"lots\"\n[cache]\nmax_age = 5\n[nowhere]\nx = 1\n",
        &[("EXPORTGATE_JOURNAL_PTH", "x"), ("SNYK_TOKEN", "two words")],
    );
    for expected in [
        "e.toml:1: listen: other machines reach 0.0.0.0:80, and keys",
        "e.toml:1: listen: other machines reach 0.0.0.0:80, and could do",
        "e.toml:3: upstream.conect_timeout: no such key; did you mean upstream.connect_timeout?",
        "e.toml:4: upstream.max_answer: must be a size",
        "e.toml:6: cache.max_age: must be a duration",
        "e.toml:8: nowhere.x: no such key",
        "EXPORTGATE_JOURNAL_PTH: no such setting; did you mean EXPORTGATE_JOURNAL_PATH?",
        "SNYK_TOKEN: the token has a character",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(!text.contains("two words"));
    assert!(problems("x = [", &[]).contains("e.toml:1: "));
    assert!(problems("[upstream]\nurl = {a = 1}", &[]).contains("e.toml:2: upstream.url.a: no such key"));
}

#[test]
fn urls_are_brought_into_one_form_or_refused_without_an_echo() {
    let root = |url: &str| {
        resolve("", &[("EXPORTGATE_UPSTREAM_URL", url)], &[]).map(|c| c.upstream.root.to_string())
    };
    for (given, expected) in [
        ("https://API.Snyk.io:443/rest/", "https://api.snyk.io"),
        ("https://gw.example/snyk/v1", "https://gw.example/snyk"),
        ("http://127.0.0.1:9/rest", "http://127.0.0.1:9"),
        ("http://[::1]:9", "http://[::1]:9"),
    ] {
        assert_eq!(root(given).as_deref(), Ok(expected));
    }
    for bad in [
        "http://api.snyk.io",
        "ftp://api.snyk.io",
        "api.snyk.io",
        "https://u:hunter2@api.snyk.io",
        "https://a/?hunter2",
        "https://a/#hunter2",
        "https://a/../b",
        "https://a//b",
    ] {
        let text = root(bad).expect_err(bad);
        assert!(!text.contains("hunter2"), "{text}");
    }
    let allowed = "[upstream]\nurl = 'http://snyk.test'\nplain_http_hosts = ['snyk.test']";
    assert!(resolve(allowed, &[], &[]).is_ok());
}

#[test]
fn the_gateway_itself_is_no_upstream() {
    let text = problems("", &[("SNYK_API", "http://localhost:7080/rest")]);
    assert!(text.contains("SNYK_API: upstream.url: this is the gateway itself"), "{text}");
    assert!(problems("[upstream]\nurl = 'http://[::1]:7080'", &[]).contains("the gateway itself"));
}

#[test]
fn the_example_of_clients_is_one() {
    let clients = clients::parse("clients.toml", include_bytes!("../../config/clients.example.toml"));
    let names: Vec<String> = clients.expect("clients").into_iter().map(|client| client.name).collect();
    assert_eq!(names, ["build-agents", "dashboard", "local-admin", "nightly-export"]);
}

#[test]
fn credentials_are_for_scopes_and_secrets_are_never_in_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "x").expect("a file");
    let secret = format!("client_id = 'c'\nclient_secret_file = '{}'\n", path.display());
    let eu = format!(
        "[credentials.eu]\norgs = ['a']\n{secret}[credentials.eu.next]\ntoken_file = '/not/there/yet'\n"
    );
    let config = resolve(&eu, &[], &[]).expect("a configuration");
    let names: Vec<(&str, usize)> =
        config.credential.credentials.iter().map(|one| (one.name.as_str(), one.slots.len())).collect();
    assert_eq!(names, [("default", 1), ("eu", 2)]);
    for (file, expected) in [
        ("[credentials.eu]\norgs = ['a']", "has no value"),
        ("[credential]\nclient_id = 'c'", "client_id and client_secret_file together"),
        ("[credential]\nclient_secret = 'hunter2'", "must not be in this file"),
        ("[credentials.\"a b\"]\norgs = ['a']", "the name must be"),
    ] {
        let text = problems(file, &[]);
        assert!(text.contains(expected) && !text.contains("hunter2"), "{text}");
    }
    let unscoped = problems(&format!("[credentials.eu]\n{secret}"), &[]);
    assert!(unscoped.contains("names no org and no group"), "{unscoped}");
    let twice = problems(&format!("{eu}[credentials.us]\norgs = ['a']\n{secret}"), &[]);
    assert!(twice.contains("credentials.us: names an org or group that credentials.eu names too"), "{twice}");
    let plain = format!("[credential]\n{secret}token_url = 'http://login.example/x'");
    assert!(problems(&plain, &[]).contains("credential.token_url: must begin with https://"));
}

#[test]
fn a_token_is_never_shown() {
    let (config, resolved) = Config::resolve(&sources("", &[], &[])).expect("a configuration");
    assert!(!format!("{config:?} {resolved:?}").contains(TOKEN));
    let text = problems(&format!("[credential]\ntoken = '{TOKEN}'"), &[]);
    assert!(text.contains("must not be in this file") && !text.contains(TOKEN), "{text}");
    let none = problems("", &[("SNYK_TOKEN", " ")]);
    assert!(none.contains("SNYK_TOKEN: the token is empty"), "{none}");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let named = format!("[credential]\ntoken_file = '{}'", path.display());
    assert!(problems(&named, &[]).contains("credential.token_file: cannot be read"));
    std::fs::write(&path, "from-file\n").expect("a file");
    let file = resolve(&named, &[], &[]).expect("a configuration");
    assert!(matches!(file.credential.credentials[0].slots[0].source, ValueSource::File(_)));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let file =
        "[cache]\nmax_age = '30m'\n[upstream]\nurl = 'https://file.example'\n[admin]\nlisten = '127.0.0.1:1'";
    let keys =
        ["CACHE_MAX_AGE", "QUEUE_MAX_RUNNING", "UPSTREAM_URL", "LISTEN", "LISTENER_UNIX_MODE", "LOG_FILTER"];
    let names = keys.map(|key| format!("EXPORTGATE_{key}"));
    let env: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let config = resolve(file, &env, &[]).expect("a configuration");
    assert_eq!(config.cache.max_age, std::time::Duration::from_mins(30));
    assert_eq!(config.upstream.root.to_string(), "https://file.example");
    assert!(config.listener.listen.len() == 2 && config.admin.listener.is_some());
    // Here it says something: there is no admin listener.
    let nowhere = resolve(file, &[("EXPORTGATE_ADMIN_LISTEN", "")], &[]).expect("a configuration");
    assert!(nowhere.admin.listener.is_none());
    let text = problems("", &[("SNYK_TOKEN", "")]);
    assert!(text.contains("SNYK_TOKEN is empty, and there is no other Snyk credential"), "{text}");
}

#[test]
fn a_share_of_less_than_one_request_is_refused_with_what_to_write() {
    let share = |share: &str, file: &str| resolve(file, &[("EXPORTGATE_BUDGET_SHARE", share)], &[]);
    let text = share("0.005", "").expect_err("too small a share");
    for expected in ["EXPORTGATE_BUDGET_SHARE: budget.share", "0.005", "budget.per_second = 160", "0.00625"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(share("0.00625", "").is_ok());
    let text = share("0.02", "[budget]\nper_second = 49\nper_minute = 2000").expect_err("too small a share");
    assert!(text.contains("budget.per_second = 49") && text.contains("at least 0.02041"), "{text}");
    assert!(share("0.02041", "[budget]\nper_second = 49\nper_minute = 2000").is_ok());
    let text = share("0.5", "[budget]\nv1_per_minute = 10").expect_err("too small a share");
    assert!(text.contains("budget.v1_per_minute = 10"), "{text}");
}

#[test]
fn fields_that_identify_or_frame_are_never_forwarded() {
    for name in
        ["Authorization", "cookie", "session-token", "x-forwarded-for", "proxy-foo", "a_b", "te", "a b"]
    {
        let file = format!("[upstream]\nforward_headers = ['{name}']");
        assert!(resolve(&file, &[], &[]).is_err(), "{name}");
    }
    let tenant = resolve("[upstream]\nforward_headers = ['X-Tenant']", &[], &[]).expect("a configuration");
    assert_eq!(tenant.upstream.forward_headers, ["x-tenant"]);
}

#[test]
fn traces_go_nowhere_by_default_and_their_endpoint_is_made_whole() {
    let traces = |file: &str| resolve(file, &[], &[]).map(|config| config.traces);
    assert!(traces("").expect("a configuration").is_none());
    for (given, whole) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example/", "https://otel.example/v1/traces"),
        ("https://otel.example/otlp", "https://otel.example/otlp/v1/traces"),
        ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
    ] {
        let found =
            traces(&format!("[otlp]\nendpoint = '{given}'")).expect("a configuration").expect("traces");
        assert_eq!((found.endpoint.to_string().as_str(), found.service_name.as_str()), (whole, "exportgate"));
        assert!((found.sample - 1.0).abs() < f64::EPSILON);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("headers");
    std::fs::write(&path, "X-Api-Key hunter2").expect("a file");
    let bad_file = format!("headers_file = '{}'", path.display());
    for (key, expected) in [
        ("endpoint = 'http://otel.example'", "otlp.endpoint: must begin with https://"),
        ("endpoint = 'https://otel.example?key=hunter2'", "otlp.endpoint: must not have a query"),
        ("endpoint = 'https://u:hunter2@otel.example'", "otlp.endpoint: must not hold a user name"),
        ("sample = 1.5", "otlp.sample: must be a number from 0 to 1"),
        ("sample = 'NaN'", "otlp.sample: must be a number from 0 to 1"),
        ("service_name = ''", "otlp.service_name: must not be empty"),
        ("ca_file = '/not/there'", "otlp.ca_file: cannot be read"),
        (&bad_file, "otlp.headers_file: line 1 must be a field"),
    ] {
        let text = problems(&format!("[otlp]\n{key}"), &[]);
        assert!(text.contains(expected) && !text.contains("hunter2"), "{expected} in\n{text}");
    }
}

#[test]
fn what_keeps_answers_from_being_stored_is_said() {
    let notes = |cache: &str| {
        let config = resolve(&format!("[cache]\n{cache}"), &[], &[]).expect("a configuration");
        config.resolved.notes.join("\n")
    };
    assert!(!notes("link_margin = '30m'").contains("cache."));
    assert!(notes("link_margin = '31m'").contains("cache.link_margin cannot be met"));
    assert!(notes("max_bytes = '1MiB'").contains("cache.max_bytes is less than cache.max_entry"));
    assert!(problems("[cache]\nignore = ['private', 'etag']", &[]).contains("etag cannot be ignored"));
}

#[test]
fn every_key_has_an_environment_variable() {
    let resolved = defaults();
    assert!(resolved.keys.len() > 30);
    // A table of the file gives its keys their variables; here, no file has one.
    let is_of_table = |name: &str| name.starts_with("credentials.") || name.starts_with("exports.NAME.");
    for key in resolved.keys.iter().filter(|key| !is_of_table(&key.name)) {
        let bad = sources("", &[(&sources::variable(&key.name), "\u{1}nonsense,")], &[]);
        let read = Config::resolve(&bad).err().map(|problems| problems.to_string());
        let seen = bad.env.len() == 3 && !read.is_some_and(|text| text.contains("no such setting"));
        assert!(seen, "{}", key.name);
    }
}

#[test]
fn an_error_always_has_a_text() {
    let sources = sources("", &[], &[]);
    let Problems(problems) = reader::Reader::new(&sources).finish(None::<()>).expect_err("nothing was read");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("does not say why"));
}
