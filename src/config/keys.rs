//! The keys, each declared once in `config/exportgate.example.toml`: name, default, comment, and `[restart]` where a change
//! takes effect after a restart only. Bounds stand where a key is read.

use std::collections::HashMap;
use std::sync::LazyLock;

pub(crate) const EXAMPLE: &str = include_str!("../../config/exportgate.example.toml");

const RESTART: &str = " [restart]";

/// The declaration of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declaration {
    /// As TOML writes it.
    pub(super) default: &'static str,
    /// One line for people.
    pub(super) comment: &'static str,
    pub(super) needs_restart: bool,
}

static DECLARED: LazyLock<HashMap<String, Declaration>> = LazyLock::new(|| {
    let (mut declared, mut section, mut comment) = (HashMap::new(), String::new(), "");
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let Some(line) = line.strip_prefix("# ") else { continue };
        let key = line.split_once(" = ").filter(|(name, _)| is_name(name));
        if let Some((name, default)) = key {
            let needs_restart = comment.ends_with(RESTART);
            let comment = comment.strip_suffix(RESTART).unwrap_or(comment);
            declared.insert(format!("{section}{name}"), Declaration { default, comment, needs_restart });
        }
        comment = line;
    }
    declared
});

/// The default of a key of a client, which is in a file of its own.
fn client_default(name: &str) -> &'static str {
    match name {
        "operations" => r#"["read"]"#,
        "requests_per_minute" | "concurrent_requests" => "0",
        "share" => "1",
        "wait_unasked" => r#""0s""#,
        _ => "[]",
    }
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The declaration of `key`. All tables `[credentials.…]` are declared as `[credentials.NAME]`, and those
/// of `[exports.…]` as `[exports.NAME]`.
pub(super) fn declaration(key: &str) -> Option<Declaration> {
    let named = |tables: &str| Some(key.strip_prefix(tables)?.split_once('.')?.1);
    if let Some(name) = named("clients.") {
        return Some(Declaration { default: client_default(name), comment: "", needs_restart: false });
    }
    let of_export = named("exports.");
    if of_export.is_some_and(|name| name.starts_with("filters.")) {
        return Some(Declaration {
            default: "[]",
            comment: "Values of a filter of Snyk's.",
            needs_restart: false,
        });
    }
    let template = named("credentials.").map(|name| format!("credentials.NAME.{name}"));
    let template = template.or_else(|| of_export.map(|name| format!("exports.NAME.{name}")));
    DECLARED.get(template.as_deref().unwrap_or(key)).copied()
}

/// True if a change of `key` takes effect after a restart only.
pub(crate) fn needs_restart(key: &str) -> bool {
    declaration(key).is_some_and(|declared| declared.needs_restart)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::tests::defaults;

    #[test]
    fn every_key_that_is_declared_is_read_and_every_other_one_is_not() {
        let read: BTreeSet<String> = defaults().keys.into_iter().map(|key| key.name).collect();
        let declared: BTreeSet<String> = DECLARED.keys().cloned().collect();
        assert!(declared.len() > 100, "{}", declared.len());
        assert_eq!(read, declared);
        assert!(needs_restart("listen") && needs_restart("oidc.leeway") && !needs_restart("cache.max_age"));
    }

    #[test]
    fn the_example_is_valid_with_every_default_in_it() {
        let keys = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| is_name(name)) => rest,
            _ => line,
        });
        let text = keys.collect::<Vec<_>>().join("\n");
        toml::from_str::<toml::Table>(&text).expect("TOML in which no table stands twice");
    }
}
