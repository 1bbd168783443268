//! `exportgate check`.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::config::Resolved;

/// Prints `resolved` as TOML, each key with where its value comes from; or, as an example, each with its
/// default and what it does.
pub(super) fn run(resolved: &Resolved, example: bool, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(if example { self::example(resolved) } else { listing(resolved) }.as_bytes())
}

fn listing(resolved: &Resolved) -> String {
    let shown = |name: &str, value: &str| format!("{} = {value}", name.rsplit('.').next().unwrap_or(name));
    let lines = resolved.keys.iter().map(|key| shown(key.name, &key.value).chars().count());
    let width = lines.max().unwrap_or(0).min(60);
    let mut text = String::from("# The configuration is valid. Values, and where they come from:\n");
    for note in &resolved.notes {
        let _ = writeln!(text, "# {note}");
    }
    sections(resolved, &mut text, |key| format!("{:width$}  # {}\n", shown(key.name, &key.value), key.place));
    text
}

/// The text of `config/exportgate.example.toml`.
fn example(resolved: &Resolved) -> String {
    let mut text = String::from(
        "# Every key of exportgate, with its default. Each can also be set by an environment variable:\n\
         # EXPORTGATE_ and the key in capitals, with \"_\" for \".\" (EXPORTGATE_UPSTREAM_URL); lists there\n\
         # are separated by commas. `exportgate check` shows what is in force and where it comes from.\n\
         # The Snyk token itself is never in this file: set SNYK_TOKEN, or credential.token_file.\n",
    );
    sections(resolved, &mut text, |key| {
        let name = key.name.rsplit('.').next().unwrap_or(key.name);
        format!("\n# {}\n# {name} = {}\n", key.doc, key.default)
    });
    text
}

fn sections(resolved: &Resolved, text: &mut String, line: impl Fn(&crate::config::Key) -> String) {
    let mut section = "";
    for key in &resolved.keys {
        let of_key = key.name.rsplit_once('.').map_or("", |(section, _)| section);
        if of_key != section {
            section = of_key;
            let _ = writeln!(text, "\n[{section}]");
        }
        text.push_str(&line(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_what_the_program_prints() {
        let printed = example(&Resolved::defaults());
        let committed = include_str!("../../config/exportgate.example.toml");
        assert_eq!(printed, committed, "regenerate it with `exportgate check --example`");
    }
}
