//! Reads keys one by one from the sources. A key that is given and never read does not exist.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::keys::{Declaration, declaration};
use super::links::is_link;
use super::problem::{Problem, Problems};
use super::sources::{FILE, RawValue, Sources, variable};
use crate::watched_file;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedKey {
    /// Its dotted name.
    pub name: String,
    /// One line for people.
    pub doc: &'static str,
    /// Its default, as TOML.
    pub default: String,
    /// Its value, as TOML.
    pub value: String,
    /// The source of the value.
    pub place: String,
}

/// Every key as it was resolved. No secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The keys, in the order of the file.
    pub keys: Vec<ResolvedKey>,
    /// Remarks, such as about `SNYK_TOKEN`.
    pub notes: Vec<String>,
}

/// The TOML of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bare,
    Text,
    List,
}

impl Shape {
    fn toml(self, text: &[String]) -> String {
        match self {
            Self::Bare => text.concat(),
            Self::Text => quoted(&text.concat()),
            Self::List => {
                format!("[{}]", text.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The texts of a TOML value without escapes.
fn literal(toml: &str) -> Vec<String> {
    match toml.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(items) => split(items).iter().map(|item| item.trim_matches('"').to_owned()).collect(),
        None => vec![toml.trim_matches('"').to_owned()],
    }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// The key whose variable may be empty: then there is no admin listener.
const EMPTY_IS_A_VALUE: &str = "admin.listen";

pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    pub(super) resolved: Resolved,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self { sources, resolved: Resolved::default(), problems: sources.problems.clone() }
    }

    /// The value of `key` with the highest precedence. An empty variable counts as unset.
    pub(super) fn given(&self, key: &str) -> Option<RawValue> {
        let from_env = || {
            let place = variable(key);
            let text = self.sources.env.get(&place)?.clone();
            (!text.is_empty() || key == EMPTY_IS_A_VALUE).then(|| RawValue {
                place,
                text: vec![text],
                is_one_text: true,
            })
        };
        self.sources.flags.get(key).cloned().or_else(from_env).or_else(|| self.sources.file.get(key).cloned())
    }

    /// Notes that the value of `key` is not valid.
    pub(super) fn invalid(&mut self, key: &str, what: impl Into<String>) {
        let place = self.place(key);
        self.problem(&place, key, what);
    }

    /// Notes that the file at `path`, the value of `key`, cannot be read, or what `check` says of its content.
    pub(super) fn check_file(
        &mut self,
        key: &str,
        path: &Path,
        check: impl FnOnce(&[u8]) -> Result<(), String>,
    ) {
        let content = watched_file::read(path).map_err(|error| format!("cannot be read: {}", error.source));
        if let Err(what) = content.and_then(|content| check(&content)) {
            self.invalid(key, what);
        }
    }

    pub(super) fn problem(&mut self, place: &str, key: &str, what: impl Into<String>) {
        self.problems.push(Problem::new(place, key, what));
    }

    /// Adds the problems of another file.
    pub(super) fn problems(&mut self, problems: Problems) {
        self.problems.extend(problems.0);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.resolved.notes.push(note.into());
    }

    /// Replaces the value that is shown for `key`.
    pub(super) fn show(&mut self, key: &str, value: &str, place: &str) {
        if let Some(shown) = self.resolved.keys.iter_mut().find(|shown| shown.name == key) {
            (shown.value, shown.place) = (quoted(value), place.to_owned());
        }
    }

    /// Reads a key with `parse`; a value that does not parse is a problem, and the default stands in.
    fn read<T>(&mut self, name: &str, shape: Shape, parse: impl Fn(&[String]) -> Result<T, String>) -> T {
        let Some(Declaration { default, comment, .. }) = declaration(name) else {
            unreachable!("{name} is declared")
        };
        let given = self.given(name);
        let place = self.place(name);
        let defaults = literal(default);
        let text = match given {
            None => defaults.clone(),
            Some(given) if given.is_one_text && shape == Shape::List => split(&given.text.concat()),
            Some(given) => given.text,
        };
        let parsed = if shape == Shape::List || text.len() == 1 {
            parse(&text)
        } else {
            Err("must be one value, not a list".to_owned())
        };
        self.resolved.keys.push(ResolvedKey {
            name: name.to_owned(),
            doc: comment,
            default: default.to_owned(),
            value: shape.toml(&text),
            place: place.clone(),
        });
        parsed.unwrap_or_else(|what| {
            self.problem(&place, name, what);
            parse(&defaults).unwrap_or_else(|_| unreachable!("the default of {name} is valid"))
        })
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        self.read(key, Shape::Text, |text| Ok(text.concat()))
    }

    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.read(key, Shape::Bare, |text| text[0].parse().map_err(|_| "must be true or false".to_owned()))
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&'static str, T)]) -> T {
        self.read(key, Shape::Text, |text| {
            let found = choices.iter().find(|(word, _)| *word == text[0]);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<String> = choices.iter().map(|(word, _)| quoted(word)).collect();
                format!("must be {}", words.join(" or "))
            })
        })
    }

    pub(super) fn number<T>(&mut self, key: &str, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.read(key, Shape::Bare, |text| {
            let number = text[0].parse().ok().filter(|number| bounds.contains(number));
            number.ok_or_else(|| format!("must be a number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// A size such as `"64KiB"`; a bare number is in bytes.
    pub(super) fn bytes(&mut self, key: &str, bounds: RangeInclusive<&'static str>) -> u64 {
        let parse = |text: &str| text.parse().ok().map(|size: bytesize::ByteSize| size.as_u64());
        self.between(key, "size", bounds, parse)
    }

    /// A size in memory.
    pub(super) fn size(&mut self, key: &str, bounds: RangeInclusive<&'static str>) -> usize {
        usize::try_from(self.bytes(key, bounds)).unwrap_or(usize::MAX)
    }

    /// A duration such as `"90s"` or `"15m"`.
    pub(super) fn duration(&mut self, key: &str, bounds: RangeInclusive<&'static str>) -> Duration {
        self.between(key, "duration", bounds, |text| humantime::parse_duration(text).ok())
    }

    fn between<T: PartialOrd>(
        &mut self,
        key: &str,
        noun: &str,
        bounds: RangeInclusive<&'static str>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let (least, most) = bounds.into_inner();
        self.read(key, Shape::Text, |text| {
            let found = parse(&text[0])
                .filter(|found| parse(least).is_some_and(|least| *found >= least))
                .filter(|found| parse(most).is_some_and(|most| *found <= most));
            let example = declaration(key).map_or("", |declared| declared.default);
            found.ok_or_else(|| format!("must be a {noun} from {least} to {most}, such as {example}"))
        })
    }

    pub(super) fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.read(key, Shape::List, |text| {
            let (mut items, mut wrong) = (Vec::new(), Vec::new());
            for item in text {
                match parse(item) {
                    Ok(item) => items.push(item),
                    Err(what) if wrong.contains(&what) => {}
                    Err(what) => wrong.push(what),
                }
            }
            if wrong.is_empty() { Ok(items) } else { Err(wrong.join("; ")) }
        })
    }

    /// The names of the tables that the file has below `above`.
    pub(super) fn tables(&self, above: &str) -> Vec<String> {
        let names = self.sources.file.keys().chain(self.sources.flags.keys()).filter_map(|key| {
            let (name, _) = key.strip_prefix(above)?.strip_prefix('.')?.split_once('.')?;
            Some(name.to_owned())
        });
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The keys that are given below `above`, which ends with a dot.
    pub(super) fn keys_below(&self, above: &str) -> Vec<String> {
        let given = self.sources.file.keys().chain(self.sources.flags.keys());
        let below: BTreeSet<&String> = given.filter(|key| key.starts_with(above)).collect();
        below.into_iter().cloned().collect()
    }

    /// The source of the value of `key`.
    pub(super) fn place(&self, key: &str) -> String {
        self.given(key).map_or_else(|| "default".to_owned(), |given| given.place)
    }

    /// Ends reading. A key that was given and never read is unknown. `read` is missing only where a section noted a problem.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> Result<(T, Resolved), Problems> {
        let known: Vec<&str> = self.resolved.keys.iter().map(|key| key.name.as_str()).collect();
        let mut unknown = Vec::new();
        for (key, given) in &self.sources.file {
            if !known.contains(&key.as_str()) && !self.problems.iter().any(|problem| problem.key == *key) {
                unknown.push(Problem::new(
                    &given.place,
                    key,
                    no_such("key", closest(key, known.iter().copied())),
                ));
            }
        }
        let variables: Vec<String> = known.iter().map(|key| variable(key)).collect();
        for name in self.sources.env.keys().filter(|name| name.starts_with("EXPORTGATE_")) {
            let is_known = variables.contains(name) || name == FILE;
            if !is_known && !is_link(name, &self.sources.env) {
                let closest = closest(name, variables.iter().map(String::as_str));
                unknown.push(Problem::new(name, "", no_such("setting", closest)));
            }
        }
        self.problems.extend(unknown);
        match read {
            Some(read) if self.problems.is_empty() => return Ok((read, self.resolved)),
            None if self.problems.is_empty() => {
                self.problem("exportgate", "", "a section cannot be used and does not say why: report this");
            }
            _ => {}
        }
        Err(Problems(self.problems))
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

fn no_such(noun: &str, closest: Option<&str>) -> String {
    match closest {
        Some(closest) => format!("no such {noun}; did you mean {closest}?"),
        None => format!("no such {noun}; `exportgate check --example` lists them all"),
    }
}

fn closest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let rated = known.map(|known| (strsim::jaro_winkler(name, known), known));
    rated.filter(|(alike, _)| *alike > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
