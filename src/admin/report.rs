//! The answers of the admin API, as it writes them and the command line reads them. `docs/openapi-admin.json` describes the
//! same; a test compares them.
//!
//! A field that another version does not send is read as empty. What names no version, state and parts is no gateway.

use serde::{Deserialize, Serialize};

/// `GET /api/status`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) state: String,
    pub(crate) parts: Vec<PartReport>,
    #[serde(default)]
    pub(crate) started: String,
    #[serde(default)]
    pub(crate) now: String,
    #[serde(default)]
    pub(crate) uptime_s: u64,
    #[serde(default)]
    pub(crate) upstream: String,
    #[serde(default)]
    pub(crate) totals: CountsReport,
    #[serde(default)]
    pub(crate) traffic: TrafficReport,
    #[serde(default)]
    pub(crate) cache: CacheReport,
    #[serde(default)]
    pub(crate) queue: QueueReport,
    #[serde(default)]
    pub(crate) downloads: DownloadsReport,
    #[serde(default)]
    pub(crate) named: Vec<NamedReport>,
    #[serde(default)]
    pub(crate) budget: BudgetReport,
    /// Only with `[shared]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared: Option<SharedReport>,
    #[serde(default)]
    pub(crate) journal: JournalReport,
    #[serde(default)]
    pub(crate) connections: ConnectionsReport,
    #[serde(default)]
    pub(crate) drift: Vec<DriftReport>,
    #[serde(default)]
    pub(crate) reload: ReloadReport,
}

/// The engine that many machines share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SharedReport {
    pub(crate) engine: String,
    pub(crate) state: String,
    pub(crate) shut_for_s: u64,
    pub(crate) place: u32,
    pub(crate) members: u32,
    pub(crate) gateways: u32,
    pub(crate) has_own_part: bool,
    pub(crate) granted: u64,
    /// True if answers are shared.
    pub(crate) has_answers: bool,
    /// Answers that other gateways had.
    pub(crate) taken: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PartReport {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) since: String,
    pub(crate) detail: String,
}

/// Requests of clients, by how they were served.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CountsReport {
    pub(crate) hit: u64,
    pub(crate) stale: u64,
    pub(crate) miss: u64,
    pub(crate) collapsed: u64,
    pub(crate) waited: u64,
    pub(crate) uncached: u64,
    pub(crate) denied: u64,
    pub(crate) failed: u64,
    pub(crate) client_left: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrafficReport {
    pub(crate) step_s: u64,
    pub(crate) points: Vec<PointReport>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PointReport {
    pub(crate) at: String,
    #[serde(flatten)]
    pub(crate) counts: CountsReport,
    pub(crate) upstream: u64,
    pub(crate) upstream_errors: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CacheReport {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct QueueReport {
    pub(crate) waiting: usize,
    pub(crate) followers: usize,
    /// Clients that wait for the end of an export.
    pub(crate) waits: usize,
    /// Pollers that read for them.
    pub(crate) pollers: usize,
}

/// The downloads of files that run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DownloadsReport {
    pub(crate) running: usize,
    /// Those that run longest, the oldest first.
    pub(crate) oldest: Vec<DownloadReport>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DownloadReport {
    pub(crate) request_id: String,
    pub(crate) client: String,
    pub(crate) scope_kind: String,
    pub(crate) scope_id: String,
    pub(crate) export_id: String,
    /// The number of the part, or `table`.
    pub(crate) file: String,
    /// Bytes that were sent so far.
    pub(crate) bytes: u64,
    pub(crate) since: String,
}

/// A named export.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NamedReport {
    pub(crate) name: String,
    pub(crate) scope_kind: String,
    pub(crate) scope_id: String,
    pub(crate) every_s: u64,
    pub(crate) export_id: Option<String>,
    pub(crate) made: Option<String>,
    pub(crate) age_s: Option<u64>,
    pub(crate) rows: Option<u64>,
    /// True if its last turns brought nothing.
    pub(crate) stale: bool,
    pub(crate) next_turn: Option<String>,
    pub(crate) failed_at: Option<String>,
    pub(crate) last_failure: Option<String>,
    pub(crate) columns_changed_at: Option<String>,
    pub(crate) columns_changed: Option<String>,
}

/// `GET /api/budget`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BudgetReport {
    pub(crate) credentials: Vec<CredentialReport>,
    pub(crate) breaker: BreakerReport,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CredentialReport {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) rest: LaneReport,
    /// Only where `/v1` is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) v1: Option<LaneReport>,
    pub(crate) slots: Vec<SlotReport>,
}

/// The requests of one credential to one API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LaneReport {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) windows: Vec<WindowReport>,
    pub(crate) backoff: BackoffReport,
    pub(crate) paused_starts: Vec<StartsReport>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WindowReport {
    pub(crate) seconds: u64,
    pub(crate) limit: u32,
    pub(crate) used: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BackoffReport {
    pub(crate) state: String,
    pub(crate) seconds_left: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StartsReport {
    pub(crate) scope: String,
    pub(crate) seconds_left: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SlotReport {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) age_s: Option<u64>,
    pub(crate) expires_in_s: Option<u64>,
    pub(crate) refused_scopes: usize,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BreakerReport {
    pub(crate) state: String,
    pub(crate) seconds_left: u64,
    pub(crate) exports: usize,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JournalReport {
    pub(crate) failing: bool,
    pub(crate) written: u64,
    pub(crate) dropped: u64,
    pub(crate) queued: usize,
    pub(crate) log_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectionsReport {
    pub(crate) open: usize,
    pub(crate) max: usize,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DriftReport {
    pub(crate) kind: String,
    pub(crate) count: u64,
    pub(crate) last: String,
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReloadReport {
    pub(crate) failing: Option<ReloadFailure>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReloadFailure {
    pub(crate) since: String,
    pub(crate) detail: String,
}

/// `GET /api/exports`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExportsReport {
    pub(crate) total: usize,
    pub(crate) exports: Vec<ExportReport>,
    pub(crate) named: Vec<NamedReport>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExportReport {
    pub(crate) operation: String,
    pub(crate) scope_kind: String,
    pub(crate) scope_id: String,
    pub(crate) export_id: String,
    pub(crate) query: String,
    pub(crate) credential: String,
    pub(crate) stored: String,
    pub(crate) age_s: u64,
    pub(crate) fresh_for_s: u64,
    pub(crate) links_end: Option<String>,
    pub(crate) hits: u64,
    pub(crate) bytes: u64,
}

/// `DELETE /api/exports`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PurgeReport {
    /// Removed entries.
    pub(crate) purged: usize,
}

/// `GET /api/config`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ConfigReport {
    pub(crate) keys: Vec<KeyReport>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct KeyReport {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) default: String,
    pub(crate) source: String,
    pub(crate) doc: &'static str,
}

/// An error of any call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ErrorReport {
    pub(crate) error: ErrorText,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ErrorText {
    pub(crate) code: String,
    pub(crate) title: String,
    pub(crate) detail: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A report with a value in every field.
    pub(crate) fn example() -> Value {
        let counts = json!({"hit": 10, "stale": 0, "miss": 5, "collapsed": 3, "waited": 8, "uncached": 2, "denied": 1, "failed": 4,
            "client_left": 6});
        let mut point = counts.clone();
        point["at"] = "2026-11-24T09:01:00Z".into();
        point["upstream"] = 7.into();
        point["upstream_errors"] = 1.into();
        let lane = json!({"waiting": 1, "running": 2, "windows": [{"seconds": 60, "limit": 1620, "used": 40}],
            "backoff": {"state": "paused", "seconds_left": 30},
            "paused_starts": [{"scope": "org 825e", "seconds_left": 30}]});
        let mut credential = lane.clone();
        credential["name"] = "snyk".into();
        credential["v1"] = lane;
        credential["slots"] = json!([{"name": "active", "state": "in_use", "age_s": 500, "expires_in_s": 3600,
            "refused_scopes": 1}]);
        json!({
            "version": "0.1.0", "started": "2026-11-24T09:00:00Z", "now": "2026-11-25T10:01:01Z",
            "uptime_s": 90061, "state": "degraded", "upstream": "https://api.snyk.io",
            "parts": [
                {"name": "journal", "state": "failing", "since": "2026-11-24T09:01:00Z", "detail": "see the log"},
                {"name": "credential snyk", "state": "ok", "since": "2026-11-24T09:00:00Z", "detail": "\u{1b}[2J"}
            ],
            "totals": counts,
            "traffic": {"step_s": 60, "points": [point]},
            "cache": {"entries": 2, "bytes": 7168, "max_bytes": 268_435_456},
            "queue": {"waiting": 1, "followers": 2, "waits": 9, "pollers": 1},
            "downloads": {"running": 1, "oldest": [{"request_id": "0199f3c2-0000-7000-8000-000000000001",
                "client": "dashboard", "scope_kind": "org", "scope_id": "825e", "export_id": "e1", "file": "table",
                "bytes": 1_048_576, "since": "2026-11-25T10:00:01Z"}]},
            "named": [{"name": "crit", "scope_kind": "org", "scope_id": "825e", "every_s": 7200, "export_id": "e1",
                "made": "2026-11-25T09:00:01Z", "age_s": 3660, "rows": 1200, "stale": true,
                "next_turn": "2026-11-25T11:00:01Z", "failed_at": "2026-11-25T10:00:01Z",
                "last_failure": "the export failed at Snyk (ERRORED)",
                "columns_changed_at": "2026-11-25T09:01:01Z", "columns_changed": "went: A; came: B"}],
            "budget": {"credentials": [credential],
                "breaker": {"state": "half_open", "seconds_left": 0, "exports": 1}},
            "shared": {"engine": "rediss://valkey.example:6379", "state": "shut", "shut_for_s": 12, "place": 3,
                "members": 4, "gateways": 8, "has_own_part": true, "granted": 900, "has_answers": true, "taken": 7},
            "journal": {"failing": true, "written": 100, "dropped": 2, "queued": 1, "log_bytes": 4096},
            "connections": {"open": 3, "max": 10_000},
            "drift": [{"kind": "deprecation", "count": 3, "last": "2026-11-24T09:02:00Z", "detail": "version 1"}],
            "reload": {"failing": {"since": "2026-11-24T09:03:00Z", "detail": "exportgate.toml:12: no"}}
        })
    }

    fn same<T: Serialize + for<'de> Deserialize<'de>>(value: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(value.clone()).expect("it is read")).expect("JSON")
    }

    /// Checks that `value`, in which every field has a value, has exactly what `schema` describes.
    fn check(schemas: &Value, schema: &Value, value: &Value, at: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().expect("a name");
            return check(schemas, &schemas[name], value, at);
        }
        let is_of_type = match schema["type"].as_str().expect("a type") {
            "object" => {
                let names = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>());
                let mut described = names(&schema["properties"]).expect("properties");
                described.sort();
                let mut found = names(value).unwrap_or_default();
                found.sort();
                assert_eq!(found, described, "{at}");
                for name in &found {
                    check(schemas, &schema["properties"][name], &value[name], &format!("{at}.{name}"));
                }
                true
            }
            "array" => value.as_array().is_some_and(|items| {
                for item in items {
                    check(schemas, &schema["items"], item, at);
                }
                !items.is_empty()
            }),
            "integer" => value.is_u64(),
            "boolean" => value.is_boolean(),
            "string" => {
                let words = schema["enum"].as_array();
                value.is_string() && words.is_none_or(|words| words.contains(value))
            }
            other => panic!("{at}: {other} is not expected"),
        };
        assert!(is_of_type, "{at}: {value} is not {}", schema["type"]);
    }

    #[test]
    fn the_answers_are_what_their_document_describes() {
        let document: Value =
            serde_json::from_str(include_str!("../../docs/openapi-admin.json")).expect("a document");
        let schemas = &document["components"]["schemas"];
        let status = example();
        let export = json!({"operation": "results", "scope_kind": "org", "scope_id": "825e", "export_id": "e1",
            "query": "version=2024-10-15", "credential": "snyk", "stored": "2026-11-24T09:00:00Z", "age_s": 12,
            "fresh_for_s": 2600, "links_end": "2026-11-24T10:00:00Z", "hits": 3, "bytes": 3800});
        let exports = json!({"total": 1, "exports": [export], "named": status["named"]});
        let error = json!({"error": {"code": "bad_id", "title": "t", "detail": "d"}});
        let key = KeyReport { name: "listen".to_owned(), ..KeyReport::default() };
        let config = ConfigReport { keys: vec![key], notes: vec!["note".to_owned()] };
        for (name, value) in [
            ("Status", same::<Report>(&status)),
            ("Budget", same::<BudgetReport>(&status["budget"])),
            ("Exports", same::<ExportsReport>(&exports)),
            ("Purged", same::<PurgeReport>(&json!({"purged": 1}))),
            ("Error", same::<ErrorReport>(&error)),
            ("Config", serde_json::to_value(config).expect("JSON")),
        ] {
            check(schemas, &schemas[name], &value, name);
        }
        assert_eq!(same::<Report>(&status), status);
        assert!(serde_json::from_str::<Report>("{}").is_err());
    }
}
