//! A finished export is kept whatever an edge puts on every answer; where it is not kept, everybody is told why.

use std::time::{Duration, SystemTime};

use exportgate::fake::{Fake, Fault, LinkForm, Script, Settings, State};
use http::Method;
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::{Flags, Got, World, flag, raw, results, scope};

/// A world with one finished export, `e1`, whose links are signed in `form`.
async fn finished(form: LinkForm, mut flags: Flags) -> World {
    flags.push(flag("cache.refresh_ahead", "false"));
    let script = Script { link_form: form, ..Script::default() };
    let world = World::with(Settings { script, ..Settings::default() }, flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    world
}

fn field(name: &str, value: &str) -> Fault {
    Fault::ExtraHeader(name.to_owned(), value.to_owned())
}

/// `e1` as an answer of just this, with one link.
fn linked(query: &str) -> State {
    let link = format!("https://files.example/data_1_1_0.csv?{query}");
    let body =
        serde_json::json!({"data": {"attributes": {"status": "FINISHED", "results": [{"url": link}]}}});
    State::Raw {
        status: 200,
        headers: vec![("content-type".into(), "application/vnd.api+json".into())],
        body: body.to_string().into(),
    }
}

fn ttl(hit: &Got) -> u64 {
    let ttl = hit.cache().split("ttl=").nth(1).unwrap_or_else(|| panic!("no hit: {}", hit.cache()));
    ttl.split(';').next().unwrap().parse().unwrap()
}

async fn not_stored(world: &World, reason: &str) -> f64 {
    let text = world.send(Method::GET, &format!("{}/metrics", world.admin), &[], "").await.body;
    let series = format!("exportgate_not_stored_total{{reason=\"{reason}\"}} ");
    let text = std::str::from_utf8(&text).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_puts_on_every_answer_does_not_switch_the_cache_off() {
    let vary = "Origin, Accept-Encoding, Authorization, accept, User-Agent, Cookie, Content-Type, x-tenant";
    for fields in [
        // As recorded: a weak ETag, Server, and the second of the answer as Expires.
        &[][..],
        &[("vary", vary)],
        &[("vary", "Accept-Language"), ("vary", "Referer")],
        &[("expires", "0"), ("pragma", "no-cache")],
        &[("cache-control", "max-age=0")],
        &[("cache-control", "s-maxage=0, public"), ("expires", "Thu, 01 Jan 1970 00:00:00 GMT")],
    ] {
        let world = finished(LinkForm::GcsV4, vec![flag("upstream.forward_headers", "x-tenant")]).await;
        world.fake.script(|script| script.edge_fields = true);
        for (name, value) in fields {
            world.fake.fault(field(name, value), None);
        }
        let first = world.get(&results("e1")).await;
        assert!(first.cache().ends_with("; stored"), "{fields:?}: {}", first.cache());
        for _ in 0..2 {
            let hit = world.get(&results("e1")).await;
            assert!(hit.is_hit(), "{fields:?}: {}", hit.cache());
            // The links decide: an hour less the margin.
            assert!((2_690..=2_700).contains(&ttl(&hit)), "{fields:?}: {}", hit.cache());
        }
        assert_eq!(world.fake.hits().results, 1, "{fields:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_is_one_shortens() {
    let world = finished(LinkForm::GcsV4, vec![]).await;
    world.fake.fault(field("cache-control", "max-age=90"), None);
    assert!(world.get(&results("e1")).await.cache().ends_with("; stored"));
    assert!((85..=90).contains(&ttl(&world.get(&results("e1")).await)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_answer_that_is_not_kept_says_why() {
    let small = || vec![flag("cache.max_entry", "1KiB")];
    let strict = || vec![flag("cache.default_age", "0s")];
    let tiny = || vec![flag("cache.max_bytes", "1KiB")];
    let dying = |seconds: u64| {
        let end = SystemTime::now() + Duration::from_secs(seconds);
        linked(&format!("Expires={}", end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()))
    };
    let plain = Fault::ReplaceHeader("content-type".into(), "text/plain".into());
    for (reason, flags, state, fault) in [
        ("no-store", vec![], State::Finished, Some(field("cache-control", "no-store"))),
        ("no-cache", vec![], State::Finished, Some(field("cache-control", "no-cache"))),
        ("private", vec![], State::Finished, Some(field("cache-control", "private"))),
        ("vary", vec![], State::Finished, Some(field("vary", "*"))),
        ("vary", vec![], State::Finished, Some(field("vary", "accept, Via"))),
        ("links-ending", vec![], dying(30), None),
        ("links-end-uncertain", strict(), linked("sig=x"), None),
        ("too-large", small(), linked(&"x".repeat(2_000)), None),
        ("too-large", tiny(), State::Finished, None),
        ("not-export", vec![], State::Finished, Some(Fault::Gzip)),
        ("not-export", vec![], State::Finished, Some(plain)),
    ] {
        let world = finished(LinkForm::GcsV4, flags).await;
        world.fake.put_export(&scope(), "e1", state);
        let name = format!("{reason} {fault:?}");
        if let Some(fault) = fault {
            world.fake.fault(fault, None);
        }
        for asked in 1..=2 {
            let got = world.get(&results("e1")).await;
            let expected = format!("exportgate; fwd=uri-miss; fwd-status=200; detail={reason}");
            assert_eq!(got.cache(), expected, "{name}");
            assert_eq!(world.fake.hits().results, asked, "{name}");
        }
        assert!((not_stored(&world, reason).await - 2.0).abs() < 0.1, "{name}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_needs_no_reason() {
    let world = finished(LinkForm::GcsV4, vec![]).await;
    world.fake.put_export(&scope(), "e2", State::Word("PENDING".into()));
    assert_eq!(world.get(&results("e2")).await.cache(), "exportgate; fwd=uri-miss; fwd-status=200");
    assert_eq!(world.get(&results("none")).await.cache(), "exportgate; fwd=uri-miss; fwd-status=404");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_better_has_the_upstreams_words_ignored() {
    for (word, name, value) in [
        ("no-store", "cache-control", "no-store"),
        ("no-cache", "cache-control", "no-cache"),
        ("private", "cache-control", "private"),
        ("vary", "vary", "*"),
    ] {
        let world = finished(LinkForm::GcsV4, vec![flag("cache.ignore", word)]).await;
        world.fake.fault(field(name, value), None);
        assert!(world.get(&results("e1")).await.cache().ends_with("; stored"), "{word}");
        assert!(world.get(&results("e1")).await.is_hit(), "{word}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_it_of_each_and_warns_once() {
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let mut program = Program::serve(home.path(), &fake, &[], &[("RUST_LOG", "info")]);
    fake.put_export(&scope(), "e1", State::Finished);
    fake.fault(field("cache-control", "private"), None);
    let mut connection = raw::connect(program.address).unwrap();
    for _ in 0..3 {
        assert_eq!(raw::ask(&mut connection, &results("e1")).unwrap().0, 200);
    }
    drop(connection);
    assert_eq!(program.terminate(), Some(0));
    let log = std::fs::read_to_string(program.log()).unwrap();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let said = events.iter().filter(|event| event["cache.not_stored"] == "private");
    let (exchanges, others): (Vec<_>, Vec<_>) =
        said.partition(|event| event["http.response.status_code"].is_u64());
    assert_eq!((exchanges.len(), others.len()), (3, 1), "{others:?}");
    assert_eq!(others[0]["level"], "WARN");
    assert!(others[0]["message"].as_str().unwrap().contains("cache.ignore"), "{}", others[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_ten_minutes_are_kept_for_half_of_their_life() {
    for margin in ["15m", "2h"] {
        let world = finished(LinkForm::GcsV4, vec![flag("cache.link_margin", margin)]).await;
        world.fake.script(|script| script.link_seconds = vec![600]);
        assert!(world.get(&results("e1")).await.cache().ends_with("; stored"), "{margin}");
        assert!((295..=300).contains(&ttl(&world.get(&results("e1")).await)), "{margin}");
        world.clock.step_wall(301);
        assert!(!world.get(&results("e1")).await.is_hit(), "{margin}");
        assert_eq!(world.fake.hits().results, 2, "{margin}");
        world.stop().await;
    }
}

/// The forms whose ends were not read: each link dies three minutes from now.
#[tokio::test(flavor = "multi_thread")]
async fn no_link_is_handed_out_dead_whatever_its_form() {
    let end = SystemTime::now() + Duration::from_mins(3);
    let unix = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let utc = |seconds: u64| {
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
    };
    let policy = format!(
        r#"{{"Statement":[{{"Resource":"https://files.example/*?","Condition":{{"DateLessThan":{{"AWS:EpochTime":{unix}}}}}}}]}}"#
    );
    let policy = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, policy);
    let policy = policy.replace('+', "-").replace('=', "_").replace('/', "~");
    let minute = &utc(unix)[..16];
    for query in [
        format!("sv=2022-11-02&se={minute}Z&sig=s"),
        format!("sv=2022-11-02&se={}%2B02:00&sig=s", &utc(unix + 7_200)[..19]),
        format!("sv=2022-11-02&se={}+02:00&sig=s", &utc(unix + 7_200)[..19]),
        format!("sv=2022-11-02&se={}&sig=s", &utc(unix)[..10]),
        format!("Policy={policy}&Signature=s&Key-Pair-Id=K"),
        format!("AWSAccessKeyId=a&amp;Expires={unix}&amp;Signature=s"),
        format!("q-sign-algorithm=sha1&q-sign-time={};{unix}&q-key-time={};{unix}", unix - 180, unix - 180),
        format!("hdnts=exp={unix}~acl=/*~hmac=s"),
        format!("x-oss-date={}&x-oss-expires=180", utc(unix - 180).replace(['-', ':'], "")),
    ] {
        let world = finished(LinkForm::GcsV4, vec![]).await;
        world.fake.put_export(&scope(), "e1", linked(&query));
        world.get(&results("e1")).await;
        world.clock.step_wall(181);
        let late = world.get(&results("e1")).await;
        assert!(!late.is_hit(), "{query}: {}", late.cache());
        world.stop().await;
    }
}

/// Our clock, Snyk's `Date`, or both are two hours off; the links and their store go by the right time.
#[tokio::test(flavor = "multi_thread")]
async fn no_clock_that_is_off_keeps_a_dead_link_alive() {
    const OFF: [i64; 3] = [0, -7_200, 7_200];
    for form in [LinkForm::GcsV4, LinkForm::S3V2, LinkForm::Azure] {
        for (ours, theirs) in OFF.iter().flat_map(|ours| OFF.map(|theirs| (*ours, theirs))) {
            let name = format!("{form:?}: ours {ours}, Snyk's {theirs}");
            let world = finished(form, vec![flag("breaker.failures", 1_000), flag("retry.max", 0)]).await;
            world.clock.step_wall(ours);
            world.fake.script(|script| script.date_offset = theirs);
            let first = world.get(&results("e1")).await;
            let is_kept = first.cache().ends_with("; stored");
            assert!(is_kept || first.cache().contains("detail="), "{name}: {}", first.cache());
            if ours == 0 && theirs <= 0 {
                assert!(is_kept, "{name}: {}", first.cache());
            }
            // Fresh it is for 45 minutes at most; the links live for an hour.
            world.fake.fault(Fault::Status(500), None);
            world.clock.step_wall(2_701);
            let late = world.get(&results("e1")).await;
            assert!(!late.is_hit(), "{name}: {}", late.cache());
            world.clock.step_wall(900);
            let dead = world.get(&results("e1")).await;
            assert_eq!(dead.status, 500, "{name}: {}", dead.cache());
            world.stop().await;
        }
    }
}
