//! The place in a trace that a client's fields name (W3C Trace Context), pure. What is not valid is as if it were not
//! there: a trace begins anew, and nobody's request fails for it. The SDK's own propagator is laxer: it takes ids that are
//! too short, signs before digits, and the first of several `traceparent`.

use std::str::FromStr as _;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Longest `tracestate` that is kept, in bytes: what all who pass it on must keep (§3.3.1.5).
const MAX_STATE: usize = 512;

/// What `traceparent` and `tracestate` name.
pub(super) fn of(client: &HeaderMap) -> Option<SpanContext> {
    let mut given = client.get_all("traceparent").iter();
    let (Some(parent), None) = (given.next(), given.next()) else { return None };
    let (trace, span, flags) = parse(parent.as_bytes())?;
    let context = SpanContext::new(trace, span, flags, true, state(client));
    context.is_valid().then_some(context)
}

/// Reads `00-TRACE-SPAN-FLAGS` in lower case; a later version may have more behind a hyphen (§4.3).
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let hyphens = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    let (version, flags) = (hex(text.get(..2)?)?, hex(text.get(53..55)?)?);
    let is_whole = match version {
        0 => text.len() == 55,
        0xff => false,
        _ => text.get(55).is_none_or(|next| *next == b'-'),
    };
    let trace = hex(text.get(3..35)?)?;
    let span = u64::try_from(hex(text.get(36..52)?)?).ok()?;
    let sampled = flags & u128::from(TraceFlags::SAMPLED.to_u8()) != 0;
    let flags = TraceFlags::default().with_sampled(sampled);
    (hyphens && is_whole).then(|| (TraceId::from(trace), SpanId::from(span), flags))
}

fn hex(digits: &[u8]) -> Option<u128> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    digits.iter().try_fold(0, |number: u128, byte| Some(number << 4 | u128::from(digit(*byte)?)))
}

fn state(client: &HeaderMap) -> TraceState {
    let fields: Option<Vec<&str>> =
        client.get_all("tracestate").iter().map(|field| field.to_str().ok()).collect();
    let text = fields.unwrap_or_default().join(",");
    let short = Some(text.as_str()).filter(|text| text.len() <= MAX_STATE);
    short.and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn named(fields: &[(&'static str, &str)]) -> Option<SpanContext> {
        let fields = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        });
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        of(&map)
    }

    #[test]
    fn a_parent_is_taken_whole_or_not_at_all() {
        for (flags, sampled) in [("00", false), ("01", true), ("ff", true), ("02", false)] {
            let found = named(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]).expect("a parent");
            assert_eq!(
                (found.trace_id().to_string(), found.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!((found.is_sampled(), found.is_remote()), (sampled, true));
        }
        let more = format!("cc-{TRACE}-{SPAN}-01-what-comes-later");
        assert!(named(&[("traceparent", &more)]).is_some());
        for bad in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}0{SPAN}-01"),
            format!("+0-{TRACE}-{SPAN}-01"),
            "é".repeat(30),
        ] {
            assert_eq!(named(&[("traceparent", &bad)]), None, "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(named(&[("traceparent", &good), ("traceparent", &good)]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn a_state_that_is_not_valid_costs_the_state_alone() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| {
            let mut fields = vec![("traceparent", good.as_str())];
            fields.extend(states.iter().map(|state| ("tracestate", *state)));
            named(&fields).expect("a parent").trace_state().header()
        };
        assert_eq!(state(&["a=1,b=2"]), "a=1,b=2");
        assert_eq!(state(&["a=1", "b=2"]), "a=1,b=2");
        assert_eq!((state(&["nonsense"]), state(&["A=1"])), (String::new(), String::new()));
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), "");
    }
}
