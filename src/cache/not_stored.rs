//! The reasons not to store an answer.

/// The reason not to store an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// It is no finished export: nobody expects it to be stored.
    NotFinished,
    /// It is finished, and its status is not 200.
    Status,
    /// It is no JSON document of an export, or an encoded one: nobody can say whether it is finished.
    NotExport,
    /// It is larger than `cache.max_entry` or `cache.max_bytes`.
    TooLarge,
    /// The upstream says `no-store`.
    NoStore,
    /// The upstream says `no-cache`: it wants to be asked each time.
    NoCache,
    /// The upstream says `private`; this is a shared cache.
    Private,
    /// The upstream's `Vary` names what is not fixed for the cache key.
    Vary,
    /// Its links are dead, or nearly so.
    LinksEnding,
    /// A link's end is not certain and `cache.default_age` is zero.
    Uncertain,
}

impl NotStored {
    /// The word for it, in `Cache-Status`, log and metrics; `None` where nobody need be told.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::NotFinished => return None,
            Self::Status => "status",
            Self::NotExport => "not-export",
            Self::TooLarge => "too-large",
            Self::NoStore => "no-store",
            Self::NoCache => "no-cache",
            Self::Private => "private",
            Self::Vary => "vary",
            Self::LinksEnding => "links-ending",
            Self::Uncertain => "links-end-uncertain",
        })
    }

    /// The remedy for an operator.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::NotFinished | Self::Status | Self::NotExport => {
                "see what is between here and Snyk that changes answers: exportgate stores whole, plain JSON with status 200"
            }
            Self::TooLarge => "raise cache.max_entry, upstream.max_answer or cache.max_bytes",
            Self::NoStore => "to store it all the same, add \"no-store\" to cache.ignore",
            Self::NoCache => "to store it all the same, add \"no-cache\" to cache.ignore",
            Self::Private => "to store it all the same, add \"private\" to cache.ignore",
            Self::Vary => "to store it all the same, add \"vary\" to cache.ignore",
            Self::LinksEnding => {
                "start exports with a longer url_expiration_seconds, lower cache.link_margin, and check this machine's clock"
            }
            Self::Uncertain => "to store it for a while, raise cache.default_age",
        }
    }
}
