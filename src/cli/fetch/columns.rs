//! The columns of a run, compared with those of the run before it, whose manifest is beside the output.

use super::args::ColumnsRule;
use super::failure::Ending;
use super::manifest::FetchManifest;
use super::progress::FetchEvent;
use super::proof::{ProvenPart, columns_of};
use super::session::Session;
use crate::csv::ColumnChange;

impl Session {
    /// Says where columns changed since the earlier run of this question, or fails. An export that is named by its id, or whose
    /// question is a name, counts as the same question: somebody else asked it.
    pub(super) fn compare_columns(&self, facts: &[ProvenPart]) -> Result<(), Ending> {
        let Some(earlier) = self.target.manifest.as_deref().and_then(FetchManifest::read) else {
            return Ok(());
        };
        let is_same = self.question.start.is_none() || earlier.question == self.question.typed;
        let columns = columns_of(facts);
        if !is_same || columns.is_empty() || earlier.columns.is_empty() {
            return Ok(());
        }
        let Some(change) = ColumnChange::between(&earlier.columns, &columns) else { return Ok(()) };
        let text = format!("the columns changed since the export of {}: {change}", earlier.started);
        match self.args.columns_changed {
            ColumnsRule::Warn => {
                self.progress.say(&FetchEvent::Warning { text });
                Ok(())
            }
            ColumnsRule::Fail => {
                let text = format!(
                    "{text}. The output is as it was. The same command with --columns-changed warn takes this export, with --restart a new one"
                );
                Err(Ending::not_whole(text))
            }
        }
    }
}
