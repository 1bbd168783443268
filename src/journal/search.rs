//! A search as SQL: the same for the file and for the database of many gateways, but for words of their dialects.

use super::query::{Query, StatusFilter};
use super::record::unix_ms;

/// Most ids to which the beginning of one is resolved: more than one is rare.
pub(super) const MOST_IDS: usize = 16;

/// The words that differ.
#[derive(Debug)]
pub(super) struct Dialect {
    /// The first character of a parameter.
    pub(super) parameter: char,
    /// The condition that an attempt answered the request that caused it.
    pub(super) answered: &'static str,
    /// The returned id as its index has it, whatever the case of its letters.
    pub(super) received: &'static str,
    /// The condition that a row `s` of `served` belongs to an attempt `a`.
    pub(super) serves: &'static str,
}

/// A value to be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SearchValue {
    Text(String),
    Number(i64),
}

/// The table that a source reads, with the attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchTable {
    Attempts,
    /// Those who joined, and their attempts.
    Served,
}

/// One table and the rows of it that are read.
#[derive(Debug)]
pub(super) struct SearchSource {
    pub(super) table: SearchTable,
    condition: String,
    /// True if it finds few rows, by an index that has them in no order of time.
    pub(super) is_few: bool,
}

impl SearchSource {
    fn attempts(condition: String) -> Self {
        Self { table: SearchTable::Attempts, condition, is_few: false }
    }

    fn served(condition: String) -> Self {
        Self { table: SearchTable::Served, condition, is_few: false }
    }
}

/// The beginning of a UUID, in lower case, that is looked for in a column of `attempts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BeginningOfId {
    pub(super) column: &'static str,
    pub(super) text: String,
}

impl BeginningOfId {
    fn of(column: &'static str, id: &str) -> Option<Self> {
        let text = id.to_ascii_lowercase();
        begins_a_uuid(&text).then_some(Self { column, text })
    }

    /// Comes after all that begin so: nothing in a UUID comes after "f".
    pub(super) fn end(&self) -> String {
        format!("{}g", self.text)
    }
}

/// The ids on record that begin so: some more than [`MOST_IDS`] where there are more.
#[derive(Debug)]
pub(super) struct ResolvedId {
    pub(super) asked: BeginningOfId,
    pub(super) ids: Vec<String>,
}

/// The beginnings of ids that are to be resolved to the whole ids: an index is in the order of time within one id alone.
pub(super) fn beginnings(query: &Query) -> Vec<BeginningOfId> {
    let Query { export, org, group, id, .. } = query;
    [("export_id", export), ("scope_id", org), ("scope_id", group), ("export_id", id), ("scope_id", id)]
        .into_iter()
        .filter_map(|(column, id)| BeginningOfId::of(column, id.as_deref()?))
        .collect()
}

/// A search. Each of its sources is read from the newest row on, until there are enough; which index is the best for that is
/// the database's to choose, by its statistics.
#[derive(Debug)]
pub(super) struct Search<'a> {
    dialect: &'a Dialect,
    ids: &'a [ResolvedId],
    pub(super) values: Vec<SearchValue>,
    /// The conditions that a row `a` of `attempts` must meet, whatever source it is from.
    filters: Vec<String>,
    /// The bounds of a column `started_ms`.
    times: Vec<String>,
    /// The sources of rows, which together have all that match.
    pub(super) sources: Vec<SearchSource>,
}

impl<'a> Search<'a> {
    pub(super) fn of(query: &Query, ids: &'a [ResolvedId], dialect: &'a Dialect) -> Self {
        let mut search = Self {
            dialect,
            ids,
            values: Vec::new(),
            filters: Vec::new(),
            times: Vec::new(),
            sources: Vec::new(),
        };
        for (relation, time) in [(">=", query.since), ("<", query.until)] {
            if let Some(time) = time {
                let time = search.bind(SearchValue::Number(unix_ms(time)));
                search.times.push(format!("started_ms {relation} {time}"));
            }
        }
        if let Some(any) = &query.id {
            search.sources = search.any_id(&any.to_ascii_lowercase());
        }
        if let Some(export) = &query.export {
            let is_it = search.is_one("export_id", export);
            search.filters.push(is_it);
        }
        for (kind, scope) in [("org", &query.org), ("group", &query.group)] {
            if let Some(scope) = scope {
                let is_it = search.is_one("scope_id", scope);
                search.filters.push(format!("{is_it} AND a.scope_kind = '{kind}'"));
            }
        }
        search.filters.extend(query.status.map(status));
        if let Some(client) = &query.client {
            search.answers(client);
        }
        if search.sources.is_empty() {
            search.sources.push(SearchSource::attempts("true".to_owned()));
        }
        search
    }

    /// Keeps to what answered a client.
    fn answers(&mut self, client: &str) {
        let client = self.bind(SearchValue::Text(client.to_owned()));
        let Dialect { answered, serves, .. } = self.dialect;
        let (caused, joined) =
            (format!("a.client = {client} AND {answered}"), format!("s.client = {client}"));
        if self.sources.is_empty() {
            self.sources = vec![SearchSource::attempts(caused), SearchSource::served(joined)];
        } else {
            self.filters
                .push(format!("(({caused}) OR EXISTS (SELECT 1 FROM served s WHERE {serves} AND {joined}))"));
        }
    }

    fn bind(&mut self, value: SearchValue) -> String {
        self.values.push(value);
        format!("{}{}", self.dialect.parameter, self.values.len())
    }

    fn text(&mut self, text: String) -> String {
        self.bind(SearchValue::Text(text))
    }

    /// The condition on the rows of a source.
    pub(super) fn condition(&self, source: &SearchSource) -> String {
        let table = match source.table {
            SearchTable::Attempts => 'a',
            SearchTable::Served => 's',
        };
        let times = self.times.iter().map(|time| format!(" AND {table}.{time}"));
        let filters = self.filters.iter().map(|filter| format!(" AND {filter}"));
        std::iter::once(source.condition.clone()).chain(times).chain(filters).collect()
    }

    /// The sources of records that have `id`, or an id that begins with it if it is the beginning of a UUID. That is
    /// looked for in the export and its scope too, for the table shortens these.
    fn any_id(&mut self, id: &str) -> Vec<SearchSource> {
        let received = self.dialect.received;
        let mut is = |column| self.is_or_begins(column, id);
        let mut sources = vec![
            SearchSource::attempts(is("a.request_id")),
            SearchSource::attempts(is("a.id")),
            SearchSource::attempts(format!("a.sent_id <> a.id AND {}", is("a.sent_id"))),
            SearchSource::attempts(format!("a.received_id <> a.sent_id AND {}", is(received))),
            SearchSource::served(is("s.request_id")),
        ];
        for source in &mut sources {
            source.is_few = true;
        }
        if begins_a_uuid(id) {
            sources.push(SearchSource::attempts(self.is_one("export_id", id)));
            sources.push(SearchSource::attempts(self.is_one("scope_id", id)));
        }
        sources
    }

    /// The condition that `column` of `attempts` is `id`, or begins with it, where that is the beginning of a UUID.
    fn is_one(&mut self, column: &'static str, id: &str) -> String {
        let Some(asked) = BeginningOfId::of(column, id) else {
            let id = self.text(canonical(id));
            return format!("a.{column} = {id}");
        };
        // Ids that are no UUIDs are kept as they were written.
        let as_written = (asked.text != id).then(|| id.to_owned());
        let resolved = self.ids.iter().find(|resolved| resolved.asked == asked);
        let mut ids: Vec<String> =
            as_written.into_iter().chain(resolved.iter().flat_map(|one| one.ids.clone())).collect();
        if ids.len() > MOST_IDS {
            return self.is_or_begins(&format!("a.{column}"), &asked.text);
        }
        if ids.is_empty() {
            ids.push(asked.text);
        }
        let ids: Vec<_> = ids.into_iter().map(|id| self.text(id)).collect();
        match ids.as_slice() {
            [id] => format!("a.{column} = {id}"),
            ids => format!("a.{column} IN ({})", ids.join(", ")),
        }
    }

    /// The condition that `column` is `id`, or begins with it, where that is the beginning of a UUID in lower case.
    fn is_or_begins(&mut self, column: &str, id: &str) -> String {
        if !begins_a_uuid(id) {
            return format!("{column} = {}", self.text(canonical(id)));
        }
        // A range is read off the index, which LIKE is not; nothing in a UUID comes after "f".
        let (first, end) = (self.text(id.to_owned()), self.text(format!("{id}g")));
        format!("{column} >= {first} AND {column} < {end}")
    }
}

/// The condition of a status. Those that are not 200 have an index of their own; nearly all are 200, and are found soon by
/// their time.
fn status(status: StatusFilter) -> String {
    let (class, exactly) = match status {
        StatusFilter::Exactly(status) => (status / 100, format!(" AND a.status = {status}")),
        StatusFilter::Class(class) => (class, String::new()),
        StatusFilter::Error => return "(a.error IS NOT NULL OR a.status IS NULL)".to_owned(),
    };
    let is_rare = !matches!(status, StatusFilter::Exactly(200) | StatusFilter::Class(2));
    let rare = if is_rare { " AND a.status <> 200" } else { "" };
    format!("a.status / 100 = {class}{exactly}{rare}")
}

/// True if `id` is the beginning of a UUID in lower case, and long enough to be told from others.
fn begins_a_uuid(id: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    (8..36).contains(&id.len()) && id.bytes().enumerate().all(fits)
}

/// An id as the gateway records it: one in UUID form in lower case.
pub(super) fn canonical(id: &str) -> String {
    crate::export::Id::parse(id).map_or_else(|| id.to_owned(), |id| id.as_str().to_owned())
}
