//! Header fields that are taken from a client's request (pure).

use std::str::FromStr;

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName};
use uuid::Uuid;

use crate::retrieval::SNYK_REQUEST_ID;

/// Fields that go up with a request that is one client's alone. `content-encoding` is there because
/// bodies go byte for byte, and without it an encoded one could not be read.
const PASSED: [HeaderName; 4] = [ACCEPT, CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT];

/// The fields that go up with a shared request: those that `upstream.forward_headers` names.
pub(super) fn forwarded(client: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    take(&mut fields, client, names);
    fields
}

/// The fields that go up with a request that is one client's alone.
pub(super) fn of_one(client: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    take(&mut fields, client, &PASSED);
    take(&mut fields, client, names);
    fields
}

fn take(fields: &mut HeaderMap, client: &HeaderMap, names: &[HeaderName]) {
    for name in names {
        fields.remove(name);
        for value in client.get_all(name) {
            fields.append(name, value.clone());
        }
    }
}

/// The client's own `snyk-request-id`, if it is one UUID.
pub(super) fn request_id(client: &HeaderMap) -> Option<Uuid> {
    let mut given = client.get_all(SNYK_REQUEST_ID).iter();
    match (given.next()?.to_str().ok()?, given.next()) {
        (text, None) if text.len() == 36 => Uuid::from_str(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn nothing_of_a_client_goes_up_but_what_is_named() {
        let client = fields(&[
            ("authorization", "token secret"),
            ("session-token", "secret"),
            ("cookie", "a=b"),
            ("connection", "authorization"),
            ("x-forwarded-for", "1.2.3.4"),
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("user-agent", "curl"),
            ("x-tenant", "t"),
        ]);
        let tenant = [HeaderName::from_static("x-tenant")];
        assert_eq!(forwarded(&client, &tenant), fields(&[("x-tenant", "t")]));
        assert_eq!(forwarded(&client, &[]), HeaderMap::new());
        assert_eq!(of_one(&client, &[]), fields(&[("accept", "text/html"), ("user-agent", "curl")]));
    }

    #[test]
    fn a_clients_own_request_id_is_sent_only_if_it_is_a_uuid() {
        let own = "2b3c4d5e-0000-4000-8000-000000000001";
        assert_eq!(request_id(&fields(&[("snyk-request-id", own)])), own.parse().ok());
        assert_eq!(request_id(&fields(&[("snyk-request-id", "x")])), None);
        assert_eq!(request_id(&fields(&[("snyk-request-id", own), ("snyk-request-id", own)])), None);
    }
}
