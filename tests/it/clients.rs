//! Published clients, from the start of an export to its files: what they send, in their order and on their
//! connections, as it was seen on the wire. `tests/clients` runs real ones.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use exportgate::fake::{Hits, Script, Settings};
use exportgate::transport;
use http::Request;
use http_body_util::{BodyExt as _, Either, Full};
use serde_json::Value;

use crate::support::raw::{connect, read_answer};
use crate::support::{ORG, START, TOKEN, V, World};

/// A client on one connection that it keeps.
struct Client {
    connection: BufReader<TcpStream>,
    fields: &'static str,
}

impl Client {
    /// One call that is answered with 200 or 202. Of its fields, those that describe a body are only sent with one.
    fn call(&mut self, method: &str, target: &str, body: &str) -> Value {
        let fields =
            self.fields.split_inclusive('\n').filter(|line| !line.contains("{body}") || !body.is_empty());
        let length = body.len().to_string();
        let fields = fields.collect::<String>().replace('\n', "\r\n");
        let fields = fields.replace("{body}", &length).replace("{length}", &length);
        let request = format!("{method} {target} HTTP/1.1\r\n{fields}\r\n{body}");
        self.connection.get_mut().write_all(request.as_bytes()).expect("the connection is kept");
        let (status, answer) = read_answer(&mut self.connection).expect("an answer");
        assert!(
            [200, 202].contains(&status),
            "{method} {target}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
        serde_json::from_slice(&answer).expect("JSON")
    }

    fn start(&mut self, scope: &str) -> Value {
        self.call("POST", &format!("/rest/{scope}/export?{V}"), START)
    }

    /// Asks until it is FINISHED: what it is then.
    fn poll(&mut self, target: &str, pause: Duration) -> Value {
        loop {
            let answer = self.call("GET", target, "");
            if answer["data"]["attributes"]["status"] == "FINISHED" {
                return answer;
            }
            std::thread::sleep(pause);
        }
    }

    /// Polls the job status, then asks for the results.
    fn job_then_results(&mut self, scope: &str) -> Value {
        let started = self.start(scope);
        let id = started["data"]["id"].as_str().expect("an id");
        self.poll(&format!("/rest/{scope}/jobs/export/{id}?{V}"), Duration::from_millis(10));
        self.call("GET", &format!("/rest/{scope}/export/{id}?{V}"), "")
    }
}

fn links(export: &Value) -> Vec<String> {
    let results = export["data"]["attributes"]["results"].as_array().expect("results");
    results.iter().map(|result| result["url"].as_str().expect("a link").to_owned()).collect()
}

/// Runs `flow` as a client that sends `fields`, downloads what it was led to, and says what Snyk was asked.
async fn run(fields: &'static str, flow: impl FnOnce(&mut Client) -> Value + Send + 'static) -> Hits {
    let script = Script { polls: 1, ..Script::default() };
    let world = World::with(Settings { script, ..Settings::default() }, vec![]).await;
    let address: SocketAddr = world.root.trim_start_matches("http://").parse().unwrap();
    let export = tokio::task::spawn_blocking(move || {
        flow(&mut Client { connection: connect(address).expect("it accepts"), fields })
    });
    let links = links(&export.await.unwrap());
    assert_eq!(links.len(), 2);
    let ca = world.directory.path().join("ca.pem");
    let store =
        transport::client(&world.fake.url().parse().unwrap(), Some(&ca), Duration::from_secs(10)).unwrap();
    for link in links {
        let answer =
            store.request(Request::get(link).body(Either::Left(Full::default())).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let file = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(file.starts_with(b"ISSUE_URL,ISSUE_SEVERITY,CVE,"));
    }
    for seen in world.fake.requests() {
        assert_eq!(seen.header("authorization"), [format!("token {TOKEN}")]);
    }
    let hits = world.fake.hits();
    world.stop().await;
    hits
}

fn hits(job_status: u64, results: u64) -> Hits {
    Hits { start: 1, job_status, results, file: 2, ..Hits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_session_polls_the_link_of_the_start_every_10_seconds_and_reads_results_there() {
    const SESSION: &str = "\
        Host: 127.0.0.1:7080\nUser-Agent: python-requests/2.34.2\nAccept-Encoding: gzip, deflate\nAccept: */*\n\
        Connection: keep-alive\nAuthorization: Token not-snyks\nContent-Length: {body}\n\
        Content-Type: application/json\n";
    let flow = |client: &mut Client| {
        let started = client.start(&format!("orgs/{ORG}"));
        let own = started["data"]["links"]["self"].as_str().expect("a link");
        // It has a version already.
        client.poll(&format!("/rest{own}?{V}"), Duration::from_secs(10))
    };
    assert_eq!(run(SESSION, flow).await, hits(2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn gos_client_polls_the_job_status_and_asks_for_the_results() {
    const GO: &str = "\
        Host: 127.0.0.1:7080\nUser-Agent: Go-http-client/1.1\nContent-Length: {body}\n\
        Authorization: token not-snyks\nContent-Type: application/vnd.api+json\nAccept-Encoding: gzip\n";
    assert_eq!(run(GO, |client| client.job_then_results("groups/g")).await, hits(2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_clients_offer_h2c_declare_empty_bodies_and_would_like_a_page() {
    // The upgrade is offered with every request, for it never comes.
    const HTTP_CLIENT: &str = "\
        Connection: Upgrade, HTTP2-Settings\nContent-Length: {length}\nHost: 127.0.0.1:7080\n\
        HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\nUpgrade: h2c\n\
        User-Agent: Java-http-client/17.0.15\nAuthorization: token not-snyks\n\
        Content-Type: application/vnd.api+json\n";
    const URL_CONNECTION: &str = "\
        Authorization: token not-snyks\nContent-Type: application/json\nUser-Agent: Java/17.0.15\n\
        Host: 127.0.0.1:7080\nAccept: text/html, image/gif, image/jpeg, */*; q=0.2\nConnection: keep-alive\n\
        Content-Length: {body}\n";
    for fields in [HTTP_CLIENT, URL_CONNECTION] {
        assert_eq!(run(fields, |client| client.job_then_results("groups/g")).await, hits(2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_and_axios_share_what_is_stored() {
    // fetch says the mode that browsers say too, but neither an origin nor a site.
    const FETCH: &str = "\
        host: 127.0.0.1:7080\nconnection: keep-alive\nauthorization: token not-snyks\n\
        content-type: application/vnd.api+json\naccept: */*\naccept-language: *\nsec-fetch-mode: cors\n\
        user-agent: node\naccept-encoding: gzip, deflate\ncontent-length: {body}\n";
    const AXIOS: &str = "\
        Accept: application/json, text/plain, */*\nContent-Type: application/json\n\
        Authorization: token not-snyks\nUser-Agent: axios/1.13.2\nContent-Length: {body}\n\
        Accept-Encoding: gzip, compress, deflate, br\nHost: 127.0.0.1:7080\nConnection: keep-alive\n";
    let flow = |client: &mut Client| {
        let export = client.job_then_results(&format!("orgs/{ORG}"));
        let id = export["data"]["id"].as_str().expect("an id");
        // After a download that failed it asks again; another tool asks for the same.
        let target = format!("/rest/orgs/{ORG}/export/{id}?{V}");
        assert_eq!(client.call("GET", &target, ""), export);
        client.fields = AXIOS;
        assert_eq!(client.call("GET", &target, ""), export);
        export
    };
    assert_eq!(run(FETCH, flow).await, hits(2, 1));
}
