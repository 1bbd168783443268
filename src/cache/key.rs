//! The cache key: everything that decides an answer, written so that no two questions share one.

use std::borrow::Borrow;
use std::sync::Arc;

use http::HeaderMap;

use crate::export::ExportCall;

/// The key of one question to one upstream with one credential. Equal keys mean the same bytes go up.
///
/// The text's parts are separated by line feeds, which none of them can hold: the upstream's root and
/// the credential's name come from checked configuration, the target is written from parsed ids and
/// percent-encoded pairs, and field values cannot carry line feeds (RFC 9110 §5.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(Arc<str>);

impl CacheKey {
    /// The text of the key of `call`, asked of `upstream` with the credential *named* `credential` (a rotation
    /// keeps its entries), with the fields of a client that are `forwarded`. It is enough for a look-up.
    #[must_use]
    pub fn text(upstream: &str, credential: &str, call: &ExportCall, forwarded: &HeaderMap) -> String {
        let mut text = String::with_capacity(upstream.len() + credential.len() + call.target_len() + 2);
        text.push_str(upstream);
        text.push('\n');
        text.push_str(credential);
        text.push('\n');
        call.write_target(&mut text);
        for (name, value) in forwarded {
            text.extend(["\n", name.as_str(), ":"]);
            text.extend(value.as_bytes().iter().flat_map(|b| b.escape_ascii()).map(char::from));
        }
        text
    }

    /// The key of what is asked of Snyk beside it. No other is like it: no field is an empty line.
    pub(crate) fn beside(&self) -> Self {
        Self(format!("{}\n\nbeside", self.0).into())
    }

    /// Its text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The credential's name and the call's target.
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        let mut lines = self.0.splitn(4, '\n').skip(1);
        Some((lines.next()?, lines.next()?))
    }

    /// The size of a key, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.0.len() + size_of::<Self>()
    }
}

impl From<String> for CacheKey {
    /// `text` is what [`CacheKey::text`] gave.
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// A key and its text are hashed and compared alike.
impl Borrow<str> for CacheKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn key(upstream: &str, credential: &str, call: &ExportCall) -> CacheKey {
        CacheKey::from(CacheKey::text(upstream, credential, call, &HeaderMap::new()))
    }

    /// One question, as the parts that a client chooses, drawn from few enough values that
    /// collisions would show.
    fn question() -> impl Strategy<Value = [String; 7]> {
        (
            "https://(a|b)\\.x",
            "[ab]{1,2}",
            "orgs|groups",
            "[aA1_-]{1,3}",
            "(jobs/)?export",
            "[ab]{1,2}",
            "(([ab]|%2f|%7e)(=([ab:/?@]|%0b0|%20|%2F|=){0,3})?&?){0,3}",
        )
            .prop_map(|(a, b, c, d, e, f, g)| [a, b, c, d, e, f, g])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn different_questions_never_share_a_key(questions in prop::collection::vec(question(), 2..40)) {
            let mut seen: HashMap<CacheKey, (String, String, ExportCall)> = HashMap::new();
            for [upstream, credential, kind, scope, operation, export, query] in questions {
                let target = format!("/{kind}/{scope}/{operation}/{export}?{query}");
                let Some(call) = ExportCall::of_target(&target) else { continue };
                let key = key(&upstream, &credential, &call);
                let question = (upstream, credential, call);
                if let Some(earlier) = seen.insert(key, question.clone()) {
                    prop_assert_eq!(earlier, question);
                }
            }
        }

        #[test]
        fn both_spellings_of_a_path_share_one(kind in "orgs|groups", scope in "[a-z0-9]{1,9}", export in "[a-z]{1,9}") {
            let key = |target: &str| key("u", "c", &ExportCall::of_target(target).expect("a call"));
            let short = format!("/{kind}/{scope}/export/{export}?b=1&a=2");
            let long = format!("/rest/{kind}/{scope}/export/{export}?a=2&b=1");
            prop_assert_eq!(key(&short), key(&long));
            let jobs = format!("/{kind}/{scope}/jobs/export/{export}");
            prop_assert_eq!(key(&jobs), key(&format!("/rest/{kind}/{scope}/export/jobs/{export}")));
            prop_assert_ne!(key(&short), key(&jobs));
        }
    }

    #[test]
    fn forwarded_fields_are_part_of_the_key() {
        let name = HeaderName::from_static("x-tenant");
        let call = ExportCall::of_target("/orgs/o/export/e").expect("a call");
        let key = |values: &[&'static str]| {
            let fields = values.iter().map(|v| (name.clone(), HeaderValue::from_static(v))).collect();
            CacheKey::text("u", "c", &call, &fields)
        };
        assert_ne!(key(&["a"]), key(&["b"]));
        assert_ne!(key(&["a"]), key(&[]));
        assert_ne!(key(&["a", "b"]), key(&["a\tb"]));
        assert_eq!(key(&["a"]), key(&["a"]));
    }
}
