//! Reads what matters in an export's document: the status word, the id and the links' ends.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::links::{End, end_of};

/// What a document says. Reading is bounded: `serde_json` refuses a nesting of more than 128 levels, and
/// nothing but the status word and the id is copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Peek {
    /// `data.attributes.status`, exactly as it was spelled.
    pub status: String,
    /// `data.id`: the export's id, in the answer to a start.
    pub id: Option<String>,
    /// The end of each link anywhere in `data.attributes`.
    pub(super) ends: Vec<End>,
}

impl Peek {
    /// Reads `body`; `None` when it is no such document, is cut short, or says something twice.
    #[must_use]
    pub fn of(body: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(body).ok()?;
        let Attributes { status, ends } = document.data.attributes;
        Some(Self { status: status?, id: document.data.id, ends: ends.0 })
    }
}

#[derive(Deserialize)]
struct Document {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    id: Option<String>,
    attributes: Attributes,
}

/// `results[]` is untyped in Snyk's document, so every string below `attributes` that is a web address
/// counts as a link, wherever it stands: a link that is missed would be handed out dead.
struct Attributes {
    status: Option<String>,
    ends: Ends,
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AttributesVisitor)
    }
}

struct AttributesVisitor;

impl<'de> Visitor<'de> for AttributesVisitor {
    type Value = Attributes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export's attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
        let mut attributes = Attributes { status: None, ends: Ends::default() };
        while let Some(name) = map.next_key::<String>()? {
            if name != "status" {
                let Ends(found) = map.next_value()?;
                attributes.ends.0.extend(found);
            } else if attributes.status.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field("status"));
            }
        }
        Ok(attributes)
    }
}

/// The ends of all links in a JSON value.
#[derive(Default)]
struct Ends(Vec<End>);

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EndsVisitor)
    }
}

struct EndsVisitor;

impl<'de> Visitor<'de> for EndsVisitor {
    type Value = Ends;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ends, E> {
        let text = text.trim_start();
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let is_link = scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
        Ok(Ends(if is_link { vec![end_of(text)] } else { Vec::new() }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ends, A::Error> {
        let mut all = Vec::new();
        while let Some(Ends(found)) = seq.next_element()? {
            all.extend(found);
        }
        Ok(Ends(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ends, A::Error> {
        let mut all = Vec::new();
        while let Some((IgnoredAny, Ends(found))) = map.next_entry()? {
            all.extend(found);
        }
        Ok(Ends(all))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Ends, E> {
        Ok(Ends::default())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Ends, E> {
        Ok(Ends::default())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Ends, E> {
        Ok(Ends::default())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Ends, E> {
        Ok(Ends::default())
    }

    fn visit_unit<E: Error>(self) -> Result<Ends, E> {
        Ok(Ends::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published example answer.
    const PUBLISHED: &str = r#"{"data":{"attributes":{"created":"2024-11-25T10:21:01.584Z","finished":"2024-11-25T10:21:01.584Z","formats":["csv"],"results":[{}],"status":"PENDING"},"id":"d6b640e5-d88c-4c17-9bf0-93597b7a1ce2","type":"resource"},"jsonapi":{"version":"1.0"},"links":{"self":"/orgs/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export/4d593250-aaf3-48ec"}}"#;

    fn attributes(text: &str) -> Option<Peek> {
        Peek::of(format!(r#"{{"data":{{"attributes":{text}}}}}"#).as_bytes())
    }

    #[test]
    fn the_published_example_is_pending_without_links() {
        assert_eq!(
            Peek::of(PUBLISHED.as_bytes()),
            Some(Peek {
                status: "PENDING".into(),
                id: Some("d6b640e5-d88c-4c17-9bf0-93597b7a1ce2".into()),
                ends: vec![]
            })
        );
    }

    #[test]
    fn links_are_found_wherever_they_stand() {
        let found = attributes(
            r#"{"results":[{"url":"https:\/\/a\/x?Expires=1"},{"other":["HTTP://b/?Expires=2",7,null,true,1.5,-1]}],"status":"FINISHED"}"#,
        );
        assert_eq!(found.map(|peek| peek.ends.len()), Some(2));
    }

    #[test]
    fn what_is_not_certain_is_not_read() {
        for text in [
            r#"{"status":"FINISHED","status":"PENDING"}"#,
            r#"{"status":"PENDING","status":"FINISHED"}"#,
            r#"{"results":[]}"#,
            r#"{"status":null}"#,
            r#"{"status":["FINISHED"]}"#,
            "[]",
            r#"{"status":"FINISHED""#,
        ] {
            assert_eq!(attributes(text), None, "{text}");
        }
        let whole = r#"{"data":{"attributes":{"status":"FINISHED"}}}"#;
        assert!(Peek::of(whole.as_bytes()).is_some());
        for end in 0..whole.len() {
            assert_eq!(Peek::of(&whole.as_bytes()[..end]), None);
        }
        assert_eq!(Peek::of(format!("{whole}x").as_bytes()), None);
        let deep = format!(r#"{{"status":"FINISHED","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(attributes(&deep), None);
    }
}
