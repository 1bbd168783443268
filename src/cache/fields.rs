//! The fields of stored responses, in little memory.
//!
//! Snyk's answers have the same names again and again, and some values that are always the same. These are kept once, in
//! a *shape* that all entries share; an entry has its own values alone, in one piece of memory. What the upstream sent
//! is not held: its fields are slices of a buffer that is larger than they are. A hit copies the shape's map, which
//! costs less than a map of its own would (no name in it is counted by reference), and puts the values in.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Shapes that are looked through for a new entry. One whose shape is no longer among them costs what it would alone.
const KEPT: usize = 8;
/// Largest shape that is shared, in bytes: Snyk's take less than half of it. What an entry alone is charged for must not
/// be held by others when it has gone.
const LARGEST: usize = 4 * 1024;
/// Bytes of a map for each field that it holds, besides name and value: the field's place, and that in its index.
const PLACE: usize = 128;

/// Values that stored responses have in common. What is static is copied without counting references, which the cores
/// of a machine would take from one another.
static USUAL: [HeaderValue; 9] = [
    HeaderValue::from_static("-"),
    HeaderValue::from_static("private, no-cache"),
    HeaderValue::from_static("application/vnd.api+json"),
    HeaderValue::from_static("application/vnd.api+json; charset=utf-8"),
    HeaderValue::from_static("application/json"),
    HeaderValue::from_static("application/json; charset=utf-8"),
    HeaderValue::from_static("ga"),
    HeaderValue::from_static("nosniff"),
    HeaderValue::from_static("2024-10-15"),
];

/// Names that are none of HTTP's own, for the same reason.
static NAMES: [HeaderName; 10] = [
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("deprecation"),
    HeaderName::from_static("exportgate-links-expire"),
    HeaderName::from_static("exportgate-request-id"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("snyk-request-id"),
    HeaderName::from_static("snyk-version-lifecycle-stage"),
    HeaderName::from_static("snyk-version-requested"),
    HeaderName::from_static("snyk-version-served"),
    HeaderName::from_static("sunset"),
];

/// The fields of one stored response.
pub struct Fields {
    shape: Arc<HeaderMap>,
    /// The first values of the shape's, in its order.
    own: Box<[HeaderValue]>,
    /// The bytes that the shape takes, for the entry that made it; others share it.
    shape_weight: usize,
}

impl Fields {
    /// They, as a map. Values of one name keep their order; names may have another one (RFC 9110 §5.3).
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::clone(&self.shape);
        for (place, value) in map.values_mut().zip(&self.own) {
            place.clone_from(value);
        }
        map
    }

    /// The bytes that they take, with their shape where it was made for them.
    pub(super) fn weight(&self) -> usize {
        let own: usize = self.own.iter().map(|value| value.len() + size_of::<HeaderValue>()).sum();
        own + self.shape_weight
    }
}

/// The shapes of what was stored last, the last one first.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<Vec<Arc<HeaderMap>>>);

impl Shapes {
    /// `fields`, in little memory.
    pub(super) fn pack(&self, fields: &HeaderMap) -> Fields {
        let is_usual = |name: &HeaderName, value: &HeaderValue| {
            let is_alone = fields.get_all(name).iter().nth(1).is_none();
            USUAL.contains(value) && is_alone && !value.is_sensitive()
        };
        // Their order is the upstream's whim; that of the values of one name is kept (RFC 9110 §5.3).
        let mut all: Vec<_> = fields.iter().collect();
        all.sort_by_key(|(name, _)| name.as_str());
        let (usual, own): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, value)| is_usual(name, value));
        let place = &USUAL[0];
        let wanted = || own.iter().map(|(name, _)| (*name, place)).chain(usual.iter().copied());
        let values = packed(own.iter().map(|(_, value)| *value));
        // A panic while it was locked left it whole: each change is one call.
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = shapes.iter().position(|shape| are_in(shape, wanted())) {
            shapes[..=at].rotate_right(1);
            return Fields { shape: Arc::clone(&shapes[0]), own: values, shape_weight: 0 };
        }
        let map: HeaderMap = wanted().map(|(name, value)| (stock(name), stock_value(value))).collect();
        // A copy has room for what it holds and no more.
        let shape = Arc::new(HeaderMap::clone(&map));
        let shape_weight = shape.iter().map(|(name, value)| name.as_str().len() + value.len() + PLACE).sum();
        if shape_weight <= LARGEST {
            shapes.truncate(KEPT - 1);
            shapes.insert(0, Arc::clone(&shape));
        }
        Fields { shape, own: values, shape_weight }
    }
}

/// Whether `wanted` is what `shape` holds, in its order.
fn are_in<'a>(
    shape: &HeaderMap,
    mut wanted: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> bool {
    shape.iter().all(|(name, value)| wanted.next().is_some_and(|(n, v)| n == name && v == value))
        && wanted.next().is_none()
}

/// The same values, in one piece of memory.
fn packed<'a>(values: impl Iterator<Item = &'a HeaderValue> + Clone) -> Box<[HeaderValue]> {
    let all: Vec<u8> = values.clone().flat_map(HeaderValue::as_bytes).copied().collect();
    let all = Bytes::from(all.into_boxed_slice());
    let mut at = 0;
    let slice = |value: &HeaderValue| {
        let bytes = all.slice(at..at + value.len());
        at += value.len();
        // What is a value already cannot fail.
        let mut same = HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| value.clone());
        same.set_sensitive(value.is_sensitive());
        same
    };
    values.map(slice).collect()
}

/// The same name, static where it can be.
fn stock(name: &HeaderName) -> HeaderName {
    NAMES.iter().find(|known| *known == name).unwrap_or(name).clone()
}

/// The same value, static.
fn stock_value(value: &HeaderValue) -> HeaderValue {
    USUAL.iter().find(|known| *known == value).unwrap_or(value).clone()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(String, String)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_packed_comes_back(
            all in prop::collection::vec(
                prop::collection::vec(("(date|etag|snyk-request-id|[ab]{1,2})", "(-|ga|nosniff|[ab]{0,3})"), 0..12),
                1..12,
            ),
        ) {
            let shapes = Shapes::default();
            let packed: Vec<_> = all.iter().map(|pairs| (map(pairs), shapes.pack(&map(pairs)))).collect();
            for (fields, packed) in packed {
                prop_assert_eq!(packed.to_map(), fields);
            }
        }
    }

    #[test]
    fn answers_of_one_kind_share_a_shape() {
        let shapes = Shapes::default();
        let fields = |date: &str, stage: &str| {
            map(&[
                ("date".to_owned(), date.to_owned()),
                ("snyk-version-lifecycle-stage".to_owned(), stage.to_owned()),
            ])
        };
        let first = shapes.pack(&fields("1", "ga"));
        assert!(Arc::ptr_eq(&first.shape, &shapes.pack(&fields("2", "ga")).shape));
        assert_eq!(first.own.len(), 1);
        assert!(!Arc::ptr_eq(&first.shape, &shapes.pack(&fields("2", "beta")).shape));
        let turned = map(&[
            ("snyk-version-lifecycle-stage".to_owned(), "ga".to_owned()),
            ("date".to_owned(), "1".to_owned()),
        ]);
        assert!(Arc::ptr_eq(&first.shape, &shapes.pack(&turned).shape));
        // One that is in use stays, whatever else comes.
        for number in 0..3 * KEPT {
            let _ = shapes.pack(&map(&[(format!("x-{number}"), "1".to_owned())]));
            assert!(Arc::ptr_eq(&first.shape, &shapes.pack(&fields("3", "ga")).shape));
        }
        assert_eq!(shapes.0.lock().expect("sound").len(), KEPT);
    }

    #[test]
    fn a_shape_is_charged_to_who_made_it_and_a_large_one_to_each() {
        let shapes = Shapes::default();
        let fields = |names: usize| {
            let pairs: Vec<_> =
                (0..names).map(|n| (format!("x-{n}-{}", "n".repeat(200)), "-".to_owned())).collect();
            map(&pairs)
        };
        let weights = |names| [0; 2].map(|_| shapes.pack(&fields(names)).weight());
        let [maker, sharer] = weights(3);
        assert!(maker > 3 * 200 && sharer == 0, "{maker} {sharer}");
        assert!(weights(100).iter().all(|weight| *weight > 100 * 200));
        assert_eq!(shapes.0.lock().expect("sound").len(), 1);
    }

    #[test]
    fn a_sensitive_value_stays_so() {
        for value in ["secret", "ga"] {
            let mut fields = fields_of_one(value);
            fields.values_mut().for_each(|value| value.set_sensitive(true));
            assert!(Shapes::default().pack(&fields).to_map().values().all(HeaderValue::is_sensitive));
        }
    }

    fn fields_of_one(value: &str) -> HeaderMap {
        map(&[("x-one".to_owned(), value.to_owned())])
    }
}
