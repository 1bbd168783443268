//! Start calls that we make on our own account (pure): the question of a run of `fetch` or of a named export, and the target
//! and the body that it makes.

mod filters;
mod when;

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::export::API_VERSION;

pub(crate) use filters::Filters;
pub(crate) use when::When;

/// Longest body of a start call that is read from a file.
pub(crate) const MAX_BODY: u64 = 1024 * 1024;

/// A question: the scope, and the rows and columns of an export.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExportQuestion {
    /// `/rest/orgs/ID` or `/rest/groups/ID`.
    pub(crate) scope: String,
    pub(crate) include_deleted: bool,
    pub(crate) include_deactivated: bool,
    pub(crate) body: StartBody,
}

/// The body of a start call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StartBody {
    Chosen(RowChoice),
    /// The whole body, as somebody has written it.
    Given(Value),
}

/// A choice of rows and columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowChoice {
    pub(crate) dataset: String,
    /// Orgs of the group; none means all of it.
    pub(crate) orgs: Vec<String>,
    pub(crate) introduced: TimeRange,
    pub(crate) updated: TimeRange,
    pub(crate) filters: Filters,
    /// None means those of Snyk's choice.
    pub(crate) columns: Option<Vec<String>>,
}

/// The times of rows, from one to before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TimeRange {
    pub(crate) since: Option<When>,
    pub(crate) until: Option<When>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StartCall {
    pub(crate) target: String,
    pub(crate) body: Value,
}

/// A choice that Snyk would refuse, or that no row can meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadChoice {
    /// Issues without a range of time.
    NoTime,
    /// A range that ends before it begins.
    Order { is_updated: bool, since: String, until: String },
}

impl ExportQuestion {
    /// The start call at `now`.
    pub(crate) fn start(&self, now: SystemTime) -> Result<StartCall, BadChoice> {
        let body = match &self.body {
            StartBody::Chosen(choice) => choice.body(choice.ranges(now)?),
            StartBody::Given(body) => body.clone(),
        };
        Ok(StartCall { target: self.target(), body })
    }

    /// The question as it was typed: a span of time stays a span, and everything else is as it is sent.
    pub(crate) fn typed(&self) -> Value {
        let (body, times) = match &self.body {
            StartBody::Chosen(choice) => (choice.body(Map::new()), choice.times()),
            StartBody::Given(body) => (body.clone(), Map::new()),
        };
        json!({"target": self.target(), "times": times, "body": body})
    }

    fn target(&self) -> String {
        let mut target = format!("{}/export?version={API_VERSION}", self.scope);
        for (is_set, name) in
            [(self.include_deleted, "include_deleted"), (self.include_deactivated, "include_deactivated")]
        {
            if is_set {
                target.extend(["&", name, "=true"]);
            }
        }
        target
    }
}

impl RowChoice {
    fn times(&self) -> Map<String, Value> {
        let named = [
            ("since", self.introduced.since),
            ("until", self.introduced.until),
            ("updated_since", self.updated.since),
            ("updated_until", self.updated.until),
        ];
        named
            .into_iter()
            .filter_map(|(name, when)| Some((name.to_owned(), when?.to_string().into())))
            .collect()
    }

    /// The ranges of time at `now`, as filters.
    fn ranges(&self, now: SystemTime) -> Result<Map<String, Value>, BadChoice> {
        let mut filters = Map::new();
        for (is_updated, name, range) in
            [(false, "introduced", self.introduced), (true, "updated", self.updated)]
        {
            let times = range.at(now);
            if let (Some(since), Some(until)) = (times.get("from"), times.get("to"))
                && since.as_str() > until.as_str()
            {
                let text = |time: &Value| time.as_str().unwrap_or_default().to_owned();
                return Err(BadChoice::Order { is_updated, since: text(since), until: text(until) });
            }
            if !times.is_empty() {
                filters.insert(name.to_owned(), times.into());
            }
        }
        if self.dataset == "issues" && filters.is_empty() {
            return Err(BadChoice::NoTime);
        }
        Ok(filters)
    }

    /// The body with these filters and those that were chosen.
    fn body(&self, mut filters: Map<String, Value>) -> Value {
        if !self.orgs.is_empty() {
            filters.insert("orgs".to_owned(), self.orgs.clone().into());
        }
        filters.extend(self.filters.0.clone());
        let mut attributes = json!({"dataset": self.dataset, "formats": ["csv"]});
        if !filters.is_empty() {
            attributes["filters"] = filters.into();
        }
        if let Some(columns) = &self.columns {
            attributes["columns"] = columns.clone().into();
        }
        json!({"data": {"type": "resource", "attributes": attributes}})
    }
}

impl TimeRange {
    fn at(self, now: SystemTime) -> Map<String, Value> {
        let at = |end: &str, when: Option<When>| when.map(|when| (end.to_owned(), when.at(now).into()));
        at("from", self.since).into_iter().chain(at("to", self.until)).collect()
    }
}
