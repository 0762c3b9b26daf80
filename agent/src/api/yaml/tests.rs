//! Splitting a file into documents, and the lines of their values.

use proptest::prelude::*;

use super::*;

fn lines(text: &str) -> Vec<usize> {
    split(text).into_iter().map(|chunk| chunk.line).collect()
}

fn only(text: &str) -> Node {
    let chunks = split(text);
    assert_eq!(chunks.len(), 1, "{chunks:?}");
    parse(chunks[0]).expect("valid")
}

#[test]
fn a_file_is_split_at_its_markers_and_empty_documents_are_left_out() {
    assert_eq!(lines(""), Vec::<usize>::new());
    assert_eq!(lines("---\n---\n# nothing\n---\n"), Vec::<usize>::new());
    assert_eq!(lines("a: 1\n---\nb: 2\n"), [1, 2]);
    assert_eq!(lines("# head\n---\na: 1\n---\n\n---\nb: 2\n...\nc: 3\n"), [2, 6, 9]);
    assert_eq!(lines("\u{feff}a: 1\r\n---\r\nb: 2\r\n"), [1, 2]);
    assert_eq!(lines("--- {a: 1}\n--- {b: 2}"), [1, 2]);
}

#[test]
fn dashes_that_are_no_marker_do_not_split() {
    assert_eq!(lines("a: |\n  ---\n  b\n----\n"), [1]);
    assert_eq!(lines("a: ---b\n---c: 1\n"), [1]);
}

#[test]
fn lines_are_those_of_the_file_in_every_document() {
    let text = "# comment\na: 1\n---\n# more\n\nspec:\n  list:\n  - x: 1\n    y: 2\n  - x: 3\n";
    let chunks = split(text);
    let node = parse(chunks[1]).expect("valid");
    assert_eq!(node.line_of("spec"), 6);
    assert_eq!(node.line_of("spec.list"), 7);
    assert_eq!(node.line_of("spec.list[0].y"), 9);
    assert_eq!(node.line_of("spec.list[1].x"), 10);
    assert_eq!(node.line_of("spec.list[1].missing"), 10, "the deepest part that exists");
    assert_eq!(node.line_of("spec.list[9].x"), 7);
}

#[test]
fn a_syntax_error_has_its_line_in_the_file() {
    let text = "a: 1\n---\nb: 2\nc: [1, 2\nd: 3\n---\ne: 5\n";
    let chunks = split(text);
    assert!(parse(chunks[0]).is_ok() && parse(chunks[2]).is_ok(), "only its own document is affected");
    let error = parse(chunks[1]).expect_err("unclosed");
    assert!((4..=5).contains(&error.line), "{error:?}");
    assert!(!error.problem.contains('\n'), "{error:?}");
}

#[test]
fn the_same_key_twice_is_an_error_at_the_second() {
    let chunks = split("---\na: 1\nb: 2\na: 3\n");
    let error = parse(chunks[0]).expect_err("duplicate");
    assert_eq!(error.line, 4, "{error:?}");
}

#[test]
fn scalars_have_the_types_that_kubectl_gives_them() {
    let node = only("s: text\nq: \"1\"\ni: 5432\nb: true\nn: null\ne:\nt: 2027-01-31T00:00:00Z\nc: 10.0.0.0/8\n");
    let json = node.to_json();
    assert_eq!(
        json,
        serde_json::json!({"s": "text", "q": "1", "i": 5432, "b": true, "t": "2027-01-31T00:00:00Z", "c": "10.0.0.0/8"})
    );
    assert_eq!(node.get("n").map(|n| &n.value), Some(&YamlValue::Null), "a null differs from an absent key");
}

#[test]
fn aliases_expand_and_bombs_do_not() {
    assert_eq!(only("a: &x {k: 1}\nb: *x\n").to_json(), serde_json::json!({"a": {"k": 1}, "b": {"k": 1}}));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    assert!(parse(split(&bomb)[0]).is_err());
    let deep = "[".repeat(100_000);
    assert!(parse(Chunk { line: 1, text: &deep }).is_err());
}

proptest! {
    #[test]
    fn no_text_panics_and_nothing_is_lost_between_documents(text in "(\\PC|\n|---\n|- |: |\\.\\.\\.\n){0,60}") {
        let chunks = split(&text);
        for chunk in &chunks {
            prop_assert!(chunk.line >= 1 && chunk.line <= text.lines().count());
            let _ = parse(*chunk);
        }
        let kept: usize = chunks.iter().map(|chunk| chunk.text.len()).sum();
        prop_assert!(kept <= text.len());
    }
}
