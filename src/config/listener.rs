//! `listen` and `[listener]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::reader::Reader;
use crate::listener::{Address, Settings};

pub(super) fn read(r: &mut Reader<'_>) -> Settings {
    let listen = r.list(
        (
            "listen",
            "127.0.0.1:7080, [::1]:7080",
            "Where clients connect: loopback addresses (port 0 takes a free one) or \"unix:/path\".",
        ),
        address,
    );
    if listen.is_empty() {
        r.problem("listen", "listen", "name at least one address, such as \"127.0.0.1:7080\"");
    }
    Settings {
        listen,
        h2c: r.boolean((
            "listener.h2c",
            "false",
            "Whether clients may speak HTTP/2 in the clear (prior knowledge).",
        )),
        max_connections: r
            .number(("listener.max_connections", "10000", "Most connections at once."), 1..=1_000_000),
        header_timeout: r.duration(
            (
                "listener.header_timeout",
                "10s",
                "Longest wait for a request's header section; also idle time.",
            ),
            ("100ms", "1h"),
        ),
        body_timeout: r.duration(
            ("listener.body_timeout", "30s", "Longest wait for the body of a start call."),
            ("100ms", "1h"),
        ),
        request_timeout: r.duration(
            ("listener.request_timeout", "90s", "Longest that a client is kept waiting for an answer."),
            ("100ms", "1h"),
        ),
        max_head: size(r, ("listener.max_head", "64KiB", "Largest header section."), ("8KiB", "1MiB")),
        max_headers: r.number(("listener.max_headers", "100", "Most header fields."), 1..=10_000),
        max_target: size(r, ("listener.max_target", "8KiB", "Longest request target."), ("256B", "60KiB")),
        max_body: size(r, ("listener.max_body", "1MiB", "Largest body of a start call."), ("1B", "1GiB")),
        drain: r.duration(
            (
                "listener.drain",
                "30s",
                "How long requests in flight may take to finish after a signal to stop.",
            ),
            ("0s", "1h"),
        ),
    }
}

/// A size that fits the machine's.
pub(super) fn size(
    r: &mut Reader<'_>,
    key: (&'static str, &'static str, &'static str),
    bounds: (&'static str, &'static str),
) -> usize {
    usize::try_from(r.bytes(key, bounds)).unwrap_or(usize::MAX)
}

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(Address::Unix(PathBuf::from(path)))
        } else {
            Err("a Unix socket needs an absolute path, such as \"unix:/run/exportgate.sock\"".to_owned())
        };
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        "must be an address and port, such as \"127.0.0.1:7080\", or \"unix:/path\"".to_owned()
    })?;
    if address.ip().is_loopback() {
        Ok(Address::Tcp(address))
    } else {
        Err("only loopback addresses and Unix sockets are served, because clients are not authenticated: \
             use \"127.0.0.1:7080\" or \"unix:/path\""
            .to_owned())
    }
}
