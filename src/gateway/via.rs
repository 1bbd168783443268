//! The `Via` field (RFC 9110 §7.6.3): who passed a request on, and whether it came back to us.

use http::header::VIA;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use uuid::Uuid;

use crate::route::Route;

/// More gateways on the way than this is no way.
const MAX_MEMBERS: usize = 32;

/// The reason not to accept a `Via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadVia {
    /// We are in it.
    Loop,
    /// It cannot be read.
    Malformed,
}

/// Every pseudonym of a gateway of our kind begins with this.
const PREFIX: &str = "exportgate-";

/// The members of a `Via` that are sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// All: the request is its client's alone.
    All,
    /// Only gateways of our kind, so that a loop is still seen: the answer is shared, and what one client
    /// writes must not decide what others get.
    Gateways,
}

impl Keep {
    /// `is_start_shared` says it of starts.
    pub(super) fn of(route: &Route, is_start_shared: bool) -> Self {
        match route {
            Route::Export(call) if call.is_shared() || is_start_shared => Self::Gateways,
            // Its results are shared.
            Route::Files(_) | Route::Named(_) => Self::Gateways,
            Route::Export(_) | Route::Other(_) => Self::All,
        }
    }
}

/// Our name in `Via`.
#[derive(Debug)]
pub(super) struct Pseudonym {
    name: String,
    /// The field of a request that nobody passed on, over HTTP/1.1 and HTTP/2.
    alone: [HeaderValue; 2],
}

impl Pseudonym {
    pub(super) fn new(random: Uuid) -> Self {
        let name = format!("{PREFIX}{:08x}", random.as_fields().0);
        let alone = ["1.1", "2.0"].map(|received| {
            HeaderValue::try_from(format!("{received} {name}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 exportgate"))
        });
        Self { name, alone }
    }

    /// The `Via` to send on with a request that came without one.
    pub(super) fn alone(&self, version: Version) -> HeaderValue {
        self.alone[usize::from(version >= Version::HTTP_2)].clone()
    }

    /// The `Via` to send on: the members that came, without comments, and ourselves.
    pub(super) fn append(&self, request: &Parts, keep: Keep) -> Result<HeaderValue, BadVia> {
        append(&request.headers, request.version, &self.name, keep)
    }
}

fn append(fields: &HeaderMap, version: Version, pseudonym: &str, keep: Keep) -> Result<HeaderValue, BadVia> {
    let mut members = Vec::new();
    for value in fields.get_all(VIA) {
        let text = without_comments(value.to_str().map_err(|_| BadVia::Malformed)?)?;
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let mut words = member.split_ascii_whitespace();
            let (Some(protocol), Some(by), None) = (words.next(), words.next(), words.next()) else {
                return Err(BadVia::Malformed);
            };
            if by.eq_ignore_ascii_case(pseudonym) {
                return Err(BadVia::Loop);
            }
            if keep == Keep::All || is_gateway(protocol, by) {
                members.push(format!("{protocol} {by}"));
            }
        }
    }
    if members.len() >= MAX_MEMBERS {
        return Err(BadVia::Malformed);
    }
    let received = if version >= Version::HTTP_2 { "2.0" } else { "1.1" };
    members.push(format!("{received} {pseudonym}"));
    HeaderValue::try_from(members.join(", ")).map_err(|_| BadVia::Malformed)
}

/// True if a gateway of our kind wrote a member.
fn is_gateway(protocol: &str, by: &str) -> bool {
    let id = by.strip_prefix(PREFIX).unwrap_or_default();
    ["1.1", "2.0"].contains(&protocol) && id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Drops comments, which may hold commas and may be nested (RFC 9110 §5.6.5).
fn without_comments(text: &str) -> Result<String, BadVia> {
    let mut depth = 0_usize;
    let mut kept = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if depth > 0 => escaped = true,
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or(BadVia::Malformed)?,
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
    }
    if depth == 0 { Ok(kept) } else { Err(BadVia::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(values: &[&'static str]) -> Result<String, BadVia> {
        let fields: HeaderMap = values.iter().map(|v| (VIA, HeaderValue::from_static(v))).collect();
        append(&fields, Version::HTTP_11, "exportgate-1", Keep::All)
            .map(|value| value.to_str().expect("visible text").to_owned())
    }

    #[test]
    fn we_are_added_to_what_came() {
        assert_eq!(via(&[]).as_deref(), Ok("1.1 exportgate-1"));
        assert_eq!(
            via(&["1.0 a, HTTP/2 b:80 (x, (y\\)) z)", "1.1 c"]).as_deref(),
            Ok("1.0 a, HTTP/2 b:80, 1.1 c, 1.1 exportgate-1")
        );
    }

    #[test]
    fn of_a_shared_request_only_gateways_of_our_kind_are_sent_on() {
        let long = "1.1 exportgate-0123456789";
        let fields: HeaderMap =
            ["1.1 proxy, 2.0 exportgate-01abcdef", "1.1 CloudEdge", long, "x exportgate-01abcdef"]
                .map(|v| (VIA, HeaderValue::from_static(v)))
                .into_iter()
                .collect();
        let sent = append(&fields, Version::HTTP_2, "exportgate-1", Keep::Gateways).expect("a value");
        assert_eq!(sent, "2.0 exportgate-01abcdef, 2.0 exportgate-1");
    }

    #[test]
    fn a_loop_and_nonsense_are_told_apart() {
        assert_eq!(via(&["1.1 a", "1.1 Exportgate-1 (x)"]), Err(BadVia::Loop));
        for bad in ["1.1", "1.1 a b", "1.1 a (", "1.1 a )"] {
            assert_eq!(via(&[bad]), Err(BadVia::Malformed), "{bad}");
        }
        assert_eq!(via(&["1.1 a"; 40]), Err(BadVia::Malformed));
    }
}
