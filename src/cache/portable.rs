//! An answer as bytes, for another gateway, and back (pure; 0017).
//!
//! Numbers are big-endian, and lengths come before what they measure. Times are durations: no clock of another machine counts. Only
//! the end that the links themselves show is a date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

/// The format: another one is not read.
const FORMAT: u8 = 1;

/// An answer on its way from one gateway to another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PortableAnswer {
    pub(crate) status: StatusCode,
    pub(crate) attempt: Uuid,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    /// Time since its arrival.
    pub(crate) age: Duration,
    /// `Age` when it arrived, in seconds.
    pub(crate) initial_age: u64,
    /// The end of its first link, as its signer wrote it.
    pub(crate) signed_end: Option<SystemTime>,
    /// True if the end of its links is not certain.
    pub(crate) is_uncertain: bool,
    /// True if it says that the export goes on.
    pub(crate) is_unfinished: bool,
}

impl PortableAnswer {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 2_048);
        let end = self.signed_end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()).map_or(0, millis);
        bytes.put_u8(FORMAT);
        bytes.put_u16(self.status.as_u16());
        bytes.put_slice(self.attempt.as_bytes());
        bytes.put_u64(millis(self.age));
        bytes.put_u64(self.initial_age);
        bytes.put_u64(end);
        bytes.put_u8(u8::from(self.is_uncertain) | u8::from(self.is_unfinished) << 1);
        bytes.put_u32(length(self.fields.len()));
        for (name, value) in &self.fields {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                bytes.put_u32(length(part.len()));
                bytes.put_slice(part);
            }
        }
        bytes.put_slice(&self.body);
        bytes
    }

    /// `None` for what is none.
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut bytes = Bytes::from(bytes);
        if bytes.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
        let attempt = Uuid::from_u128(bytes.try_get_u128().ok()?);
        let age = Duration::from_millis(bytes.try_get_u64().ok()?);
        let initial_age = bytes.try_get_u64().ok()?;
        let end = bytes.try_get_u64().ok()?;
        let signed_end =
            if end == 0 { None } else { Some(UNIX_EPOCH.checked_add(Duration::from_millis(end))?) };
        let flags = bytes.try_get_u8().ok()?;
        let mut fields = HeaderMap::new();
        for _ in 0..bytes.try_get_u32().ok()? {
            let name = HeaderName::from_bytes(&part(&mut bytes)?).ok()?;
            fields.try_append(name, HeaderValue::from_maybe_shared(part(&mut bytes)?).ok()?).ok()?;
        }
        let (is_uncertain, is_unfinished) = (flags & 1 != 0, flags & 2 != 0);
        Some(Self {
            status,
            attempt,
            fields,
            body: bytes,
            age,
            initial_age,
            signed_end,
            is_uncertain,
            is_unfinished,
        })
    }
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Fields are bounded long before.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_comes_back_as_it_was_and_no_part_of_it_does(
            body in prop::collection::vec(any::<u8>(), 0..200), values in prop::collection::vec("[ -~]{0,20}", 0..5),
            times in any::<[u32; 3]>(), flags in any::<[bool; 2]>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut fields = HeaderMap::new();
            for (at, value) in values.iter().enumerate() {
                let name = HeaderName::try_from(format!("x-{}", at / 2)).expect("a name");
                fields.append(name, HeaderValue::try_from(value).expect("a value"));
            }
            let answer = PortableAnswer {
                status: StatusCode::OK,
                attempt: Uuid::new_v4(),
                fields,
                body: body.into(),
                age: Duration::from_millis(times[0].into()),
                initial_age: times[1].into(),
                signed_end: (times[2] > 0).then(|| UNIX_EPOCH + Duration::from_millis(times[2].into())),
                is_uncertain: flags[0],
                is_unfinished: flags[1],
            };
            let bytes = answer.to_bytes();
            prop_assert_eq!(PortableAnswer::of_bytes(bytes.clone()), Some(answer.clone()));
            let at = cut.index(bytes.len());
            prop_assert_ne!(PortableAnswer::of_bytes(bytes[..at].to_vec()), Some(answer));
        }

        #[test]
        fn nothing_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PortableAnswer::of_bytes([vec![FORMAT, 0, 200], bytes].concat());
        }
    }
}
