//! The sources of values: the file, the environment, the flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};

/// All values that were given.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The values of the file, by dotted key.
    pub(super) file: BTreeMap<String, RawValue>,
    /// The environment.
    pub(super) env: BTreeMap<String, String>,
    /// The flags, by dotted key.
    pub(super) flags: BTreeMap<String, RawValue>,
    /// Sources that could not be read.
    pub(super) problems: Vec<Problem>,
}

/// A value as it was given, before it is parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawValue {
    /// `exportgate.toml:12`, `EXPORTGATE_LISTEN` or `--listen`.
    pub(super) place: String,
    /// The text of a scalar, or of each member of a list.
    pub(super) text: Vec<String>,
    /// A list in a variable or a flag is one text with commas.
    pub(super) is_one_text: bool,
}

/// The variable that names the file.
pub(super) const FILE: &str = "EXPORTGATE_CONFIG";

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("EXPORTGATE_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The configuration's file: the one that `--config` names, or `EXPORTGATE_CONFIG`.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it may have any name, UTF-8 or not")]
pub fn file(flag: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os(FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flag.map(Path::to_path_buf).or_else(variable)
}

impl Sources {
    /// Reads the environment and the file that `--config` or `EXPORTGATE_CONFIG` names. `flags` are
    /// `(key, text, flag)`; lists are separated by commas.
    ///
    /// # Errors
    /// Never before everything is read: what is wrong is reported with all the rest.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_process(
        config: Option<&Path>,
        flags: Vec<(&'static str, String, &'static str)>,
    ) -> Result<Self, Problems> {
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let mut sources = Self::default();
        for (name, value) in env {
            match value.into_string() {
                Ok(value) => drop(sources.env.insert(name, value)),
                Err(_) if name.starts_with("EXPORTGATE_") || name == "SNYK_TOKEN" => {
                    sources.problems.push(Problem::new(&name, "", "the value is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        if let Some(path) = file(config) {
            let place = path.display().to_string();
            match std::fs::read_to_string(&path) {
                Ok(text) => sources.read_file(&place, &text),
                Err(error) => {
                    sources.problems.push(Problem::new(&place, "", format!("cannot be read: {error}")));
                }
            }
        }
        sources.take_flags(flags);
        Ok(sources)
    }

    /// `SNYK_API`, where tools find the API.
    pub(crate) fn snyk_api(&self) -> Option<&str> {
        self.env.get("SNYK_API").map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The user's folder for state (XDG Base Directory Specification).
    #[expect(clippy::disallowed_methods, reason = "it may have any name, UTF-8 or not")]
    pub(crate) fn state_folder() -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state =
            variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
        state.map(|state| state.join("exportgate"))
    }

    /// Takes nothing from the surroundings: a token and flags alone, as a demo and tests want it.
    #[must_use]
    pub fn isolated(token: &str, flags: Vec<(&'static str, String, &'static str)>) -> Self {
        let env = BTreeMap::from([("SNYK_TOKEN".to_owned(), token.to_owned())]);
        let mut sources = Self { env, ..Self::default() };
        sources.take_flags(flags);
        sources
    }

    fn take_flags(&mut self, flags: Vec<(&'static str, String, &'static str)>) {
        for (key, text, flag) in flags {
            self.flags.insert(
                key.to_owned(),
                RawValue { place: flag.to_owned(), text: vec![text], is_one_text: true },
            );
        }
    }

    /// Takes in the text of a configuration file.
    pub(super) fn read_file(&mut self, name: &str, text: &str) {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        match DeTable::parse(text) {
            Ok(table) => self.flatten(name, "", table.get_ref(), &line),
            Err(error) => {
                let place = format!("{name}:{}", line(error.span().map_or(0, |span| span.start)));
                self.problems.push(Problem::new(&place, "", error.message().replace('\n', "; ")));
            }
        }
    }

    fn flatten(&mut self, name: &str, above: &str, table: &DeTable<'_>, line: &dyn Fn(usize) -> usize) {
        for (key, value) in table {
            let place = format!("{name}:{}", line(key.span().start));
            let key = if above.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{above}.{}", key.get_ref())
            };
            let value = value.get_ref();
            if let Some(inner) = value.as_table() {
                self.flatten(name, &key, inner, line);
                continue;
            }
            let text = match value.as_array() {
                Some(list) => list.iter().map(|item| scalar(item.get_ref())).collect(),
                None => scalar(value).map(|text| vec![text]),
            };
            match text {
                Some(text) => drop(self.file.insert(key, RawValue { place, text, is_one_text: false })),
                None => self.problems.push(Problem::new(&place, &key, "must be a value or a list of values")),
            }
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    let text = value.as_str().map(str::to_owned);
    let number = || value.as_integer().filter(|number| number.radix() == 10);
    text.or_else(|| number().map(|number| number.as_str().to_owned()))
        .or_else(|| value.as_float().map(|number| number.as_str().to_owned()))
        .or_else(|| value.as_bool().map(|yes| yes.to_string()))
}
