//! The current export of a name at a gateway. Nothing is started: the gateway makes it.

use serde::Deserialize;

use super::caller::{CallFailure, FetchCall};
use super::failure::{Ending, EndingKind};
use super::progress::FetchEvent;
use super::question::FetchExport;
use super::session::Session;
use super::state::RunState;
use super::wait::Look;
use crate::export::{ExportCall, ExportName, Id, Operation};

/// The list of files of a named export, as far as it says which export that is.
#[derive(Debug, Deserialize)]
struct NamedIndex {
    export: String,
    table: String,
}

impl NamedIndex {
    /// The export, by the path of its table: it must be one of an org or a group.
    fn export(&self) -> Option<FetchExport> {
        let results = self.table.strip_suffix("/table.csv")?;
        let call = ExportCall::of_target(results)?;
        let is_it = call.operation == Operation::Results(Id::parse(&self.export)?);
        let scope = results.strip_suffix(&format!("/export/{}", self.export))?;
        is_it.then(|| FetchExport { scope: scope.to_owned(), id: self.export.clone() })
    }
}

impl Session {
    /// The export of the name, or the one that an earlier run began with. It is on the disk when this returns.
    pub(super) async fn named(&self, name: &ExportName, state: &mut RunState) -> Result<FetchExport, Ending> {
        if let (Some(scope), Some(export)) = (&state.scope, &state.export) {
            self.progress.say(&FetchEvent::Continued { export: export.clone() });
            return Ok(FetchExport { scope: scope.clone(), id: export.clone() });
        }
        let export = self.until_ready(name.as_str(), async || self.look_for_name(name).await).await?;
        (state.scope, state.export) = (Some(export.scope.clone()), Some(export.id.clone()));
        self.folder.save_state(state)?;
        Ok(export)
    }

    async fn look_for_name(&self, name: &ExportName) -> Result<Look<FetchExport>, Ending> {
        let target = self.question.files();
        let fields = self.wait_preference().into_iter().collect();
        let call = FetchCall { name: "files".to_owned(), target: &target, fields, body: None };
        let document = match self.caller.document(call).await {
            Ok(document) => document,
            Err(CallFailure { text, .. }) => return Ok(Look::Failed(text)),
        };
        if document.status.is_success() {
            let index: Option<NamedIndex> = serde_json::from_slice(&document.body).ok();
            let export = index.and_then(|index| index.export());
            let what = "the list of files cannot be used: is this an exportgate with named exports?";
            return export.map(Look::Ready).ok_or_else(|| Ending::failed(what));
        }
        let error = document.error();
        if error.code == "no_such_name" {
            return Err(Ending::new(EndingKind::NotAuthorised, format!("{name}: {}", error.text)));
        }
        self.not_ready(name.as_str(), &document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_export_of_a_name_is_one_of_an_org_or_a_group() {
        let export = |export: &str, table: &str| {
            NamedIndex { export: export.to_owned(), table: table.to_owned() }
                .export()
                .map(|found| found.scope)
        };
        assert_eq!(export("e1", "/rest/orgs/o/export/e1/table.csv").as_deref(), Some("/rest/orgs/o"));
        for table in [
            "/rest/orgs/o/export/e2/table.csv",
            "//x/rest/orgs/o/export/e1/table.csv",
            "/x/e1/table.csv",
            "/e1",
        ] {
            assert_eq!(export("e1", table), None, "{table}");
        }
    }
}
