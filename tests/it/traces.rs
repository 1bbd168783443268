//! Traces, as a collector of the test's own gets them: decoded with OpenTelemetry's own messages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use exportgate::fake::{Fake, Fault, Settings, State};
use exportgate::telemetry::trace::{self, Period, Side, Span, Traces};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as Told;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use crate::support::pki::Authority;
use crate::support::program::Program;
use crate::support::{Flags, ORG, START, TOKEN, V, World, artefacts, flag, keep_secret, results, scope};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector does with a request.
#[derive(Debug, Clone, Copy, Default)]
enum Mood {
    #[default]
    Takes,
    Answers(u16),
    Nonsense,
    Hangs,
}

/// A collector, and all that it was sent.
#[derive(Debug, Default)]
struct Collector {
    mood: Mutex<Mood>,
    connections: AtomicUsize,
    requests: Mutex<Vec<(String, HeaderMap, Bytes)>>,
}

impl Collector {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.requests.lock().unwrap().push((head.uri.to_string(), head.headers, body));
        let mood = *self.mood.lock().unwrap();
        let (status, body) = match mood {
            Mood::Takes => (200, Bytes::new()),
            Mood::Answers(status) => (status, Bytes::new()),
            Mood::Nonsense => (200, Bytes::from_static(b"\xff\xff\xff<html>")),
            Mood::Hangs => std::future::pending().await,
        };
        Response::builder().status(status).body(Full::new(body)).unwrap()
    }

    async fn start(self: &Arc<Self>, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                collector.connections.fetch_add(1, Ordering::SeqCst);
                let (collector, tls) = (Arc::clone(&collector), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let collector = Arc::clone(&collector);
                        async move { Ok::<_, Infallible>(collector.answer(request).await) }
                    });
                    match tls {
                        None => {
                            let _ =
                                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                        }
                        Some(tls) => {
                            let stream = tls.accept(stream).await.unwrap();
                            let _ =
                                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        address
    }

    /// A gateway that is traced, the collector, and nothing sent yet.
    async fn with_world(flags: Flags) -> (Arc<Self>, World) {
        let collector = Arc::new(Self::default());
        let address = collector.start(None).await;
        let mut all = vec![flag("otlp.endpoint", format!("http://{address}"))];
        all.extend(flags);
        (collector, World::with(Settings::default(), all).await)
    }

    /// All spans; what was sent is kept, to be searched for secrets.
    fn spans(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        for (_, _, body) in &*self.requests.lock().unwrap() {
            std::fs::write(artefacts().join(format!("otlp-{}.bin", Uuid::new_v4().simple())), body).unwrap();
            for resource in ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans {
                let of = attributes(&resource.resource.unwrap().attributes);
                assert_eq!(of.keys().collect::<Vec<_>>(), ["service.name", "service.version"]);
                for scope in resource.scope_spans {
                    assert_eq!(scope.scope.unwrap().name, "exportgate");
                    all.extend(scope.spans.into_iter().map(|told| Seen { of: of.clone(), told }));
                }
            }
        }
        all
    }

    fn of(&self, kind: SpanKind) -> Vec<Seen> {
        self.spans().into_iter().filter(|span| span.told.kind == kind as i32).collect()
    }
}

/// A span, and what its resource says.
#[derive(Debug, Clone)]
struct Seen {
    of: BTreeMap<String, String>,
    told: Told,
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: any_value::Value| {
        if let any_value::Value::StringValue(text) = value {
            text
        } else if let any_value::Value::IntValue(number) = value {
            number.to_string()
        } else if let any_value::Value::DoubleValue(number) = value {
            number.to_string()
        } else {
            panic!("{value:?}")
        }
    };
    all.iter().map(|one| (one.key.clone(), text(one.value.clone().unwrap().value.unwrap()))).collect()
}

impl Seen {
    fn get(&self, key: &str) -> String {
        attributes(&self.told.attributes).remove(key).unwrap_or_default()
    }

    fn trace(&self) -> String {
        hex(&self.told.trace_id)
    }

    fn failed(&self) -> bool {
        self.told.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_attempt_are_spans_of_the_clients_trace() {
    let (collector, world) = Collector::with_world(vec![flag("otlp.service_name", "gate-a")]).await;
    world.fake.put_export(&scope(), "e1", State::Finished);
    let target = results("e1");
    let fields = [("traceparent", &*parent("01")), ("tracestate", "vendor=1")];
    let miss = world.get_with(&target, &fields).await;
    let hit = world.get_with(&target, &fields).await;
    assert!(miss.status.is_success() && hit.is_hit(), "{miss:?}");
    let body = String::from_utf8(miss.body.to_vec()).unwrap();
    assert!(body.contains("X-Goog-Signature"));
    // Snyk hears nothing of it.
    let asked = &world.fake.requests()[0];
    assert!(asked.header("traceparent").is_empty() && asked.header("tracestate").is_empty());
    let record = world.records().remove(0);
    let (signatures, address) = (world.fake.signatures(), world.fake.address());
    world.stop().await;

    let (servers, clients) = (collector.of(SpanKind::Server), collector.of(SpanKind::Client));
    assert_eq!((servers.len(), clients.len()), (2, 1));
    let (server, client) = (&servers[0], &clients[0]);
    assert_eq!(server.of["service.name"], "gate-a");
    for span in [server, &servers[1], client] {
        assert_eq!((span.trace(), span.told.trace_state.as_str()), (TRACE.to_owned(), "vendor=1"));
        assert_eq!(span.told.name, "GET /orgs/{org_id}/export/{export_id}");
        assert_eq!(span.get("http.request.method"), "GET");
        assert_eq!(span.get("http.response.status_code"), "200");
        assert_eq!(span.get("exportgate.scope.id"), ORG);
        assert_eq!(span.get("exportgate.export.id"), "e1");
        assert_eq!(span.get("snyk.request.id"), record.received_id.as_deref().unwrap());
        assert_eq!(span.get("exportgate.attempt.id"), client.get("exportgate.attempt.id"));
        assert!(!span.failed() && span.get("error.type").is_empty());
        assert!(span.told.start_time_unix_nano < span.told.end_time_unix_nano);
        assert!(span.told.links.is_empty());
    }
    assert_eq!(
        (hex(&server.told.parent_span_id), hex(&servers[1].told.parent_span_id)),
        (PARENT.into(), PARENT.into())
    );
    assert_eq!(client.told.parent_span_id, server.told.span_id);
    assert_ne!(server.told.span_id, servers[1].told.span_id);
    assert!(client.told.start_time_unix_nano >= server.told.start_time_unix_nano);
    assert!(client.told.end_time_unix_nano <= server.told.end_time_unix_nano);
    assert_eq!(server.get("http.route"), "/orgs/{org_id}/export/{export_id}");
    assert_eq!(server.get("exportgate.request.id"), miss.field("exportgate-request-id"));
    assert_eq!(
        (server.get("exportgate.cache"), servers[1].get("exportgate.cache")),
        ("miss".into(), "hit".into())
    );
    assert_eq!(
        (server.get("exportgate.client"), server.get("client.address")),
        ("local".into(), "127.0.0.1".into())
    );
    assert_eq!(client.get("exportgate.request.id"), record.request_id);
    assert_eq!(client.get("snyk.request.id.sent"), record.sent_id);
    assert_eq!(client.get("exportgate.credential"), "default");
    assert_eq!(client.get("exportgate.export.status"), "FINISHED");
    assert_eq!(client.get("snyk.version.requested"), "2024-10-15");
    assert_eq!(
        (client.get("server.address"), client.get("server.port")),
        ("127.0.0.1".into(), address.port().to_string())
    );
    assert_eq!(client.get("url.full"), format!("https://{address}/rest/orgs/{ORG}/export/e1?{V}"));
    assert!(!client.get("exportgate.queue.duration_ms").is_empty());
    assert!(client.get("http.request.resend_count").is_empty());

    // Not in any byte of it: the token, a link.
    keep_secret(signatures.clone());
    let requests = collector.requests.lock().unwrap();
    for (path, fields, body) in &*requests {
        assert_eq!(path, "/v1/traces");
        assert_eq!(fields["content-type"], "application/x-protobuf");
        let text = String::from_utf8_lossy(body);
        for secret in [TOKEN, "X-Goog", "storage.googleapis", "authorization"]
            .into_iter()
            .chain(signatures.iter().map(String::as_str))
        {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parents_flag_decides_and_what_is_no_parent_is_ignored() {
    let (collector, world) = Collector::with_world(vec![]).await;
    let broken = ["00-1-2-01", "nonsense", &parent("01").to_uppercase(), &format!("{}-x", parent("01"))];
    let mut ids = Vec::new();
    for bad in broken {
        let got = world.get_with(&results("e1"), &[("traceparent", bad)]).await;
        assert_eq!(got.status, 404);
        ids.push(got.field("exportgate-request-id").replace('-', ""));
    }
    assert_eq!(world.get_with(&results("e2"), &[("traceparent", &parent("00"))]).await.status, 404);
    world.stop().await;
    let servers = collector.of(SpanKind::Server);
    // A trace that begins here has the request's id.
    assert_eq!(servers.iter().map(Seen::trace).collect::<Vec<_>>(), ids);
    assert!(servers.iter().all(|span| span.told.parent_span_id.is_empty()));
    assert_eq!(collector.of(SpanKind::Client).len(), servers.len());
    // Snyk's 404 is the client's error, and an error of the request to Snyk.
    assert!(!servers[0].failed());
    let client = &collector.of(SpanKind::Client)[0];
    assert!(client.failed() && client.get("error.type") == "404");

    let (collector, world) = Collector::with_world(vec![flag("otlp.sample", "0")]).await;
    let _ = world.get(&results("e1")).await;
    let _ = world.get_with(&results("e1"), &[("traceparent", &parent("01"))]).await;
    world.stop().await;
    assert_eq!(collector.of(SpanKind::Server).iter().map(Seen::trace).collect::<Vec<_>>(), [TRACE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_points_to_the_request_that_was_made_for_it() {
    let (collector, world) = Collector::with_world(vec![]).await;
    let world = Arc::new(world);
    world.fake.put_export(&scope(), "e1", State::Finished);
    let gate = world.fake.hold();
    let ask = |fields: Vec<(&'static str, String)>| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            world.get_with(&results("e1"), &fields).await
        })
    };
    let leader = ask(vec![]);
    world.fake.wait_for_hits(1).await;
    let followers = [ask(vec![("traceparent", parent("01"))]), ask(vec![("traceparent", parent("00"))])];
    world.wait_for_followers(3).await;
    drop(gate);
    let leader = leader.await.unwrap();
    for follower in followers {
        assert!(follower.await.unwrap().cache().contains("collapsed"));
    }
    Arc::into_inner(world).unwrap().stop().await;
    let (servers, clients) = (collector.of(SpanKind::Server), collector.of(SpanKind::Client));
    assert_eq!((servers.len(), clients.len()), (2, 1));
    let attempt = &clients[0].told;
    assert_eq!(hex(&attempt.trace_id), leader.field("exportgate-request-id").replace('-', ""));
    let follower = servers.iter().find(|span| span.trace() == TRACE).unwrap();
    assert_eq!(follower.get("exportgate.cache"), "collapsed");
    let link = &follower.told.links[0];
    assert_eq!((&link.trace_id, &link.span_id), (&attempt.trace_id, &attempt.span_id));
    let leader = servers.iter().find(|span| span.trace() != TRACE).unwrap();
    assert!(leader.told.links.is_empty() && leader.told.span_id == attempt.parent_span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_a_span_and_errors_have_their_names() {
    let flags = vec![flag("routes.other", "forward"), flag("retry.pause", "10ms")];
    let (collector, world) = Collector::with_world(flags).await;
    world.fake.fault(Fault::Status(503), Some(1));
    world.fake.put_export(&scope(), "e1", State::Finished);
    assert_eq!(world.get(&results("e1")).await.status, 200);
    world.fake.fault(Fault::Reset, None);
    assert_eq!(
        world.send(http::Method::POST, &format!("/orgs/{ORG}/export?{V}"), &[], START).await.status,
        502
    );
    world.fake.clear_faults();
    let noted = format!("{}&note=hunter2", results("e3"));
    assert_eq!(world.get(&noted).await.status, 400);
    assert_eq!(world.send(http::Method::DELETE, &results("e1"), &[], "").await.status, 405);
    let _ = world.get("/rest/self?version=2024-10-15&key=hunter2").await;
    assert_eq!(world.send(http::Method::from_bytes(b"BREW").unwrap(), "/hunter2", &[], "").await.status, 404);
    world.stop().await;
    let names = |kind| collector.of(kind).into_iter().map(|span| span.told.name).collect::<Vec<_>>();
    let (read, start) = ("GET /orgs/{org_id}/export/{export_id}", "POST /orgs/{org_id}/export");
    assert_eq!(names(SpanKind::Server), [read, start, read, "DELETE", "GET", "HTTP"]);
    assert_eq!(names(SpanKind::Client), [read, read, start, read, "GET"]);
    let clients = collector.of(SpanKind::Client);
    assert!(clients[0].failed() && clients[0].get("error.type") == "503");
    assert_eq!(
        (clients[1].get("http.request.resend_count"), clients[1].get("exportgate.attempt.number")),
        ("1".to_owned(), "2".to_owned())
    );
    assert!(!clients[1].failed() && clients[1].told.parent_span_id == clients[0].told.parent_span_id);
    assert!(clients[2].failed() && clients[2].get("error.type") == "connection_terminated");
    assert_eq!(clients[4].get("exportgate.operation"), "other");
    let servers = collector.of(SpanKind::Server);
    assert!(servers[1].failed() && servers[1].get("error.type") == "connection_terminated");
    assert!(!servers[3].failed() && servers[3].get("error.type") == "method_not_allowed");
    assert_eq!(servers[5].get("http.request.method"), "_OTHER");
    for (_, _, body) in &*collector.requests.lock().unwrap() {
        assert!(!String::from_utf8_lossy(body).contains("hunter2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_connected_to_unless_an_endpoint_is_set() {
    let collector = Arc::new(Collector::default());
    let address = collector.start(None).await;
    let fake = Fake::start(Settings::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let url = format!("http://{address}");
    // What the SDK would read from the environment is for other programs of the same pod.
    let others = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-other=1,content-type=text/plain"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,x=y"),
        ("OTEL_SERVICE_NAME", "other"),
    ];
    let run = |env: &[(&str, &str)]| {
        let mut program = Program::serve(home.path(), &fake, &[], env);
        let url = format!("http://{}{}", program.address, results("e1"));
        let curl = std::process::Command::new("curl").args(["-s", "-o", "/dev/null", &url]).status();
        assert!(curl.expect("curl runs").success());
        assert_eq!(program.terminate(), Some(0));
    };
    run(&others);
    assert_eq!(collector.connections.load(Ordering::SeqCst), 0);
    // Nor does any of it change what is sent.
    run(&[&others[..], &[("EXPORTGATE_OTLP_ENDPOINT", &url)]].concat());
    let spans = collector.spans();
    assert_eq!((spans.len(), spans[0].of["service.name"].as_str()), (2, "exportgate"));
    let requests = collector.requests.lock().unwrap();
    assert!(requests.iter().all(|(_, fields, _)| !fields.contains_key("x-other")
        && !fields.contains_key("content-encoding")
        && fields["content-type"] == "application/x-protobuf"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_slow_or_confused_costs_no_request_anything() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for mood in
        [None, Some(Mood::Hangs), Some(Mood::Nonsense), Some(Mood::Answers(503)), Some(Mood::Answers(401))]
    {
        let collector = Arc::new(Collector::default());
        let address = match mood {
            None => closed,
            Some(mood) => {
                *collector.mood.lock().unwrap() = mood;
                collector.start(None).await
            }
        };
        let flags = vec![flag("otlp.endpoint", format!("http://{address}/")), flag("otlp.timeout", "500ms")];
        let world = World::with(Settings::default(), flags).await;
        world.fake.put_export(&scope(), "e1", State::Finished);
        let began = Instant::now();
        for _ in 0..50 {
            assert_eq!(world.get(&results("e1")).await.status, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{mood:?}: {:?}", began.elapsed());
        let stopping = Instant::now();
        world.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(5), "{mood:?}: {:?}", stopping.elapsed());
    }
}

fn settings(address: SocketAddr) -> trace::Settings {
    trace::Settings {
        endpoint: format!("http://{address}/v1/traces").parse().unwrap(),
        headers_file: None,
        ca_file: None,
        sample: 1.0,
        service_name: "t".to_owned(),
        timeout: Duration::from_millis(300),
    }
}

fn send(traces: &Traces, count: usize) {
    for _ in 0..count {
        let place = traces.begin(Uuid::now_v7(), Some(&HeaderMap::new())).unwrap();
        let now = exportgate::clock::Clock::system().now().wall;
        let period = Period { start: now, took: Duration::ZERO };
        traces.send(Span::new(&place, Side::Server, "GET".to_owned(), period));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_nobody_takes_are_dropped_and_counted_and_never_pile_up() {
    let collector = Arc::new(Collector { mood: Mutex::new(Mood::Hangs), ..Collector::default() });
    let traces = Traces::open(&settings(collector.start(None).await)).unwrap();
    send(&traces, 20_000);
    // What waits is bounded, with the batch that is on its way.
    assert_eq!(traces.lost(), 20_000 - 2_048);
    let began = Instant::now();
    traces.finish().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(traces.lost(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_at_the_end_and_none_is_lost_or_sent_twice() {
    let collector = Arc::new(Collector::default());
    let mut settings = settings(collector.start(None).await);
    settings.timeout = Duration::from_secs(10);
    let traces = Traces::open(&settings).unwrap();
    send(&traces, 1_500);
    traces.finish().await;
    let spans = collector.spans();
    let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| span.told.span_id.clone()).collect();
    assert_eq!((spans.len(), ids.len(), traces.lost()), (1_500, 1_500, 0));
    // What comes later is dropped, and said to be.
    send(&traces, 1);
    assert_eq!(traces.lost(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_reached_by_tls_with_a_key_from_a_file() {
    let (authority, directory) = (Authority::new("collector"), TempDir::new().unwrap());
    let identity = authority.server();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key())
        .unwrap();
    let collector = Arc::new(Collector::default());
    let address = collector.start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    let keys = ["collector-key-hunter2-a", "collector-key-hunter2-b"];
    keep_secret(keys.map(str::to_owned));
    std::fs::write(path("headers"), format!("# a key\nX-Api-Key: {}\n", keys[0])).unwrap();
    let mut settings = settings(address);
    settings.endpoint = format!("https://{address}/v1/traces").parse().unwrap();
    settings.timeout = Duration::from_secs(10);
    (settings.ca_file, settings.headers_file) = (Some(path("ca.pem")), Some(path("headers")));
    for key in keys {
        // The second time the file has changed under a running exporter.
        let traces = Traces::open(&settings).unwrap();
        std::fs::write(path("headers"), format!("X-Api-Key: {key}\n")).unwrap();
        send(&traces, 1);
        traces.finish().await;
        assert_eq!(traces.lost(), 0);
    }
    let requests = collector.requests.lock().unwrap();
    let sent: Vec<_> = requests.iter().map(|(_, fields, _)| fields["x-api-key"].to_str().unwrap()).collect();
    assert_eq!(sent, keys);
}
