//! Parses the bytes of one file into documents, valid and invalid.
//!
//! Pure: opens no file. An invalid document yields findings and no object. The module does not know a document's last
//! good version, which `merge` keeps.

use std::collections::HashMap;
use std::path::Path;

use crate::api::document::{self, Key, Object, ObjectKind};
use crate::api::finding::{Code, Finding};
use crate::api::structure::Issue;
use crate::api::yaml::{self, Chunk, Node};

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The line on which it begins.
    pub line: usize,
    /// Kind and name of its object, if they could be read.
    pub key: Option<Key>,
    /// The object, if the document is valid.
    pub object: Option<Object>,
    /// Its YAML, with the lines of its fields. `None`: it is not valid YAML, or it is a known document.
    pub node: Option<Node>,
}

/// The documents of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// All documents in order.
    pub documents: Vec<Document>,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
}

/// Valid documents by their text, so that an unchanged document is not checked again. Rules take a millisecond each,
/// and a file may contain thousands of tenants.
pub(crate) type Known = HashMap<String, (Key, Object)>;

/// Parses the bytes of a file. An error means that they are not UTF-8, so no document could be read.
pub fn load(file: &Path, bytes: &[u8]) -> Result<Documents, Box<Finding>> {
    let mut loaded = Documents::default();
    for chunk in yaml::split(text(file, bytes)?) {
        loaded.add(file, read(chunk));
    }
    Ok(loaded)
}

/// Parses like [`load`], but does not check the documents in `known`. Also returns the valid documents of this file.
pub(crate) fn reload(file: &Path, bytes: &[u8], known: &Known) -> Result<(Documents, Known), Box<Finding>> {
    let (mut loaded, mut now) = (Documents::default(), Known::new());
    for chunk in yaml::split(text(file, bytes)?) {
        let (document, issues) = match known.get(chunk.text).cloned() {
            Some((key, object)) => {
                (Document { line: chunk.line, key: Some(key), object: Some(object), node: None }, Vec::new())
            }
            None => read(chunk),
        };
        if let (Some(key), Some(object)) = (&document.key, &document.object) {
            now.insert(chunk.text.to_owned(), (key.clone(), object.clone()));
        }
        loaded.add(file, (document, issues));
    }
    Ok((loaded, now))
}

impl Documents {
    fn add(&mut self, file: &Path, (document, issues): (Document, Vec<Issue>)) {
        let object = document.key.as_ref().map(ToString::to_string);
        self.findings.extend(issues.into_iter().map(|issue| finding(file, object.clone(), issue)));
        self.documents.push(document);
    }
}

fn text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, Box<Finding>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Box::new(unreadable(file, line, "is not UTF-8 text"))
    })
}

/// The finding for a file that cannot be read. Line 0 means the whole file.
pub(crate) fn unreadable(file: &Path, line: usize, problem: &str) -> Finding {
    Finding {
        file: file.to_owned(),
        line,
        object: None,
        field: String::new(),
        code: Code::Unreadable,
        problem: problem.to_owned(),
        remedy: String::new(),
    }
}

fn read(chunk: Chunk<'_>) -> (Document, Vec<Issue>) {
    let bad = |key, node| Document { line: chunk.line, key, object: None, node };
    let node = match yaml::parse(chunk) {
        Ok(node) => node,
        Err(error) => return (bad(guess(chunk.text), None), vec![syntax(error)]),
    };
    let key = match document::identify(&node) {
        Ok(key) => key,
        Err(issue) => return (bad(None, Some(node)), vec![issue]),
    };
    match document::read(key.kind, &node) {
        Ok(object) => (Document { object: Some(object), ..bad(Some(key), Some(node)) }, Vec::new()),
        Err(issues) => (bad(Some(key), Some(node)), issues),
    }
}

fn syntax(error: yaml::SyntaxError) -> Issue {
    Issue { field: String::new(), line: error.line, code: Code::Syntax, problem: error.problem, remedy: String::new() }
}

fn finding(file: &Path, object: Option<String>, issue: Issue) -> Finding {
    let Issue { field, line, code, problem, remedy } = issue;
    Finding { file: file.to_owned(), line, object, field, code, problem, remedy }
}

/// Finds kind and name in the lines of a document that is not valid YAML. The result decides only which last good
/// version stays. It never grants anything.
fn guess(text: &str) -> Option<Key> {
    let kind = match text.lines().find_map(|line| line.strip_prefix("kind:"))?.trim().trim_matches(['"', '\'']) {
        "NetworkTenant" => ObjectKind::NetworkTenant,
        "Namespace" => ObjectKind::Namespace,
        "Endpoint" => ObjectKind::Endpoint,
        _ => return None,
    };
    let mut lines = text.lines().skip_while(|line| !line.starts_with("metadata:"));
    let first = lines.next()?.trim_start_matches("metadata:");
    let block: Vec<&str> = std::iter::once(first)
        .chain(lines.take_while(|line| line.starts_with([' ', '#']) || line.is_empty()))
        .collect();
    let field = |key: &str| {
        let mut words = block.iter().flat_map(|line| line.split(['{', '}', ',']));
        let value = words.find_map(|word| word.trim().strip_prefix(key)?.strip_prefix(':'))?;
        let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    let namespace = if kind == ObjectKind::Endpoint { field("namespace")? } else { String::new() };
    Some(Key { kind, namespace, name: field("name")? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loaded(text: &str) -> Documents {
        load(Path::new("tenants.yaml"), text.as_bytes()).expect("UTF-8")
    }

    const GOOD: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n";

    #[test]
    fn an_invalid_document_does_not_affect_the_others() {
        let text = format!(
            "{GOOD}---\napiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata:\n  name: acme\nspec:\n  namespaceSelector: {{matchLabels: {{a: b}}}}\n  subnets:\n  - {{name: a, cidr: 10.0.0.1/24}}\n---\nkind: [\n---\n{GOOD}",
        );
        let loaded = loaded(&text);
        let good: Vec<bool> = loaded.documents.iter().map(|document| document.object.is_some()).collect();
        assert_eq!(good, [true, false, false, true]);
        let found: Vec<_> = loaded.findings.iter().map(|f| (f.line, f.code, f.field.as_str())).collect();
        assert_eq!(found[0], (12, Code::Rule, "spec.subnets[0].cidr"));
        assert_eq!(found[1].1, Code::Syntax);
        assert!(found[1].0 >= 14, "{found:?}");
        assert_eq!(loaded.findings[0].object.as_deref(), Some("NetworkTenant/acme"));
    }

    #[test]
    fn a_document_with_invalid_yaml_has_the_name_that_its_lines_state() {
        let name = |text: &str| loaded(text).documents[0].key.as_ref().map(ToString::to_string);
        let broken = "spec: [unclosed\n";
        assert_eq!(
            name(&format!("kind: NetworkTenant\nmetadata: {{name: acme}}\n{broken}")),
            Some("NetworkTenant/acme".into())
        );
        assert_eq!(
            name(&format!("kind: Endpoint\nmetadata:\n  # who\n  namespace: web\n  name: \"a\" # note\n{broken}")),
            Some("Endpoint/web/a".into())
        );
        assert_eq!(name(&format!("kind: Endpoint\nmetadata:\n  name: a\n{broken}")), None);
        assert_eq!(name(&format!("metadata: {{name: acme}}\n{broken}")), None);
        assert_eq!(name(&format!("kind: NetworkTenant\nmetadata:\nname: acme\n{broken}")), None);
    }

    #[test]
    fn text_in_another_encoding_is_reported_with_its_line() {
        let finding = load(Path::new("a.yaml"), b"a: 1\nb: \xff\n").expect_err("not UTF-8");
        assert_eq!((finding.line, finding.code), (2, Code::Unreadable));
    }

    #[test]
    fn a_known_document_is_not_checked_again_and_gives_the_same_object() {
        let text = format!("{GOOD}---\n{}---\nkind: [\n", GOOD.replace("web", "db"));
        let (first, known) = reload(Path::new("a.yaml"), text.as_bytes(), &Known::new()).expect("UTF-8");
        assert_eq!(known.len(), 2, "invalid documents are checked every time");
        let (again, _) =
            reload(Path::new("a.yaml"), format!("# moved\n---\n{text}").as_bytes(), &known).expect("UTF-8");
        let objects = |loaded: &Documents| loaded.documents.iter().map(|d| d.object.clone()).collect::<Vec<_>>();
        assert_eq!(objects(&first), objects(&again));
        assert_eq!(again.findings[0].line, first.findings[0].line + 2);
    }

    #[test]
    fn an_empty_file_has_no_documents() {
        assert_eq!(loaded("# nothing yet\n"), Documents::default());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "(kind: NetworkTenant\n|metadata:|\\{name: |---\n|\\PC|\n){0,40}") {
            let _ = load(Path::new("x"), &bytes);
            let _ = load(Path::new("x"), text.as_bytes());
        }
    }
}
