//! The document of an export: its status, its id, and the ends of its links.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::links::Links;

/// The status word of an export that is complete, with its links.
const FINISHED: &str = "FINISHED";
/// The status words of exports, as Snyk's documents and its guide spell them.
const STATUS_WORDS: [&str; 5] = ["PENDING", "STARTED", FINISHED, "ERRORED", "ERROR"];

/// An export's document. Reading it is bounded: `serde_json` refuses a nesting of more than 128 levels, and only the
/// status word and the id are copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// `data.attributes.status`, exactly as it was spelled; the answer to a start has none.
    pub status: Option<String>,
    /// `data.id`: the export's id, in the answer to a start.
    pub id: Option<String>,
    /// The links anywhere in `data.attributes`.
    pub(crate) links: Links,
}

impl Document {
    /// Reads `body`; `None` if it is no such document, is cut short, or says something twice.
    #[must_use]
    pub fn of(body: &[u8]) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let mut found = Found::default();
        ValueReader { position: Position::Document, found: &mut found }
            .deserialize(&mut deserializer)
            .ok()?;
        deserializer.end().ok()?;
        found.data.and(found.attributes)?;
        Some(Self { status: found.status, id: found.id.and_then(|id| id.0), links: found.links })
    }

    /// True if the export is finished: only this one word says so.
    pub(crate) fn is_finished(&self) -> bool {
        self.status.as_deref() == Some(FINISHED)
    }

    /// True if the export goes on: no other word than these two says so for certain.
    pub(crate) fn is_unfinished(&self) -> bool {
        matches!(self.status.as_deref(), Some("PENDING" | "STARTED"))
    }

    /// The status word, if it is none that Snyk is known to use.
    pub(crate) fn unknown_status(&self) -> Option<&str> {
        self.status.as_deref().filter(|word| !STATUS_WORDS.contains(word))
    }
}

/// The parts that were found so far.
#[derive(Default)]
struct Found {
    data: Option<()>,
    id: Option<Nullable>,
    attributes: Option<()>,
    status: Option<String>,
    links: Links,
}

/// `data.id`, which may be `null`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Nullable(Option<String>);

/// The position of a value in a document.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Document,
    Data,
    Attributes,
    /// `results[]` is untyped in Snyk's document, so every string below `attributes` that holds a web address
    /// counts as a link, wherever it stands: a link that is missed would be handed out dead.
    Below,
    /// Other values are read all the same, so that a document that is none is seen.
    Outside,
}

/// Reads the value at one position. All but what is below must be objects: serde would take lists for them.
struct ValueReader<'a> {
    position: Position,
    found: &'a mut Found,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Name {
    Data,
    Id,
    Attributes,
    Status,
    #[serde(other)]
    Other,
}

impl ValueReader<'_> {
    /// A reader of the values inside the one at this position.
    fn inner(&mut self) -> ValueReader<'_> {
        let position = match self.position {
            Position::Attributes | Position::Below => Position::Below,
            Position::Document | Position::Data | Position::Outside => Position::Outside,
        };
        ValueReader { position, found: self.found }
    }

    fn no_object<E: Error>(&self, what: Unexpected<'_>) -> Result<(), E> {
        if matches!(self.position, Position::Below | Position::Outside) {
            Ok(())
        } else {
            Err(E::invalid_type(what, self))
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export's document")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            let before = match (self.position, name) {
                (Position::Document, Name::Data) => {
                    map.next_value_seed(ValueReader { position: Position::Data, found: self.found })?;
                    self.found.data.replace(()).is_some()
                }
                (Position::Data, Name::Id) => self.found.id.replace(map.next_value()?).is_some(),
                (Position::Data, Name::Attributes) => {
                    map.next_value_seed(ValueReader { position: Position::Attributes, found: self.found })?;
                    self.found.attributes.replace(()).is_some()
                }
                (Position::Attributes, Name::Status) => {
                    self.found.status.replace(map.next_value()?).is_some()
                }
                _ => {
                    map.next_value_seed(self.inner())?;
                    false
                }
            };
            if before {
                return Err(A::Error::custom("said twice"));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.no_object(Unexpected::Seq)?;
        while seq.next_element_seed(self.inner())?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.no_object(Unexpected::Str(text))?;
        let is_link = text.contains("://") || text.trim_start().starts_with("//");
        if is_link && self.position == Position::Below {
            self.found.links.add(text);
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.no_object(Unexpected::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.no_object(Unexpected::Signed(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.no_object(Unexpected::Unsigned(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.no_object(Unexpected::Float(value))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.no_object(Unexpected::Unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published example answer.
    const PUBLISHED: &str = r#"{"data":{"attributes":{"created":"2024-11-25T10:21:01.584Z","finished":"2024-11-25T10:21:01.584Z","formats":["csv"],"results":[{}],"status":"PENDING"},"id":"d6b640e5-d88c-4c17-9bf0-93597b7a1ce2","type":"resource"},"jsonapi":{"version":"1.0"},"links":{"self":"/orgs/825e79b7-0073-44c3-a5ea-e0aa8a3dbf38/export/4d593250-aaf3-48ec"}}"#;

    fn attributes(text: &str) -> Option<Document> {
        Document::of(format!(r#"{{"data":{{"attributes":{text}}}}}"#).as_bytes())
    }

    #[test]
    fn the_published_example_is_pending_without_links() {
        assert_eq!(
            Document::of(PUBLISHED.as_bytes()),
            Some(Document {
                status: Some("PENDING".into()),
                id: Some("d6b640e5-d88c-4c17-9bf0-93597b7a1ce2".into()),
                links: Links::default()
            })
        );
    }

    #[test]
    fn a_started_export_has_an_id_and_no_status() {
        let recorded = r#"{"data":{"attributes":{"created":"2026-02-12T20:09:42.693"},"id":"e1","links":{"self":"/orgs/o/jobs/export/e1?version=2024-10-15"},"type":"export"}}"#;
        let expected = Document { status: None, id: Some("e1".into()), links: Links::default() };
        assert_eq!(Document::of(recorded.as_bytes()), Some(expected));
    }

    #[test]
    fn links_are_found_wherever_they_stand() {
        let found = attributes(
            r#"{"results":[{"url":"https:\/\/a\/x?Expires=1"},{"other":["HTTP://b/?Expires=2",7,null,true,1.5,-1]}],"status":"FINISHED"}"#,
        );
        assert_eq!(found.map(|document| document.links.count), Some(2));
        let relative =
            attributes(r#"{"results":["//a/x?Expires=1","/not/a/link?Expires=1"],"status":"FINISHED"}"#);
        assert_eq!(relative.map(|document| document.links.count), Some(1));
    }

    #[test]
    fn what_is_not_certain_is_not_read() {
        for text in [
            r#"{"status":"FINISHED","status":"PENDING"}"#,
            r#"{"status":"PENDING","status":"FINISHED"}"#,
            r#"{"status":null}"#,
            r#"{"status":["FINISHED"]}"#,
            "[]",
            r#"[{"status":"FINISHED"}]"#,
            r#"{"status":"FINISHED""#,
        ] {
            assert_eq!(attributes(text), None, "{text}");
        }
        for text in [
            r#"[{"attributes":{"status":"FINISHED"}}]"#,
            r#"{"data":[null,{"status":"FINISHED"}]}"#,
            r#"[[null,{"status":"FINISHED"}]]"#,
            r#"{"data":{"attributes":{"status":"FINISHED"},"attributes":{"status":"PENDING"}}}"#,
            r#"{"data":{"attributes":{"status":"FINISHED"}},"data":{"attributes":{"status":"PENDING"}}}"#,
        ] {
            assert_eq!(Document::of(text.as_bytes()), None, "{text}");
        }
        for text in [
            &b"{\"x\":\"\xff\",\"data\":{\"attributes\":{\"status\":\"FINISHED\"}}}"[..],
            b"{\"x\":{\"\xff\":1},\"data\":{\"attributes\":{\"status\":\"FINISHED\"}}}",
            b"{\"data\":{\"attributes\":{\"status\":\"FINISHED\"},\"y\":\"\xff\"}}",
            br#"{"x":"\ud800","data":{"attributes":{"status":"FINISHED"}}}"#,
            br#"{"x":1e999,"data":{"attributes":{"status":"FINISHED"}}}"#,
        ] {
            assert_eq!(Document::of(text), None, "{}", String::from_utf8_lossy(text));
        }
        let outside =
            r#"{"links":{"self":"https://a/?Expires=1"},"data":{"attributes":{"status":"FINISHED"}}}"#;
        assert_eq!(Document::of(outside.as_bytes()).map(|document| document.links.count), Some(0));
        let whole = r#"{"data":{"attributes":{"status":"FINISHED"}}}"#;
        assert!(Document::of(whole.as_bytes()).is_some());
        for end in 0..whole.len() {
            assert_eq!(Document::of(&whole.as_bytes()[..end]), None);
        }
        assert_eq!(Document::of(format!("{whole}x").as_bytes()), None);
        let deep = format!(r#"{{"status":"FINISHED","x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(attributes(&deep), None);
    }
}
