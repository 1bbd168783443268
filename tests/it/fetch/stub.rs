//! A gateway of three calls that does what a test has it do: parts that break off, change, or are refused.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;

pub(crate) const EXPORT: &str = "d6b640e5-d88c-4c17-9bf0-93597b7a1ce2";

/// A part, and what is wrong with it.
#[derive(Clone, Default)]
pub(crate) struct StubPart {
    pub(crate) content: Arc<Vec<u8>>,
    pub(crate) tag: String,
    pub(crate) row_count: Option<u64>,
    pub(crate) file_size: Option<u64>,
    /// Its hash as the store gives it.
    pub(crate) crc32c: Option<u32>,
    /// Bytes after which an answer breaks off, one for each answer.
    pub(crate) cuts: VecDeque<usize>,
    /// No length and no ranges, as with a part that is decoded on its way.
    pub(crate) is_decoded: bool,
}

impl StubPart {
    pub(crate) fn of(content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        let crc32c = crc32c::crc32c(&content);
        let tag = format!("\"{crc32c:08x}\"");
        let crc32c = Some(crc32c);
        let file_size = Some(content.len() as u64);
        Self { content: Arc::new(content), tag, crc32c, file_size, ..Self::default() }
    }
}

/// An answer in place of the usual one, for calls whose target ends so.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) ending: &'static str,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) retry_after: Option<u32>,
    pub(crate) times: u32,
}

#[derive(Default)]
pub(crate) struct Stub {
    pub(crate) parts: Vec<StubPart>,
    pub(crate) polls: u32,
    /// An unfinished export has a status that nobody knows.
    pub(crate) is_word_unknown: bool,
    /// Rows of all parts by Snyk's word.
    pub(crate) row_count: Option<u64>,
    pub(crate) starts: u32,
    /// Method and target of each request, with its `Range`.
    pub(crate) seen: Vec<String>,
    pub(crate) bodies: Vec<String>,
    pub(crate) heads: Vec<String>,
    pub(crate) refusals: Vec<Refusal>,
    /// Pause before each 16 KiB of a part.
    pub(crate) slow: Duration,
    /// Pause before a start is answered.
    pub(crate) slow_start: Duration,
}

#[derive(Clone)]
pub(crate) struct StubGateway {
    pub(crate) url: String,
    stub: Arc<Mutex<Stub>>,
}

impl StubGateway {
    pub(crate) fn start(stub: Stub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let gateway = Self { url, stub: Arc::new(Mutex::new(stub)) };
        let served = gateway.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let served = served.clone();
                // Clients leave when they like.
                std::thread::spawn(move || drop(served.serve(stream)));
            }
        });
        gateway
    }

    pub(crate) fn of(names: &[&str]) -> Self {
        let parts = names.iter().map(|name| StubPart::of(super::sample(name))).collect();
        Self::start(Stub { parts, ..Stub::default() })
    }

    pub(crate) fn stub(&self) -> MutexGuard<'_, Stub> {
        self.stub.lock().unwrap()
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let lower = head.to_ascii_lowercase();
            let field = |name: &str| {
                let line = lower.lines().find(|line| line.starts_with(&format!("{name}: ")))?;
                Some(head[lower.find(line)? + name.len() + 2..].lines().next()?.to_owned())
            };
            let mut body = vec![0; field("content-length").map_or(0, |text| text.parse().unwrap())];
            stream.read_exact(&mut body)?;
            let mut words = head.split(' ');
            let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let path = target.split('?').next().unwrap().to_owned();
            let range = field("range");
            {
                let mut stub = self.stub();
                let range = range.as_deref().map(|range| format!(" {range}")).unwrap_or_default();
                stub.seen.push(format!("{method} {}{range}", path.rsplit("/export").next().unwrap()));
                stub.heads.push(lower.clone());
                if method == "POST" {
                    stub.bodies.push(String::from_utf8(body).unwrap());
                }
            }
            if let Some(refusal) = self.refusal(&path) {
                stream.write_all(&refused(&refusal))?;
            } else if method == "POST" {
                let wait = {
                    let mut stub = self.stub();
                    stub.starts += 1;
                    stub.slow_start
                };
                std::thread::sleep(wait);
                stream.write_all(&json(202, "", &format!(r#"{{"data":{{"id":"{EXPORT}"}}}}"#)))?;
            } else if path.ends_with("/files") {
                stream.write_all(&self.index(&path))?;
            } else {
                let number: usize =
                    path.rsplit('/').next().unwrap().trim_end_matches(".csv").parse().unwrap();
                let known = (field("if-none-match"), field("if-range"));
                if self.part(&mut stream, number - 1, range.as_deref(), known)? {
                    return Ok(());
                }
            }
        }
    }

    fn refusal(&self, path: &str) -> Option<Refusal> {
        let mut stub = self.stub();
        let found = stub.refusals.iter_mut().find(|one| one.times > 0 && path.ends_with(one.ending))?;
        found.times -= 1;
        Some(found.clone())
    }

    fn index(&self, path: &str) -> Vec<u8> {
        let mut stub = self.stub();
        if stub.polls > 0 {
            stub.polls -= 1;
            return refused(&Refusal {
                ending: "",
                status: 503,
                code: if stub.is_word_unknown { "status_unknown" } else { "not_finished" },
                retry_after: Some(1),
                times: 0,
            });
        }
        let part = |(part, at): (&StubPart, usize)| serde_json::json!({"part": at, "path": format!("{path}/{at}.csv"), "row_count": part.row_count, "file_size": part.file_size});
        let parts: Vec<_> = stub.parts.iter().zip(1..).map(part).collect();
        let index = serde_json::json!({"export": EXPORT, "status": "FINISHED", "row_count": stub.row_count, "parts": parts, "table": "/t"});
        json(200, "", &index.to_string())
    }

    /// Sends a part; gives `true` where the connection ends with it.
    fn part(
        &self,
        stream: &mut TcpStream,
        at: usize,
        range: Option<&str>,
        (none_match, if_range): (Option<String>, Option<String>),
    ) -> std::io::Result<bool> {
        let (part, slow) = {
            let mut stub = self.stub();
            let mut part = stub.parts[at].clone();
            part.cuts = stub.parts[at].cuts.pop_front().into_iter().collect();
            (part, stub.slow)
        };
        let total = part.content.len();
        if none_match.is_some_and(|tag| tag == part.tag) {
            stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n")?;
            return Ok(false);
        }
        let start = range.filter(|_| if_range.is_some_and(|tag| tag == part.tag) && !part.is_decoded);
        let start: usize =
            start.map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
        let mut head = format!(
            "HTTP/1.1 {}\r\nsnyk-request-id: {}\r\n",
            if start > 0 { "206 Partial Content" } else { "200 OK" },
            uuid::Uuid::new_v4()
        );
        if let Some(crc32c) = part.crc32c {
            let digest = base64::prelude::BASE64_STANDARD.encode(crc32c.to_be_bytes());
            let _ = write!(head, "repr-digest: crc32c=:{digest}:\r\n");
        }
        if start > 0 {
            let _ = write!(head, "content-range: bytes {start}-{}/{total}\r\n", total - 1);
        }
        if part.is_decoded {
            head += "transfer-encoding: chunked\r\n\r\n";
        } else {
            let _ = write!(head, "etag: {}\r\ncontent-length: {}\r\n\r\n", part.tag, total - start);
        }
        stream.write_all(head.as_bytes())?;
        let end = part.cuts.front().map_or(total, |cut| (*cut).min(total));
        for chunk in part.content[start.min(end)..end].chunks(16 * 1024) {
            std::thread::sleep(slow);
            if part.is_decoded {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            } else {
                stream.write_all(chunk)?;
            }
        }
        if part.is_decoded && part.cuts.is_empty() {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(!part.cuts.is_empty())
    }
}

fn json(status: u16, fields: &str, body: &str) -> Vec<u8> {
    let id = uuid::Uuid::new_v4();
    format!(
        "HTTP/1.1 {status} X\r\n{fields}snyk-request-id: {id}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn refused(refusal: &Refusal) -> Vec<u8> {
    let Refusal { status, code, retry_after, .. } = refusal;
    let fields = retry_after.map(|after| format!("retry-after: {after}\r\n")).unwrap_or_default();
    let body = serde_json::json!({"errors": [{"status": status.to_string(), "code": code, "title": "T", "detail": "D", "meta": {"source": "exportgate"}}]});
    json(*status, &fields, &body.to_string())
}
