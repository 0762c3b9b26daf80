//! A source file as the paths, identifiers and types it names, and the places where it says `unsafe`.
//!
//! Works on tokens, not on a syntax tree: a path is a path, be it in an import, an expression or inside a macro. Paths
//! and types that only tests compile are left out; identifiers are not.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// One file, read.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Its path from the top of the repository.
    pub file: String,
    /// Only tests compile it.
    pub is_test: bool,
    /// Every path it names outside tests.
    pub paths: Vec<Named>,
    /// The types it defines outside tests, associated types excepted, with their lines.
    pub types: Vec<(String, usize)>,
    /// Each identifier, tests included, with the first line that has it.
    pub identifiers: BTreeMap<String, usize>,
    /// The modules that it declares for tests only, by name.
    pub test_modules: Vec<String>,
    /// The lines with `unsafe`, tests included.
    pub unsafe_lines: Vec<usize>,
}

/// A path such as `std::time::Instant` or `crate::model::*`, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// With `super` and `self` at its front resolved.
    pub path: String,
    /// The line it begins on.
    pub line: usize,
    /// It is part of an import.
    pub imported: bool,
}

impl Source {
    /// Reads the file's tokens.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self> {
        let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
        let mut source = Self { file: file.to_owned(), is_test: is_test_file(file), ..Self::default() };
        source.find_unsafe(tokens.clone());
        source.find_identifiers(tokens.clone());
        if !source.is_test {
            source.find_types(tokens.clone(), false);
            let mut paths = Vec::new();
            walk(tokens, &mut paths);
            source.paths = paths.into_iter().map(|named| resolve(file, named)).collect();
        }
        Ok(source)
    }

    /// Forgets what does not count in a file that only tests compile.
    pub(super) fn mark_as_test(&mut self) {
        self.is_test = true;
        self.paths.clear();
        self.types.clear();
    }

    fn find_identifiers(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    let line = word.span().start().line;
                    self.identifiers.entry(word.to_string()).or_insert(line);
                }
                TokenTree::Group(group) => self.find_identifiers(group.stream()),
                _ => {}
            }
        }
    }

    /// Collects what `struct`, `enum`, `union`, `trait` and `type` define. Inside `impl` and `trait`, a `type` is associated.
    fn find_types(&mut self, tokens: TokenStream, associated: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut opens_an_impl = false;
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let next = attribute(&tokens, at + 1, &mut Vec::new());
                    self.find_test_module(&tokens[at..next]);
                    at = next;
                    continue;
                }
                TokenTree::Punct(mark) if mark.as_char() == ';' => opens_an_impl = false,
                TokenTree::Ident(word) => {
                    let keyword = word.to_string();
                    let defines = match keyword.as_str() {
                        "struct" | "enum" | "union" | "trait" => true,
                        "type" => !associated,
                        _ => false,
                    };
                    opens_an_impl |= keyword == "impl" || keyword == "trait";
                    if let (true, Some(TokenTree::Ident(name))) = (defines, tokens.get(at + 1)) {
                        self.types.push((name.to_string(), name.span().start().line));
                    }
                }
                TokenTree::Group(group) => {
                    let is_body = opens_an_impl && group.delimiter() == Delimiter::Brace;
                    opens_an_impl &= !is_body;
                    self.find_types(group.stream(), is_body);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Notes `#[cfg(test)] mod name;`: the file of that name is for tests only.
    fn find_test_module(&mut self, item: &[TokenTree]) {
        if let [.., TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Punct(end)] = item
            && keyword == "mod"
            && end.as_char() == ';'
        {
            self.test_modules.push(name.to_string());
        }
    }

    /// Collects `unsafe` wherever it stands, except in attributes: `#[unsafe(no_mangle)]` is not a block.
    fn find_unsafe(&mut self, tokens: TokenStream) {
        let mut in_attribute = false;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "unsafe" => self.unsafe_lines.push(word.span().start().line),
                TokenTree::Group(group) if !in_attribute => self.find_unsafe(group.stream()),
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    in_attribute = true;
                    continue;
                }
                TokenTree::Punct(mark) if mark.as_char() == '!' && in_attribute => continue,
                _ => {}
            }
            in_attribute = false;
        }
    }
}

/// A module of its own that only tests compile.
fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs")
        || file.ends_with("_tests.rs")
        || file.split('/').skip(1).any(|part| part == "tests" || part == "benches")
}

/// Collects the paths of a token stream, without items that only tests or a feature compile.
fn walk(tokens: TokenStream, paths: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    let mut importing = false;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Punct(mark) if mark.as_char() == '#' => at = attribute(&tokens, at + 1, paths),
            TokenTree::Punct(mark) => {
                importing &= mark.as_char() != ';';
                at += 1;
            }
            // What follows is a new name, not a path.
            TokenTree::Ident(word) if word == "as" && importing => at += 2,
            TokenTree::Ident(word) if word == "use" || word == "extern" => {
                importing = true;
                at += 1;
            }
            TokenTree::Ident(_) => at = path(&tokens, at, "", importing, paths),
            TokenTree::Group(group) => {
                inside(group, importing, paths);
                at += 1;
            }
            TokenTree::Literal(_) => at += 1,
        }
    }
}

/// A group that is not part of a path: `use {a, b}` lists paths, anything else is code.
fn inside(group: &Group, importing: bool, paths: &mut Vec<Named>) {
    if importing && group.delimiter() == Delimiter::Brace {
        branches(group, "", paths);
    } else {
        walk(group.stream(), paths);
    }
}

/// Skips an attribute, and with it the item behind it if only tests or a feature compile that.
fn attribute(tokens: &[TokenTree], mut at: usize, paths: &mut Vec<Named>) -> usize {
    let inner = matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
    at += usize::from(inner);
    let Some(TokenTree::Group(group)) = tokens.get(at) else {
        return at;
    };
    at += 1;
    if !is_conditional(&group.stream().to_string()) {
        walk(group.stream(), paths);
        return at;
    }
    if inner {
        return tokens.len();
    }
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ';' => break,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
            _ => {}
        }
    }
    at
}

/// `cfg(test)`, `cfg(feature = "user")`, and what needs one of them.
fn is_conditional(attribute: &str) -> bool {
    let compact: String = attribute.chars().filter(|c| !c.is_whitespace()).collect();
    ["cfg(test)", "cfg(all(test,", "cfg(any(test,", "cfg(feature=\"user\")"].iter().any(|cfg| compact.starts_with(cfg))
}

/// Reads one path from `at` on and returns where it ends. A lone word is a path only in an import.
fn path(tokens: &[TokenTree], mut at: usize, prefix: &str, importing: bool, paths: &mut Vec<Named>) -> usize {
    let line = tokens[at].span().start().line;
    let mut path = format!("{prefix}{}", tokens[at]);
    at += 1;
    while is_separator(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(word)) => path = format!("{path}::{word}"),
            Some(TokenTree::Punct(mark)) if mark.as_char() == '*' => path.push_str("::*"),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                branches(group, &format!("{path}::"), paths);
                return at + 3;
            }
            // A turbofish or a macro's own syntax: the path ends here.
            _ => break,
        }
        at += 3;
    }
    if importing || path.contains("::") {
        paths.push(Named { path, line, imported: importing });
    }
    at
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// The paths of `prefix{a, b::c, d as e, *}`.
fn branches(group: &Group, prefix: &str, paths: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "as" => at += 2,
            TokenTree::Ident(word) if word == "self" && !is_separator(&tokens, at + 1) => {
                let path = prefix.trim_end_matches("::").to_owned();
                paths.push(Named { path, line: word.span().start().line, imported: true });
                at += 1;
            }
            TokenTree::Ident(_) => at = path(&tokens, at, prefix, true, paths),
            TokenTree::Punct(mark) if mark.as_char() == '*' => {
                paths.push(Named { path: format!("{prefix}*"), line: mark.span().start().line, imported: true });
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// Writes `super::` and `self::` as what they mean in this file.
fn resolve(file: &str, named: Named) -> Named {
    let mut module = module_of(file);
    let mut rest = named.path.as_str();
    if let Some(own) = rest.strip_prefix("self::") {
        rest = own;
    } else if !rest.starts_with("super::") {
        return named;
    }
    while let Some(up) = rest.strip_prefix("super::") {
        module.pop();
        rest = up;
    }
    module.push(rest);
    Named { path: format!("crate::{}", module.join("::")), ..named }
}

/// `["model", "cluster"]` for `agent/src/model/cluster.rs`. A directory below `src/bin` is the top of its own crate.
pub(super) fn module_of(file: &str) -> Vec<&str> {
    let (_, inside) = file.split_once("src/").unwrap_or(("", file));
    let binary = inside.strip_prefix("bin/").and_then(|rest| rest.split_once('/'));
    let inside = binary.map_or(inside, |(_, inside)| inside);
    let mut parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    parts.pop_if(|last| matches!(*last, "lib" | "main" | "mod"));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let source = Source::parse("agent/src/model/cluster.rs", text).expect("valid tokens");
        source.paths.into_iter().map(|named| named.path).collect()
    }

    #[test]
    fn imports_are_unfolded() {
        let found = paths("use std::{env, net::{IpAddr, self}, time as t};");
        assert_eq!(found, ["std::env", "std::net::IpAddr", "std::net", "std::time"]);
        assert_eq!(paths("pub use {kube::Client, aya};"), ["kube::Client", "aya"]);
        assert_eq!(paths("use tokio::*; extern crate kube as k;"), ["tokio::*", "crate", "kube"]);
    }

    #[test]
    fn paths_are_found_in_code_and_in_macros() {
        assert_eq!(paths("fn now() { let t = std::time::Instant::now(); }"), ["std::time::Instant::now"]);
        assert_eq!(paths("fn f() { info!(\"{}\", std::env::var(X)); }"), ["std::env::var"]);
        assert_eq!(paths("#[derive(serde::Serialize)] struct A;"), ["serde::Serialize"]);
        assert_eq!(paths("fn f(a: Vec<kube::Client>) {}"), ["kube::Client"]);
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(paths("// std::env\n/// kube::Client\nconst A: &str = \"aya::Ebpf\";"), Vec::<String>::new());
    }

    #[test]
    fn what_only_tests_compile_is_left_out() {
        assert_eq!(paths("#[cfg(test)] mod tests { use kube::Client; } use aya::Ebpf;"), ["aya::Ebpf"]);
        assert_eq!(paths("#[cfg(test)] use kube::Client; use aya::Ebpf;"), ["aya::Ebpf"]);
        assert_eq!(paths("#[cfg(feature = \"user\")] unsafe impl aya::Pod for A {} use b::C;"), ["b::C"]);
        assert_eq!(paths("#[cfg(not(test))] use kube::Client;"), ["kube::Client"]);
        assert!(Source::parse("agent/src/model/tests.rs", "use kube::A;").expect("tokens").paths.is_empty());
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(paths("use super::super::dataplane::Map;"), ["crate::dataplane::Map"]);
        assert_eq!(paths("use super::grants::Grant;"), ["crate::model::grants::Grant"]);
        assert_eq!(paths("use self::inner::A;"), ["crate::model::cluster::inner::A"]);
    }

    #[test]
    fn types_are_found_outside_tests_and_associated_ones_are_not() {
        let text = "pub struct A; enum B {} trait C { type D; } impl C for A { type D = u8; fn f() { struct E; } }\n\
                    type F = u8; #[cfg(test)] mod tests { struct G; } fn f(x: impl C) -> u8 { type H = u8; 0 }";
        let source = Source::parse("agent/src/run.rs", text).expect("valid tokens");
        let names: Vec<&str> = source.types.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "B", "C", "E", "F", "H"]);
    }

    #[test]
    fn modules_for_tests_are_known_by_name() {
        let text = "#[cfg(test)]\npub mod testing;\nmod other;\n#[cfg(test)] mod tests { fn f() {} }";
        assert_eq!(Source::parse("agent/src/model.rs", text).expect("valid tokens").test_modules, ["testing"]);
    }

    #[test]
    fn unsafe_is_found_by_line_but_not_in_attributes() {
        let text =
            "#![forbid(unsafe_code)]\n#[unsafe(no_mangle)]\nfn f() {\n  unsafe { g() }\n}\nunsafe impl A for B {}\n";
        let source = Source::parse("agent/src/run.rs", text).expect("valid tokens");
        assert_eq!(source.unsafe_lines, [4, 6]);
    }
}
