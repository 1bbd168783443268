//! Answers to connections that no HTTP is spoken on: those without a place, and HTTP where TLS is spoken.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::shutdown::Shutdown;

/// Time for which a refused connection is still read after its answer, so that no reset takes the answer along.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// An answer to a connection that no HTTP is spoken on.
#[derive(Debug)]
pub(super) struct Refusal {
    status: &'static str,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
    /// `Retry-After`, in seconds.
    retry_after: Option<u32>,
}

/// HTTP without TLS on a TLS address.
pub(super) const PLAIN_HTTP: Refusal = Refusal {
    status: "400 Bad Request",
    code: "tls_needed",
    title: "This address speaks TLS",
    detail: "Use https:// instead of http://.",
    retry_after: None,
};
/// `listener.max_connections`.
pub(super) const FULL: Refusal = Refusal {
    status: "503 Service Unavailable",
    code: "too_many_connections",
    title: "The gateway has too many connections",
    detail: "Try again in a moment, or raise listener.max_connections.",
    retry_after: Some(1),
};
/// `listener.max_connections_per_address`.
pub(super) const FULL_FOR_ADDRESS: Refusal = Refusal {
    status: "429 Too Many Requests",
    code: "too_many_connections_of_address",
    title: "Your address has too many connections",
    detail: "Use fewer connections, or raise listener.max_connections_per_address.",
    retry_after: Some(1),
};

/// Writes `refusal` and closes the connection, in bounded time.
pub(super) async fn refuse(mut stream: TcpStream, refusal: &Refusal, now: SystemTime) {
    let Refusal { status, code, title, detail, retry_after } = refusal;
    let retry_after = retry_after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
    let date = httpdate::fmt_http_date(now);
    let document = format!(
        "{{\"jsonapi\":{{\"version\":\"1.0\"}},\"errors\":[{{\"status\":\"{}\",\"code\":\"{code}\",\"title\":\"{title}\",\"detail\":\"{detail}\",\"meta\":{{\"source\":\"exportgate\"}}}}]}}",
        &status[..3]
    );
    let answer = format!(
        "HTTP/1.1 {status}\r\ndate: {date}\r\ncontent-type: application/vnd.api+json\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'; frame-ancestors 'none'\r\n\
         referrer-policy: no-referrer\r\n{retry_after}content-length: {}\r\nconnection: close\r\n\r\n{document}",
        document.len()
    );
    let saying = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What came unread would make the close a reset, which takes the answer along.
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, saying).await;
}

/// Runs `saying` unless too many are being refused already: a flood of refusals is closed without a word.
pub(super) fn refuse_soon(
    refusals: &Arc<tokio::sync::Semaphore>,
    shutdown: &Shutdown,
    saying: impl Future<Output = ()> + Send + 'static,
) {
    if let Ok(permit) = Arc::clone(refusals).try_acquire_owned() {
        shutdown.spawn(async move {
            let _permit = permit;
            saying.await;
        });
    }
}
