//! Circles between the files of one crate.
//!
//! A file depends on the file that defines what it names; a re-export is followed to its origin. A module may use what its
//! ancestors define, because a module and its submodules are read as one: such an arrow is not counted.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Named, Source, module_of};

/// How many re-exports are followed before a name is taken for the last file's own.
const HOPS: usize = 8;

/// The groups of files of this crate that depend on each other, each in alphabetical order.
pub(super) fn circles(sources: &[&Source]) -> Vec<Vec<String>> {
    let files = Files::new(sources);
    let arrows: Vec<BTreeSet<usize>> = (0..sources.len()).map(|from| files.arrows(from)).collect();
    let reach: Vec<BTreeSet<usize>> = (0..sources.len()).map(|from| reachable(from, &arrows)).collect();
    let mut circles = BTreeSet::new();
    for (from, beyond) in reach.iter().enumerate() {
        if beyond.contains(&from) {
            let members: Vec<usize> = beyond.iter().copied().filter(|to| reach[*to].contains(&from)).collect();
            circles.insert(members);
        }
    }
    let name = |at: usize| sources[at].file.clone();
    circles.into_iter().map(|members| members.into_iter().map(name).collect()).collect()
}

/// Everything behind the arrows of `from`.
fn reachable(from: usize, arrows: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<usize> = arrows[from].iter().copied().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(&arrows[next]);
        }
    }
    reached
}

/// The files of a crate by their module paths, and what each brings into scope.
struct Files<'a> {
    sources: &'a [&'a Source],
    modules: BTreeMap<Vec<&'a str>, usize>,
    imports: Vec<BTreeMap<&'a str, &'a Named>>,
}

impl<'a> Files<'a> {
    fn new(sources: &'a [&'a Source]) -> Self {
        let modules = sources.iter().enumerate().map(|(at, source)| (module_of(&source.file), at)).collect();
        let last = |named: &'a Named| (named.path.rsplit("::").next().unwrap_or(&named.path), named);
        let imports = |source: &&'a Source| source.paths.iter().filter(|named| named.imported).map(last).collect();
        Self { sources, modules, imports: sources.iter().map(imports).collect() }
    }

    /// The files that one depends on, without itself and its ancestors.
    fn arrows(&self, from: usize) -> BTreeSet<usize> {
        let own = module_of(&self.sources[from].file);
        let targets = self.sources[from].paths.iter().filter_map(|named| self.target(from, &named.path, HOPS));
        targets.filter(|to| !own.starts_with(&module_of(&self.sources[*to].file))).collect()
    }

    /// The file that defines what `path` means in the file `from`.
    fn target(&self, from: usize, path: &str, hops: usize) -> Option<usize> {
        let mut parts: Vec<&str> = path.split("::").collect();
        if parts[0] == "crate" {
            parts.remove(0);
        } else {
            let own = module_of(&self.sources[from].file);
            let child: Vec<&str> = own.iter().copied().chain([parts[0]]).collect();
            if self.modules.contains_key(&child) {
                parts.splice(0..0, own);
            } else {
                let import = self.imports[from].get(parts[0]).filter(|import| import.path != path && hops > 0)?;
                let whole = [&[import.path.as_str()], &parts[1..]].concat().join("::");
                return self.target(from, &whole, hops - 1);
            }
        }
        let (depth, at) =
            (0..=parts.len()).rev().find_map(|depth| self.modules.get(&parts[..depth]).map(|at| (depth, *at)))?;
        // The file may only pass the name on.
        let origin = parts.get(depth).and_then(|name| self.imports[at].get(name)).filter(|_| hops > 0);
        origin.and_then(|origin| self.target(at, &origin.path, hops - 1)).or(Some(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let parse = |(file, text): &(&str, &str)| Source::parse(file, text).expect("valid tokens");
        let sources: Vec<Source> = files.iter().map(parse).collect();
        circles(&sources.iter().collect::<Vec<_>>())
    }

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let found = circles_of(&[
            ("a/src/lib.rs", "pub mod x; pub mod y; pub mod z;"),
            ("a/src/x.rs", "use crate::y::Y;"),
            ("a/src/y.rs", "use crate::z::Z; pub struct Y;"),
            ("a/src/z.rs", "fn f() -> super::x::X {}"),
        ]);
        assert_eq!(found, [["a/src/x.rs", "a/src/y.rs", "a/src/z.rs"]]);
    }

    #[test]
    fn a_re_export_leads_to_its_origin_and_ancestors_are_not_counted() {
        let lib = ("a/src/lib.rs", "mod m;");
        let parent = ("a/src/m.rs", "mod x; mod y; pub use x::X; pub struct M; fn f() { y::g() }");
        let x = ("a/src/m/x.rs", "use super::{M, y::Y}; pub struct X;");
        assert_eq!(circles_of(&[lib, parent, x, ("a/src/m/y.rs", "use super::M;")]), Vec::<Vec<String>>::new());
        let y = ("a/src/m/y.rs", "use super::X; pub struct Y;");
        assert_eq!(circles_of(&[lib, parent, x, y]), [["a/src/m/x.rs", "a/src/m/y.rs"]]);
    }

    #[test]
    fn a_module_that_was_imported_is_followed() {
        let found = circles_of(&[
            ("a/src/x.rs", "use crate::y; fn f() { y::g() }"),
            ("a/src/y.rs", "fn g() { crate::x::f() }"),
        ]);
        assert_eq!(found, [["a/src/x.rs", "a/src/y.rs"]]);
    }
}
