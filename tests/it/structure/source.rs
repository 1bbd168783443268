//! The source as it is measured: files, functions, types and imports, without tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// One file of `src`, without its tests.
pub(super) struct File {
    /// Its path below `src`.
    pub(super) path: String,
    /// Lines up to the tests.
    pub(super) lines: usize,
    /// Those that are neither blank nor comments.
    pub(super) code: usize,
    /// Lines that hold comments inside functions.
    pub(super) inner_comments: usize,
    /// The first words of doc comments.
    pub(super) doc_openings: Vec<String>,
    pub(super) functions: Vec<Function>,
    /// Names of types that are defined.
    pub(super) types: Vec<String>,
    /// Modules of this crate that are named, as paths (`cache::key`).
    pub(super) uses: BTreeSet<String>,
    /// Reads of a clock.
    pub(super) clock_reads: usize,
}

pub(super) struct Function {
    pub(super) name: String,
    pub(super) lines: usize,
    pub(super) parameters: usize,
    /// Parameters that are tuples.
    pub(super) tuples: usize,
}

impl File {
    pub(super) fn part(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }
}

/// All files, `fake` too.
pub(super) fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    paths.sort();
    paths.iter().map(|path| read(&src, path)).filter(|file| !is_test(&file.path)).collect()
}

fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(src: &Path, path: &Path) -> File {
    let whole = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = whole.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect();
    let text = lines.join("\n");
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let below = path.strip_prefix(src).unwrap().display().to_string();
    let mut seen = Seen::default();
    seen.visit_file(&parsed);
    let is_code = |line: &&&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let comment = |at: usize| lines.get(at).is_some_and(|line| is_plain_comment(line));
    let inside = |range: &(usize, usize)| (range.0..range.1).filter(|at| comment(*at)).count();
    let docs =
        lines.iter().filter_map(|line| line.trim().strip_prefix("///").or(line.trim().strip_prefix("//!")));
    File {
        lines: lines.len(),
        code: lines.iter().filter(is_code).count(),
        inner_comments: seen.bodies.iter().map(inside).sum(),
        doc_openings: docs.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect(),
        functions: seen.functions,
        types: seen.types,
        uses: seen.uses.into_iter().map(|path| resolved(&below, &path)).collect(),
        clock_reads: text.matches("Instant::now()").count() + text.matches("SystemTime::now()").count(),
        path: below,
    }
}

fn is_plain_comment(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("//") && !line.starts_with("///") && !line.starts_with("//!")
}

/// A path of an import as one from the root of the crate.
fn resolved(file: &str, path: &[String]) -> String {
    let mut at: Vec<&str> = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => {
            at.clear();
            rest = &path[1..];
        }
        Some("super") => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop();
                rest = &rest[1..];
            }
        }
        Some("self") => rest = &path[1..],
        // A child of this module, or another crate: the caller knows which modules there are.
        _ => {}
    }
    at.into_iter().map(str::to_owned).chain(rest.iter().cloned()).collect::<Vec<_>>().join("::")
}

#[derive(Default)]
struct Seen {
    functions: Vec<Function>,
    bodies: Vec<(usize, usize)>,
    types: Vec<String>,
    uses: Vec<Vec<String>>,
}

impl Seen {
    fn function(&mut self, signature: &syn::Signature, whole: proc_macro2::Span) {
        let is_tuple = |input: &&syn::FnArg| matches!(input, syn::FnArg::Typed(typed) if matches!(&*typed.ty, syn::Type::Tuple(tuple) if !tuple.elems.is_empty()));
        let lines = whole.end().line - signature.span().start().line + 1;
        self.bodies.push((signature.span().start().line, whole.end().line));
        self.functions.push(Function {
            name: signature.ident.to_string(),
            lines,
            parameters: signature.inputs.len(),
            tuples: signature.inputs.iter().filter(is_tuple).count(),
        });
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.uses.push(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.uses.push(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.uses.push(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, item.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, item.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.types.push(item.ident.to_string());
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.types.push(item.ident.to_string());
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.types.push(item.ident.to_string());
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.uses.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

/// The files that each file names, by their paths.
pub(super) fn imports(files: &[File]) -> BTreeMap<&str, BTreeSet<&str>> {
    let module = |path: &str| path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
    let by_module: BTreeMap<String, &str> =
        files.iter().map(|file| (module(&file.path), file.path.as_str())).collect();
    let target = |name: &str| {
        // The longest part of the path that is a module.
        let mut name = name;
        loop {
            if let Some(file) = by_module.get(name) {
                return Some(*file);
            }
            name = name.rsplit_once("::")?.0;
        }
    };
    let of = |file: &File| -> BTreeSet<&str> {
        let named = file.uses.iter().filter_map(|name| target(name));
        named.filter(|other| *other != file.path).collect()
    };
    files.iter().map(|file| (file.path.as_str(), of(file))).collect()
}
