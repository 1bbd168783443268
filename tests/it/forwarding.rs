//! What goes up and what comes down: nothing of a client that is not named, everything else as it was.

use exportgate::fake::{Fault, Settings, State};
use http::Method;

use crate::support::{ORG, START, TOKEN, V, World, flag, results, scope};

/// What clients send, by accident or on purpose.
const UNWANTED: [(&str, &str); 12] = [
    ("authorization", "token somebody-elses"),
    ("session-token", "somebody-elses"),
    ("cookie", "session=1"),
    ("x-api-key", "k"),
    ("proxy-authorization", "basic eA=="),
    ("x-forwarded-for", "10.0.0.1"),
    ("forwarded", "for=10.0.0.1"),
    ("x-original-url", "/rest/self"),
    ("x-http-method-override", "DELETE"),
    ("session_token", "somebody-elses"),
    ("accept-encoding", "gzip"),
    ("te", "trailers"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_get_goes_up_with_the_same_fields_whoever_asks() {
    let world = World::with(Settings::default(), vec![flag("access.allow_forwarded", "true")]).await;
    world.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let own_id = "11111111-2222-4333-8444-555555555555";
    let mut fields = UNWANTED.to_vec();
    fields.extend([("accept", "text/html"), ("user-agent", "curl/8"), ("snyk-request-id", own_id)]);
    world.get_with(&results("e1"), &fields).await;
    world.get(&results("e1")).await;
    let seen = world.fake.requests();
    let names = |i: usize| {
        let mut names: Vec<&str> = seen[i].headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    };
    let mut expected = vec![
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "snyk-request-id",
        "user-agent",
        "via",
    ];
    if seen[0].version == http::Version::HTTP_11 {
        expected.push("host");
        expected.sort_unstable();
    }
    assert_eq!((names(0), names(1)), (expected.clone(), expected));
    for name in ["accept", "accept-encoding", "content-type", "user-agent", "authorization", "via"] {
        assert_eq!(seen[0].header(name), seen[1].header(name), "{name}");
    }
    assert_eq!(seen[0].header("authorization"), [format!("token {TOKEN}")]);
    assert_eq!(seen[0].header("accept-encoding"), ["identity"]);
    assert_eq!(seen[0].header("content-type"), ["application/json"]);
    assert_eq!(seen[0].header("snyk-request-id"), [own_id]);
    assert_ne!(seen[1].header("snyk-request-id"), seen[0].header("snyk-request-id"));
    // Both the id that was sent and the one that came back are on record.
    let first = world.records().pop().unwrap();
    assert_eq!((first.sent_id.as_str(), first.received_id.as_deref()), (own_id, Some(own_id)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_up_byte_for_byte_with_what_describes_it() {
    // Where starts are never shared, its client may shape it.
    let flags = vec![flag("access.allow_forwarded", "true"), flag("starts.share_max", "0s")];
    let world = World::with(Settings::default(), flags).await;
    let body = "{\"data\" : {\"type\":\"export\",\n \"odd\": \"\u{fc}\", \"attributes\":{\"filters\":{\"updated\":{\"to\":\"2026-01-31T00:00:00Z\"}}}} }";
    let mut fields = UNWANTED.to_vec();
    fields.extend([
        ("content-type", "application/vnd.api+json; x=1"),
        ("user-agent", "tool/1"),
        ("traceparent", "00-1-2-01"),
    ]);
    let target = "/groups/g_1/export?include_deleted=true&version=2024-10-15&version=2024-10-15".to_string();
    let got = world.send(Method::POST, &target, &fields, body).await;
    assert_eq!(got.status, 202);
    assert_eq!(got.field("retry-after"), "1");
    let seen = &world.fake.requests()[0];
    assert_eq!(seen.body, body);
    assert!(
        seen.target
            .ends_with("/rest/groups/g_1/export?include_deleted=true&version=2024-10-15&version=2024-10-15")
    );
    assert_eq!(seen.header("content-type"), ["application/vnd.api+json; x=1"]);
    assert_eq!(seen.header("user-agent"), ["tool/1"]);
    // Its length is known, and no edge has to take chunks.
    assert_eq!(seen.header("content-length"), [body.len().to_string()]);
    assert_eq!(seen.header("transfer-encoding"), Vec::<&str>::new());
    // A trace is between the client, us and our collector.
    assert_eq!(seen.header("traceparent"), Vec::<&str>::new());
    assert_eq!(seen.header("authorization"), [format!("token {TOKEN}")]);
    for (name, _) in UNWANTED.iter().filter(|(name, _)| !["authorization", "accept-encoding"].contains(name))
    {
        assert_eq!(seen.header(name), Vec::<&str>::new(), "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_uuid_form_are_lower_cased_and_the_path_is_rebuilt() {
    let world = World::new().await;
    let got = world.get(&format!("/orgs/{}/export/E1?{V}", ORG.to_uppercase())).await;
    assert_eq!(got.status, 404);
    assert_eq!(got.json()["errors"][0]["code"], "SNYK-0000");
    assert!(world.fake.requests()[0].target.ends_with(&format!("/rest/orgs/{ORG}/export/E1?{V}")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_handed_on_and_lead_to_us_where_they_lead_to_snyk() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let own = format!("{}/rest/orgs/o/export/e1?x=1", world.fake.url());
    for (to, expected) in [
        (own.as_str(), "/rest/orgs/o/export/e1?x=1"),
        ("http://169.254.169.254/latest", "http://169.254.169.254/latest"),
    ] {
        world.fake.fault(Fault::Redirect(to.to_owned()), Some(1));
        let got = world.get(&results("e1")).await;
        assert_eq!((got.status.as_u16(), got.field("location")), (303, expected));
    }
    assert_eq!(world.fake.hits().api(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_snyks_own_origin_stays_there() {
    let world = World::new().await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    for (name, value) in
        [("set-cookie", "a=b"), ("alt-svc", "h3=\":443\""), ("exportgate-request-id", "forged")]
    {
        world.fake.fault(Fault::ExtraHeader(name.into(), value.into()), None);
    }
    for _ in 0..2 {
        let got = world.get(&results("e1")).await;
        assert_eq!((got.field("set-cookie"), got.field("alt-svc")), ("", ""));
        assert!(uuid::Uuid::try_parse(got.field("exportgate-request-id")).is_ok());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_recognised_and_a_chain_is_not() {
    let inner = World::with(Settings::default(), vec![flag("starts.share_max", "0s")]).await;
    inner.fake.put_export(&scope(), "e1", State::Word("PENDING".into()));
    let start = format!("/orgs/{ORG}/export?{V}");
    let chain = [("via", "1.0 fred, 1.1 p.example.net (Apache/1.1)")];
    inner.send(Method::POST, &start, &chain, START).await;
    let via = inner.fake.requests()[0].header("via").concat();
    let (before, ours) = via.rsplit_once(", ").unwrap();
    assert_eq!(before, "1.0 fred, 1.1 p.example.net");
    assert!(ours.starts_with("1.1 exportgate-"));
    let looped = inner.get_with(&results("e1"), &[("via", &via)]).await;
    assert_eq!((looped.status.as_u16(), looped.code().as_str()), (502, "loop"));
    assert_eq!(inner.fake.hits().api(), 1);
    // What is shared has none of what its first client wrote.
    inner.get_with(&results("e1"), &chain).await;
    assert_eq!(inner.fake.requests()[1].header("via"), [ours]);
    // Another gateway in front of this one is a chain.
    let fake = exportgate::fake::Fake::start(Settings::default()).await.unwrap();
    let outer = World::before(fake, &inner.root.clone(), vec![]).await;
    assert_eq!(outer.get(&results("e1")).await.status, 200);
    outer.stop().await;
    inner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_fields_go_up_and_join_the_key_and_a_default_version_fills_a_gap() {
    let flags =
        vec![flag("upstream.forward_headers", "x-tenant"), flag("upstream.default_version", "2024-10-15")];
    let world = World::with(Settings::default(), flags).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let target = format!("/orgs/{ORG}/export/e1");
    assert!(!world.get_with(&target, &[("x-tenant", "a")]).await.is_hit());
    assert!(world.get_with(&target, &[("x-tenant", "a")]).await.is_hit());
    assert!(!world.get_with(&target, &[("x-tenant", "b")]).await.is_hit());
    assert!(!world.get(&target).await.is_hit());
    let seen = world.fake.requests();
    assert_eq!(seen[1].header("x-tenant"), ["b"]);
    assert!(seen[0].target.ends_with("?version=2024-10-15"));
    assert!(world.get_with(&results("e1"), &[("x-tenant", "a")]).await.is_hit());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_are_refused_unless_they_are_opened() {
    let closed = World::new().await;
    for target in ["/rest/self", "/v1/orgs", "/rest/orgs", "/", "/metrics"] {
        let got = closed.get(target).await;
        assert_eq!((got.status.as_u16(), got.code().as_str()), (404, "unknown_route"), "{target}");
    }
    let got = closed.send(Method::DELETE, &results("e1"), &[], "").await;
    assert_eq!((got.status.as_u16(), got.field("allow")), (405, "GET, HEAD"));
    assert_eq!(closed.fake.hits().api(), 0);
    closed.stop().await;

    let open = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    let target = "/rest/orgs?version=2024-10-15&starting_after=v1.eyJpZCI6%26%3D%2F";
    for asked in 1..=2 {
        let got = open.send(Method::PATCH, target, &[("content-type", "text/plain")], "as it is").await;
        assert_eq!((got.status.as_u16(), got.cache()), (200, "exportgate; fwd=bypass; fwd-status=200"));
        assert_eq!(got.json()["method"], "PATCH");
        assert_eq!(open.fake.hits().other, asked);
    }
    let seen = &open.fake.requests()[0];
    assert!(seen.target.ends_with(target));
    assert_eq!(seen.body, "as it is");
    assert_eq!(seen.header("authorization"), [format!("token {TOKEN}")]);
    assert_eq!(open.records()[0].operation, "other");
    for bad in ["/rest/%2e%2e/v1", "/rest/a%2fb", "/v1/%252e", "/rest//x", "/v1/..;/x"] {
        assert_eq!(open.get(bad).await.status, 400, "{bad}");
    }
    assert_eq!(open.fake.hits().other, 2);
    open.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_parsed_and_written_anew() {
    let open = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    let of = |package: &str| format!("/rest/orgs/{ORG}/packages/{package}/issues?{V}");
    let scoped = "pkg:npm%2F%2540scope%2Fname@1.0.0";
    for (asked, expected) in [
        // As Go's PathEscape, Java's URLEncoder and JavaScript's encodeURIComponent write them.
        (of("pkg:npm%2Flodash@4.17.21"), of("pkg:npm%2Flodash@4.17.21")),
        (of("pkg%3Anpm%2Flodash%404.17.21"), of("pkg:npm%2Flodash@4.17.21")),
        (of("pkg:npm%2F%2540scope%2Fname@1.0.0"), of(scoped)),
        (of("pkg%3anpm%2f%2540scope%2fname%401.0.0"), of(scoped)),
        (of("pkg:npm%2F@scope%2Fname@1.0.0"), of(scoped)),
        (
            of("pkg%3Adeb%2Fdebian%2Fcurl%407.50.3-1%2Bdeb8%3Farch%3Di386%26distro%3Djessie"),
            of("pkg:deb%2Fdebian%2Fcurl@7.50.3-1%252Bdeb8%3Farch%3Di386%26distro%3Djessie"),
        ),
        ("/v1/test/npm/%40scope%2Fname/1.0.0".to_owned(), "/v1/test/npm/%40scope%2Fname/1.0.0".to_owned()),
        ("/api/v1/test/npm/@scope%2fname/1.0.0".to_owned(), "/v1/test/npm/%40scope%2Fname/1.0.0".to_owned()),
        (format!("/api/v1/org/{ORG}/projects?a=1"), format!("/v1/org/{ORG}/projects?a=1")),
        (
            format!("/rest/orgs/{ORG}/ecosystems/npm/packages/%40a%2Fb/versions/1?{V}"),
            format!("/rest/orgs/{ORG}/ecosystems/npm/packages/%40a%2Fb/versions/1?{V}"),
        ),
    ] {
        assert_eq!(open.get(&asked).await.status, 200, "{asked}");
        let seen = open.fake.requests().pop().unwrap();
        let target = seen.target.strip_prefix(&open.fake.url()).unwrap_or(&seen.target).to_owned();
        assert_eq!(target, expected, "{asked}");
    }
    let hits = open.fake.hits();
    for package in [
        "pkg:npm%2F..%2Fx@1",
        "pkg:npm%2F%252e%252e%2Fx@1",
        "pkg:npm%2F%2Fx@1",
        "pkg:npm%2F%252Fx@1",
        "pkg:npm%2F%255cx@1",
        "pkg:npm%2Fx%2F@1",
        "pkg:npm%2Fx@..",
        "pkg:npm%2Fx%3Ba@1",
        "pkg:npm%2F%25252e@1",
        "pkg:npm%2Fx@1%3Fa=..%2F..%2Fb",
        "..%2Fpkg:npm%2Fx@1",
        "a%2Fb%2F..",
        "lodash%2F%2e%2e",
        "pkg:%2Fnpm%2Fx",
    ] {
        assert_eq!(open.get(&of(package)).await.status, 400, "{package}");
    }
    for path in [
        format!("/rest/orgs/{ORG}/x%2Fy"),
        format!("/rest/orgs%2F{ORG}/packages/x"),
        "/v1/test%2Fnpm/x".to_owned(),
        "/v1/org/a%2Fb/projects".to_owned(),
        "/api/v1/%2e%2e/x".to_owned(),
    ] {
        assert_eq!(open.get(&path).await.status, 400, "{path}");
    }
    for path in ["/api/v2/x", "/api/rest/orgs", "/api/api/v1/x", "/api/v1", "/apiv1/x"] {
        assert_eq!(open.get(path).await.status, 404, "{path}");
    }
    // The six export calls are as strict as before, and so is everything where other calls are not opened.
    for path in [format!("/orgs/{ORG}/export/pkg:npm%2Fx@1"), format!("/orgs/pkg:npm%2Fx@1/export/e?{V}")] {
        assert!(open.get(&path).await.status.is_client_error(), "{path}");
    }
    assert_eq!(open.fake.hits(), hits);
    let closed = World::new().await;
    assert_eq!(closed.get(&of("pkg:npm%2Flodash@4.17.21")).await.status, 400);
    assert_eq!(closed.get("/api/v1/orgs").await.status, 404);
    assert_eq!(closed.fake.hits().api(), 0);
    closed.stop().await;
    open.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_page_leads_to_us() {
    let open = World::with(Settings::default(), vec![flag("routes.other", "forward")]).await;
    let snyk = open.fake.url();
    let next =
        format!("<{snyk}/v1/org/o/x?page=2&q=a,b>; rel=\"next\", <https://docs.example/?a=1,2>; rel=help");
    open.fake.fault(Fault::ExtraHeader("link".into(), next), Some(1));
    let last = format!("<{snyk}/v1/org/o/x?page=9>; rel=last");
    open.fake.fault(Fault::ExtraHeader("link".into(), last), Some(1));
    let got = open.get("/v1/org/o/x").await;
    let links: Vec<&str> = got.fields.get_all("link").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(
        links,
        [
            "</v1/org/o/x?page=2&q=a,b>; rel=\"next\", <https://docs.example/?a=1,2>; rel=help",
            "</v1/org/o/x?page=9>; rel=last"
        ]
    );
    open.stop().await;
}
