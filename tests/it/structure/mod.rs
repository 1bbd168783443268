//! The layout of the source is the architecture: imports go down the ranks, never up or sideways.

mod source;

use std::path::{Path, PathBuf};

const RANKS: [&[&str]; 9] = [
    &["chain"],
    &["circuit", "clock", "expiry", "files", "hardening", "secret", "shutdown", "systemd"],
    &["export", "transport"],
    &["route"],
    &["access", "cache", "credential", "journal", "listener", "telemetry", "upstream"],
    &["retrieval"],
    &["admin", "gateway"],
    &["config", "app"],
    &["cli"],
];

/// `config` fills the settings of every part and reads nothing else; `journal` asks `export` what an id is.
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

/// The figures of the source, printed: `cargo test --test it structure -- --nocapture`.
#[test]
fn sizes() {
    let all = source::files();
    let files: Vec<&source::File> = all.iter().filter(|file| file.part() != "fake").collect();
    let mut lines: Vec<usize> = files.iter().map(|file| file.lines).collect();
    let mut functions: Vec<(usize, String)> = files
        .iter()
        .flat_map(|file| file.functions.iter().map(|f| (f.lines, format!("{} {}", file.path, f.name))))
        .collect();
    lines.sort_unstable();
    functions.sort_unstable();
    let code: usize = files.iter().map(|file| file.code).sum();
    let tuples: usize = files.iter().flat_map(|file| &file.functions).map(|f| f.tuples).sum();
    let docs: Vec<&String> = files.iter().flat_map(|file| &file.doc_openings).collect();
    let clauses =
        docs.iter().filter(|word| ["What", "How", "Whether", "Where", "Who", "Whom", "Whose"].contains(&word.as_str())).count();
    let inner: usize = files.iter().map(|file| file.inner_comments).sum();
    let clock: usize = files.iter().filter(|file| file.part() != "clock").map(|file| file.clock_reads).sum();
    let mut types = std::collections::BTreeMap::<&str, usize>::new();
    for name in files.iter().flat_map(|file| &file.types) {
        *types.entry(name).or_default() += 1;
    }
    let twice: Vec<_> = types.iter().filter(|(_, count)| **count > 1).collect();
    println!("{code} lines of code in {} files", files.len());
    println!("files: median {}, p90 {}, longest {}", at(&lines, 50), at(&lines, 90), at(&lines, 100));
    let long = |most: usize| files.iter().filter(|file| file.lines > most).map(|file| format!("{} {}", file.lines, file.path)).collect::<Vec<_>>();
    println!("over 400: {:?}", long(400));
    let of: Vec<usize> = functions.iter().map(|(lines, _)| *lines).collect();
    println!("functions: {}, median {}, p90 {}, longest {}", of.len(), at(&of, 50), at(&of, 90), at(&of, 100));
    println!("over 70: {:?}", functions.iter().filter(|(lines, _)| *lines > 70).collect::<Vec<_>>());
    println!("tuples as parameters: {tuples}; doc lines {}, of which clauses {clauses}; comments in functions {inner}; clock reads elsewhere {clock}", docs.len());
    println!("names of several types: {twice:?}");
}

fn at(sorted: &[usize], percent: usize) -> usize {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
