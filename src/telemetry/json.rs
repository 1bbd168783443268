//! Events as lines of JSON: the same bytes as `tracing-subscriber`'s formatter writes (a test compares them), written to the
//! line directly. Its own formatter takes four times as many instructions, and that alone doubles the cost of a hit.

use std::cell::Cell;
use std::fmt::Debug;
use std::io::Write as _;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::Clock;

thread_local! {
    /// The room that a thread writes its lines in.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Makes a line of each event and gives it to what is in it.
pub(super) struct Json<F>(pub(super) F);

impl<S: Subscriber, F: Fn(&[u8]) + 'static> Layer<S> for Json<F> {
    /// Fields of spans are left out.
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Taken, so that a value that logs while it is written finds room of its own.
        let mut line = LINE.take();
        line.clear();
        let metadata = event.metadata();
        // A clock before 1970 has no text; it is wrong anyway.
        let time = humantime::format_rfc3339_micros(Clock::system().now().wall.max(SystemTime::UNIX_EPOCH));
        let _ = write!(line, "{{\"timestamp\":\"{time}\",\"level\":\"{}\"", metadata.level());
        event.record(&mut Values(&mut line));
        line.extend_from_slice(b",\"target\":");
        write_string(&mut line, metadata.target());
        line.extend_from_slice(b"}\n");
        (self.0)(&line);
        LINE.set(line);
    }
}

/// A line that takes the fields of an event, each behind a comma.
struct Values<'l>(&'l mut Vec<u8>);

impl Values<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(b',');
        write_string(self.0, field.name());
        self.0.push(b':');
    }

    fn value(&mut self, field: &Field, value: &impl serde::Serialize) {
        self.name(field);
        let _ = serde_json::to_writer(&mut *self.0, value);
    }
}

impl Visit for Values<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        write_string(self.0, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        self.0.push(b'"');
        let begin = self.0.len();
        let _ = write!(self.0, "{value:?}");
        if is_plain(&self.0[begin..]) {
            self.0.push(b'"');
        } else {
            let text = self.0.split_off(begin);
            self.0.pop();
            write_string(self.0, &String::from_utf8_lossy(&text));
        }
    }
}

/// Writes a JSON string. Most are plain, and copied at once.
fn write_string(line: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    } else {
        let _ = serde_json::to_writer(line, text);
    }
}

/// True where text stands in a JSON string as it is (RFC 8259 §7).
fn is_plain(text: &[u8]) -> bool {
    // No early end, so that many bytes are compared at once.
    !text.iter().fold(false, |found, byte| found | matches!(byte, 0..=0x1f | b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const HOSTILE: [&str; 10] = [
        "",
        "plain",
        "\"",
        "\\",
        "a\"b\\c/d\u{8}\u{c}\n\r\t\0\u{1}\u{1f}\u{7f}",
        "\u{80}\u{2028}\u{2029}\u{feff}\u{fffd}é😀",
        "\u{1b}[31mred\u{1b}[0m",
        "\"}\n{\"level\":\"ERROR\"",
        "exactly sixteen.and then a quote at the very end of a long text\"",
        "\nand first",
    ];

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Written {
        /// The lines, each as its time and the rest.
        fn lines(&self) -> Vec<(String, String)> {
            let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8");
            assert!(text.ends_with('\n'));
            let time = "{\"timestamp\":\"".len().."{\"timestamp\":\"2026-01-01T00:00:00.000000Z".len();
            let cut = |line: &str| {
                (line[time.clone()].to_owned(), [&line[..time.start], &line[time.end..]].concat())
            };
            text.lines().map(cut).collect()
        }
    }

    /// The events have the same text in both formats, and each line is an object.
    fn is_the_same(events: impl FnOnce()) {
        let (ours, theirs) = (Written::default(), Written::default());
        let to = ours.clone();
        let json = Json(move |line: &[u8]| {
            to.0.lock().expect("no panic").extend_from_slice(line);
        });
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let layer = layer.with_current_span(false).with_span_list(false).with_writer(theirs.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json).with(layer), events);
        let (ours, theirs) = (ours.lines(), theirs.lines());
        assert_eq!(ours.len(), theirs.len());
        for ((our_time, our_rest), (their_time, their_rest)) in ours.iter().zip(&theirs) {
            assert_eq!(our_rest, their_rest);
            let is_object =
                serde_json::from_str::<serde_json::Value>(our_rest).is_ok_and(|value| value.is_object());
            assert!(is_object, "{our_rest}");
            assert_eq!(our_time.len(), their_time.len());
            let time = humantime::parse_rfc3339(their_time).expect("a time");
            assert_eq!(humantime::format_rfc3339_micros(time).to_string(), *their_time);
            let ours = humantime::parse_rfc3339(our_time).expect("a time");
            let apart = ours.duration_since(time).or_else(|_| time.duration_since(ours));
            assert!(apart.is_ok_and(|apart| apart.as_secs() < 60), "{our_time} {their_time}");
        }
    }

    #[test]
    fn every_kind_of_value_is_written_as_by_tracing_subscriber() {
        is_the_same(|| {
            tracing::error!("no fields");
            tracing::warn!(target: "a \"target\"\n", count = 1_u8, "a message with {}", "\"words\"");
            tracing::info!(no.message = true, is = false);
            tracing::debug!("a \"name\"" = 1, "" = 2, same = 3, r#type = "raw", "levels");
            tracing::trace!({ a = u64::MAX, b = i64::MIN, c = u128::MAX, d = i128::MIN, e = 0_i8 }, "numbers");
            let (none, some): (Option<&str>, Option<f64>) = (None, Some(0.25));
            tracing::info!(none, some, empty = tracing::field::Empty, "options");
            for number in
                [0.0, -0.0, 1.0, 0.1, 1e15, 1e16, 1e21, 1e-5, 1e-7, f64::MIN_POSITIVE, f64::MAX, 0.052_311]
            {
                tracing::info!(number, f32 = 0.1_f32);
            }
            tracing::info!(nan = f64::NAN, infinite = f64::INFINITY, less = f64::NEG_INFINITY);
            let error = std::io::Error::other("\"an\" error\n");
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), bytes = &b"\0\"x"[..]);
            let id = uuid::Uuid::max();
            let address = std::net::IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
            tracing::info!(%id, address = Some(tracing::field::display(address)), list = ?["a\"", "b"]);
            for text in HOSTILE {
                tracing::info!(text, shown = %text, debugged = ?text, "{text}");
            }
        });
    }

    proptest! {
        #[test]
        fn any_text_and_number_is_written_as_by_tracing_subscriber(
            text in any::<String>(), ascii in "[\\x00-\\x7f]{0,80}", number in any::<f64>(), whole in any::<i64>()
        ) {
            is_the_same(|| {
                tracing::info!(text, ascii, number, whole, shown = %text, debugged = ?ascii, "{ascii}{text}");
            });
        }
    }
}
