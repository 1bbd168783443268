//! Reads keys one by one from what was given. A key exists because a section reads it here; what is
//! given and never read is a key that does not exist.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::links::is_link;
use super::problem::{Problem, Problems};
use super::sources::{FILE, Given, Sources, variable};

/// A key, what it is and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its dotted name.
    pub name: String,
    /// One line about it.
    pub doc: &'static str,
    /// Its default, as it would be written in the file.
    pub default: String,
    /// Its value, as it would be written in the file.
    pub value: String,
    /// Where the value comes from.
    pub place: String,
}

/// Every key as it was resolved. No secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The keys, in the order of the file.
    pub keys: Vec<Key>,
    /// What else was looked at, such as whether `SNYK_TOKEN` is set.
    pub notes: Vec<String>,
}

/// How a key's value is written in TOML.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Bare,
    Text,
    List,
}

/// A key as it is declared: its name, its default as one would write it, and one line about it.
pub(super) type Declared<'k> = (&'k str, &'static str, &'static str);

/// The key whose variable says something when it is empty: there is no admin listener.
const EMPTY_IS_A_VALUE: &str = "admin.listen";

pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    resolved: Resolved,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self { sources, resolved: Resolved::default(), problems: sources.problems.clone() }
    }

    /// What was given for `key` with the highest precedence. An empty variable counts as unset.
    pub(super) fn given(&self, key: &str) -> Option<Given> {
        let from_env = || {
            let place = variable(key);
            let text = self.sources.env.get(&place)?.clone();
            (!text.is_empty() || key == EMPTY_IS_A_VALUE).then(|| Given { place, text: vec![text] })
        };
        self.sources.flags.get(key).cloned().or_else(from_env).or_else(|| self.sources.file.get(key).cloned())
    }

    pub(super) fn problem(&mut self, place: &str, key: &str, what: impl Into<String>) {
        self.problems.push(Problem::new(place, key, what));
    }

    /// Takes what is wrong with another file along.
    pub(super) fn problems(&mut self, problems: Problems) {
        self.problems.extend(problems.0);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.resolved.notes.push(note.into());
    }

    /// Replaces the value that is shown for `key`, where it is made of more than what was given.
    pub(super) fn show(&mut self, key: &str, value: &str, place: &str) {
        if let Some(shown) = self.resolved.keys.iter_mut().find(|shown| shown.name == key) {
            (shown.value, shown.place) = (quoted(value), place.to_owned());
        }
    }

    /// Reads a key with `parse`; a value that does not parse is a problem, and the default stands in.
    fn read<T>(
        &mut self,
        (name, default, doc): Declared<'_>,
        shape: Shape,
        parse: impl Fn(&[String]) -> Result<T, String>,
    ) -> T {
        let given = self.given(name);
        let place = given.as_ref().map_or_else(|| "default".to_owned(), |given| given.place.clone());
        let split = |text: &str| -> Vec<String> {
            text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
        };
        let text = match (&given, shape) {
            (None, Shape::List) => split(default),
            (None, _) => vec![default.to_owned()],
            // A list in a variable or a flag is one text with commas.
            (Some(given), Shape::List)
                if !self.sources.file.contains_key(name) || *given != self.sources.file[name] =>
            {
                given.text.iter().flat_map(|text| split(text)).collect()
            }
            (Some(given), _) => given.text.clone(),
        };
        let parsed = match shape {
            Shape::List => parse(&text),
            _ if text.len() == 1 => parse(&text),
            Shape::Bare | Shape::Text => Err("must be one value, not a list".to_owned()),
        };
        let shown = |text: &[String]| match shape {
            Shape::Bare => text.concat(),
            Shape::Text => quoted(&text.concat()),
            Shape::List => {
                format!("[{}]", text.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
            }
        };
        let defaults = if matches!(shape, Shape::List) { split(default) } else { vec![default.to_owned()] };
        let key = Key {
            name: name.to_owned(),
            doc,
            default: shown(&defaults),
            value: shown(&text),
            place: place.clone(),
        };
        self.resolved.keys.push(key);
        parsed.unwrap_or_else(|what| {
            self.problem(&place, name, what);
            parse(&defaults).unwrap_or_else(|_| unreachable!("the default of {name} is valid"))
        })
    }

    pub(super) fn text(&mut self, key: Declared<'_>) -> String {
        self.read(key, Shape::Text, |text| Ok(text.concat()))
    }

    pub(super) fn path(&mut self, key: Declared<'_>) -> Option<PathBuf> {
        let text = self.text(key);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    pub(super) fn boolean(&mut self, key: Declared<'_>) -> bool {
        self.read(key, Shape::Bare, |text| text[0].parse().map_err(|_| "must be true or false".to_owned()))
    }

    pub(super) fn choice<T: Copy>(&mut self, key: Declared<'_>, choices: &[(&'static str, T)]) -> T {
        self.read(key, Shape::Text, |text| {
            let found = choices.iter().find(|(word, _)| *word == text[0]);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<String> = choices.iter().map(|(word, _)| quoted(word)).collect();
                format!("must be {}", words.join(" or "))
            })
        })
    }

    pub(super) fn number<T>(&mut self, key: Declared<'_>, bounds: std::ops::RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.read(key, Shape::Bare, |text| {
            let number = text[0].parse().ok().filter(|number| bounds.contains(number));
            number.ok_or_else(|| format!("must be a number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// A size such as `"64KiB"`; a bare number is in bytes.
    pub(super) fn bytes(&mut self, key: Declared<'_>, bounds: (&'static str, &'static str)) -> u64 {
        let size = |text: &str| text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
        self.read(key, Shape::Text, |text| {
            let (least, most) = (size(bounds.0).unwrap_or(0), size(bounds.1).unwrap_or(u64::MAX));
            let number = size(&text[0]).ok().filter(|number| (least..=most).contains(number));
            number.ok_or_else(|| {
                format!("must be a size from {} to {}, such as \"{}\"", bounds.0, bounds.1, key.1)
            })
        })
    }

    /// A duration such as `"90s"` or `"15m"`.
    pub(super) fn duration(&mut self, key: Declared<'_>, bounds: (&'static str, &'static str)) -> Duration {
        let parse = |text: &str| humantime::parse_duration(text);
        self.read(key, Shape::Text, |text| {
            let least = parse(bounds.0).unwrap_or_default();
            let most = parse(bounds.1).unwrap_or(Duration::MAX);
            let duration = parse(&text[0]).ok().filter(|duration| (least..=most).contains(duration));
            duration.ok_or_else(|| {
                format!("must be a duration from {} to {}, such as \"{}\"", bounds.0, bounds.1, key.1)
            })
        })
    }

    pub(super) fn list<T>(&mut self, key: Declared<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
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
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// Where `key` was given, or that it was not.
    pub(super) fn place(&self, key: &str) -> String {
        self.given(key).map_or_else(|| "default".to_owned(), |given| given.place)
    }

    /// Ends reading: what was given and never read is unknown. `read` is missing only where a section has noted a problem.
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

    pub(super) fn into_resolved(self) -> Resolved {
        self.resolved
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
