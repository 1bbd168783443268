//! The named exports, for the page, `exportgate exports` and the metrics.

use std::time::{Duration, SystemTime};

use super::families::{Families, flag, large};
use super::report::NamedReport;
use super::{Admin, time};
use crate::named::{NamedExport, unix_ms};

impl Admin {
    pub(super) fn named(&self) -> Vec<NamedReport> {
        self.views.named.all().iter().map(|export| self.named_report(export)).collect()
    }

    fn named_report(&self, export: &NamedExport) -> NamedReport {
        let (now, state) = (self.now(), export.state());
        let current = state.as_ref().and_then(|state| state.current.as_ref());
        let failure = state.as_ref().and_then(|state| state.failure.as_ref());
        let changed = state.as_ref().and_then(|state| state.columns_changed.as_ref());
        NamedReport {
            name: export.settings.name.to_string(),
            scope_kind: export.scope().kind.as_str().to_owned(),
            scope_id: export.scope().id.as_str().to_owned(),
            every_s: export.settings.every.as_secs(),
            export_id: current.map(|current| current.id.clone()),
            made: current.map(|current| at(current.made_ms)),
            age_s: current.map(|current| current.age(unix_ms(now.wall)).as_secs()),
            rows: current.map(|current| current.rows),
            stale: export.is_stale(now),
            next_turn: state.as_ref().map(|state| at(state.next_turn_ms)),
            failed_at: failure.map(|failure| at(failure.at_ms)),
            last_failure: failure.map(|failure| failure.reason.clone()),
            columns_changed_at: changed.map(|changed| at(changed.at_ms)),
            columns_changed: changed.map(|changed| changed.change.to_string()),
        }
    }
}

/// The metrics of named exports. Their labels are names of the configuration.
pub(super) fn count(admin: &Admin, found: &mut Families) {
    for export in admin.views.named.all() {
        let report = admin.named_report(&export);
        let name = ("name", report.name.as_str());
        if let Some((age, rows)) = report.age_s.zip(report.rows) {
            let help = "Age of the export that is served under a name";
            found.gauge("named_age_seconds", help).with(&[name], large(age));
            let help = "Rows of the export that is served under a name";
            found.gauge("named_rows", help).with(&[name], large(rows));
        }
        let help = "1 if the last three turns of a named export brought no new one";
        found.gauge("named_stale", help).with(&[name], flag(report.stale));
        for (outcome, count) in export.counts.by_outcome() {
            let help = "Turns of named exports that this process made, by outcome";
            found.counter("named_turns", help).with(&[name, ("outcome", outcome)], large(count));
        }
        let help = "Changes of the columns of named exports that this process saw";
        found.counter("named_column_changes", help).with(&[name], large(export.counts.column_changes()));
    }
}

fn at(ms: u64) -> String {
    time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}
