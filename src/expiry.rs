//! Certificates, revocation lists and clients' keys have an end: their standing, and the warning about it (pure; takes `now`).
//!
//! At such an end clients are turned away, and nothing else happens. So a warning comes ahead of it: in the log, the status, the
//! metrics and `exportgate check`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// A short-lived certificate is replaced late in its life: the warning comes when no more than a quarter of it is left.
const LAST_PART: u32 = 4;

/// Something that has an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// Its kind.
    pub kind: Kind,
    /// Its configuration key and its file.
    pub name: String,
    /// Its first moment; `None`: it has always been valid.
    pub begins: Option<SystemTime>,
    /// Its last moment.
    pub ends: SystemTime,
}

/// A kind of thing that has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our own certificate, or one that it was signed with.
    Certificate,
    /// An authority for client certificates.
    ClientCa,
    /// A list of revoked client certificates.
    ClientCrl,
    /// The keys of a client.
    ClientKeys,
}

/// The standing of something that has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is valid, and there is time left.
    Valid,
    /// It is not valid yet.
    NotYet,
    /// It is valid, and there is little time left.
    EndsSoon,
    /// It has ended.
    Ended,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Certificate, Self::ClientCa, Self::ClientCrl, Self::ClientKeys];

    /// A word for it, as metrics have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::ClientCa => "client_ca",
            Self::ClientCrl => "client_crl",
            Self::ClientKeys => "client_keys",
        }
    }

    /// The consequence of its end, and the remedy.
    const fn advice(self) -> &'static str {
        match self {
            Self::Certificate => {
                "clients refuse a certificate that is not valid; put a new one and its key in place"
            }
            Self::ClientCa => {
                "certificates that it signed are accepted all the same; put its successor in place, or take it out"
            }
            Self::ClientCrl => {
                "a list that is out of date revokes every client certificate; put a newer one in place"
            }
            Self::ClientKeys => {
                "without a key that is good its requests get 401; make one with `exportgate key new`"
            }
        }
    }
}

impl Expiring {
    /// Its standing, with a warning `warn_before` its end.
    pub(crate) fn standing(&self, now: SystemTime, warn_before: Duration) -> Standing {
        let life = self.begins.and_then(|begins| self.ends.duration_since(begins).ok());
        let soon = life.map_or(warn_before, |life| warn_before.min(life / LAST_PART));
        match self.ends.duration_since(now) {
            Err(_) => Standing::Ended,
            Ok(left) if left.is_zero() => Standing::Ended,
            Ok(_) if self.begins.is_some_and(|begins| now < begins) => Standing::NotYet,
            Ok(left) if left < soon => Standing::EndsSoon,
            Ok(_) => Standing::Valid,
        }
    }

    /// The warning that it ends soon, has ended or is not valid yet, with the remedy; `None` otherwise.
    pub(crate) fn warning(&self, now: SystemTime, warn_before: Duration) -> Option<String> {
        let (verb, at) = match self.standing(now, warn_before) {
            Standing::Valid => return None,
            Standing::NotYet => ("is not valid before", self.begins.unwrap_or(now)),
            Standing::EndsSoon => ("ends on", self.ends),
            Standing::Ended => ("ended on", self.ends),
        };
        Some(format!("{} {verb} {}: {}", self.name, date(at), self.kind.advice()))
    }
}

/// A time as RFC 3339 writes it, in UTC.
pub(crate) fn date(at: SystemTime) -> String {
    let mut text = String::new();
    match write!(text, "{}", humantime::format_rfc3339_seconds(at)) {
        Ok(()) => text,
        Err(_) => "a time after the year 9999".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn expiring(begins: Option<u32>, ends: u32) -> Expiring {
        let at = |day: u32| SystemTime::UNIX_EPOCH + DAY * day;
        let name = "tls.certificate (/c)".to_owned();
        Expiring { kind: Kind::Certificate, name, begins: begins.map(at), ends: at(ends) }
    }

    #[test]
    fn the_warning_comes_two_weeks_ahead_or_in_the_last_quarter_of_a_short_life() {
        use Standing::{Ended, EndsSoon, NotYet, Valid};
        for (begins, ends, day, expected) in [
            (Some(100), 190, 99, NotYet),
            (Some(100), 190, 100, Valid),
            (Some(100), 190, 176, Valid),
            (Some(100), 190, 177, EndsSoon),
            (Some(100), 190, 190, Ended),
            (Some(100), 190, 191, Ended),
            (Some(100), 108, 105, Valid),
            (Some(100), 108, 107, EndsSoon),
            (Some(100), 100, 99, NotYet),
            (Some(100), 90, 95, Ended),
            (None, 190, 0, Valid),
            (None, 190, 177, EndsSoon),
        ] {
            let now = SystemTime::UNIX_EPOCH + DAY * day;
            let standing = expiring(begins, ends).standing(now, 14 * DAY);
            assert_eq!(standing, expected, "{begins:?} {ends} {day}");
        }
        let (early, last) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + 189 * DAY);
        assert_eq!(expiring(None, 190).standing(last, Duration::ZERO), Valid);
        assert_eq!(expiring(None, 190).warning(early, 14 * DAY), None);
    }

    #[test]
    fn the_warning_names_key_file_date_and_remedy() {
        let warning =
            |day: u32| expiring(Some(100), 190).warning(SystemTime::UNIX_EPOCH + DAY * day, 14 * DAY);
        for (day, expected) in [
            (99, "tls.certificate (/c) is not valid before 1970-04-11T00:00:00Z: clients refuse"),
            (180, "tls.certificate (/c) ends on 1970-07-10T00:00:00Z: clients refuse"),
            (200, "tls.certificate (/c) ended on 1970-07-10T00:00:00Z: clients refuse"),
        ] {
            let warning = warning(day).expect("a warning");
            assert!(warning.starts_with(expected) && warning.contains("put a new one"), "{warning}");
        }
    }
}
