//! The layout of the source is the architecture: imports go down the ranks, never up or sideways.

use std::path::{Path, PathBuf};

const RANKS: [&[&str]; 7] = [
    &["chain"],
    &["circuit", "clock", "expiry", "files", "hardening", "secret", "shutdown", "systemd"],
    &["route", "transport"],
    &["access", "cache", "credential", "journal", "listener", "telemetry", "upstream"],
    &["admin", "gateway"],
    &["config", "app"],
    &["cli"],
];

/// `config` fills the settings of every part and reads nothing else; `journal` asks `route` what an id is.
fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|modules| modules.contains(&module))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_go_down_the_ranks() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 40);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let module = below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["main", "lib"].contains(&module) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for used in text.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let names: Vec<String> = if name.is_empty() {
                let list = used.trim_start_matches('{').split('}').next().unwrap_or_default();
                list.split(',').map(|name| name.trim().to_owned()).collect()
            } else {
                vec![name]
            };
            for name in names.iter().filter(|name| *name != module && rank(name).is_some()) {
                seen += 1;
                let own = if module == "fake" { Some(0) } else { rank(module) };
                let is_app_of_config = module == "app" && name == "config";
                if own <= rank(name) && !is_app_of_config {
                    wrong.push(format!("{} uses {name}", below.display()));
                }
            }
        }
    }
    assert!(seen > 60, "{seen}");
    assert_eq!(wrong, Vec::<String>::new());
}
