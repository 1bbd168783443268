//! The record of a run, beside its output: question, export, request IDs, sizes, rows and hashes. It holds no link and no
//! credential.

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::caller::CallNote;
use super::proof::{ProvenPart, columns_of};
use super::question::FetchQuestion;
use super::state::RunState;
use crate::csv::{Proven, Rung};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FetchManifest {
    /// The version that made it.
    exportgate: String,
    /// The question as it was typed.
    pub(super) question: Value,
    /// The body of the start call; null for an export that was started by others.
    body: Value,
    pub(super) export: String,
    /// The name of the output; `-` for standard output.
    #[serde(default)]
    pub(super) file: Option<String>,
    /// The time of the start, and the end of this run.
    pub(super) started: String,
    pub(super) finished: String,
    pub(super) output: OutputNote,
    /// The names of the columns.
    #[serde(default)]
    pub(super) columns: Vec<String>,
    /// The rows of all parts by Snyk's word.
    #[serde(default)]
    pub(super) announced_rows: Option<u64>,
    pub(super) parts: Vec<PartNote>,
    warnings: Vec<String>,
    /// Each call that was answered, with its request IDs, in order.
    calls: Vec<CallNote>,
}

/// The end of a run, with the calls of it and of those before it.
pub(super) struct RunEnd {
    pub(super) at: SystemTime,
    pub(super) calls: Vec<CallNote>,
}

/// The output as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutputNote {
    /// `csv`, `jsonl` or `parts`.
    pub(super) format: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// `None` for single parts.
    pub(super) sha256: Option<String>,
}

/// The facts of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartNote {
    pub(super) part: u32,
    pub(super) size: u64,
    rows: u64,
    crc32c: String,
    /// The steps of the proof that held.
    proven: Vec<String>,
}

impl PartNote {
    fn of(facts: &ProvenPart) -> Self {
        let Proven { bytes: size, rows, crc32c, ref held, .. } = facts.proven;
        let proven = held.iter().map(|rung| rung.word().to_owned()).collect();
        Self { part: facts.part, size, rows, crc32c: format!("{crc32c:08x}"), proven }
    }
}

impl FetchManifest {
    pub(super) fn new(state: &RunState, export: &str, file: String) -> Self {
        Self {
            exportgate: env!("CARGO_PKG_VERSION").to_owned(),
            question: state.typed.clone(),
            body: state.body.clone(),
            export: export.to_owned(),
            file: Some(file),
            started: humantime::format_rfc3339_seconds(state.started()).to_string(),
            finished: String::new(),
            output: OutputNote::default(),
            columns: Vec::new(),
            announced_rows: None,
            parts: Vec::new(),
            warnings: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// The manifest at `path`, if it is one.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The same with its end.
    pub(super) fn with(self, facts: Vec<ProvenPart>, output: OutputNote, end: RunEnd) -> Self {
        let parts = facts.iter().map(PartNote::of).collect();
        let columns = columns_of(&facts);
        let warnings = facts.into_iter().flat_map(|facts| facts.warnings).collect();
        let finished = humantime::format_rfc3339_seconds(end.at).to_string();
        Self { output, columns, parts, warnings, finished, calls: end.calls, ..self }
    }

    /// True if it is the record of this question, with these times.
    pub(super) fn is_of(&self, question: &FetchQuestion) -> bool {
        let body = question.start.as_ref().map_or(&Value::Null, |start| &start.body);
        self.question == question.typed && self.body == *body
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The rungs of the proof that held for all parts.
    pub(super) fn proven_in_words(&self) -> String {
        let has_held =
            |rung: &Rung| self.parts.iter().all(|part| part.proven.iter().any(|word| word == rung.word()));
        let held: Vec<Rung> = Rung::ALL.into_iter().filter(has_held).collect();
        let names: Vec<&str> = held.iter().map(|rung| name(*rung)).collect();
        let by = if held == [Rung::Quotes] { format!("{} alone", names.join("")) } else { names.join(", ") };
        let proven = match self.parts.len() {
            0 => return "the export has no parts".to_owned(),
            1 => format!("1 part, proven by {by}"),
            count => format!("{count} parts, each proven by {by}"),
        };
        match self.announced_rows {
            Some(rows) if rows == self.output.rows => format!("{proven}; as many rows as Snyk announced"),
            Some(_) | None => proven,
        }
    }
}

fn name(rung: Rung) -> &'static str {
    match rung {
        Rung::Length => "length",
        Rung::Crc32c => "checksum (CRC32C)",
        Rung::FileSize => "Snyk's file size",
        Rung::RowCount => "Snyk's number of rows",
        Rung::Quotes => "closed quotes",
    }
}
