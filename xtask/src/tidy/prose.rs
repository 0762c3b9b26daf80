//! Coined senses in comments, strings, Markdown and YAML comments.
//!
//! Reads what people read: code, quoted names and fenced examples are left out.

use super::{
    Finding, Rule, lexer,
    lexer::Prose,
    words::{Coined, PROSE, names_the_banned},
};

/// Every coined sense in this file.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    if names_the_banned(file) {
        return Vec::new();
    }
    let prose = match file.rsplit('.').next() {
        Some("rs") => lexer::prose(text),
        Some("md") => outside_fences(text),
        Some("yaml" | "yml" | "toml") => comments(text),
        _ => return Vec::new(),
    };
    prose.iter().flat_map(|prose| findings(file, prose)).collect()
}

fn findings(file: &str, prose: &Prose) -> Vec<Finding> {
    let text = unquoted(&prose.text).to_lowercase();
    let found = PROSE.iter().flat_map(|coined| uses(&text, coined).into_iter().map(move |at| (coined, at)));
    found
        .map(|(coined, at)| Finding {
            file: file.to_owned(),
            line: prose.line + text[..at].matches('\n').count(),
            message: format!("\"{}\" is a word of our own; write {}", coined.phrase, coined.instead),
            rule: Rule::Prose,
        })
        .collect()
}

/// Where the phrase stands in the text by itself.
fn uses(text: &str, coined: &Coined) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let stands_alone =
        |at: usize, length: usize| !text[..at].ends_with(is_word) && !text[at + length..].starts_with(is_word);
    let excepted = |at: usize| {
        coined
            .except
            .iter()
            .any(|phrase| text.match_indices(phrase).any(|(from, phrase)| from <= at && at < from + phrase.len()))
    };
    let uses = text.match_indices(coined.phrase).map(|(at, _)| at);
    uses.filter(|at| stands_alone(*at, coined.phrase.len()) && !excepted(*at)).collect()
}

/// The text with everything between backticks blanked, so that lines stay where they are.
fn unquoted(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    pieces
        .map(|(number, piece)| if number % 2 == 0 { piece.to_owned() } else { piece.replace(|c| c != '\n', " ") })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The lines of Markdown outside fences, joined by paragraph.
fn outside_fences(text: &str) -> Vec<Prose> {
    let mut found: Vec<Prose> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            open = false;
        } else if fenced || line.trim().is_empty() {
            open = false;
        } else if let (true, Some(last)) = (open, found.last_mut()) {
            last.text = format!("{}\n{line}", last.text);
        } else {
            found.push(Prose { text: line.to_owned(), line: number });
            open = true;
        }
    }
    found
}

/// What stands behind `#` in YAML and TOML.
fn comments(text: &str) -> Vec<Prose> {
    let comment = |(line, number): (&str, usize)| {
        let (_, text) = line.split_once("# ").or_else(|| line.split_once('#'))?;
        Some(Prose { text: text.to_owned(), line: number })
    };
    text.lines().zip(1..).filter_map(comment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(file, text).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn coined_senses_are_found_in_comments_and_strings() {
        assert_eq!(lines("a.rs", "//! The waist\n//! of it.\nfn f() {\n  g(\"nobody was told\");\n}\n"), [1, 4]);
        assert_eq!(lines("a.rs", "// It was\n// told.\nlet told = waist;\n"), [2]);
    }

    #[test]
    fn code_quotes_and_ordinary_english_are_left_out() {
        assert!(lines("a.md", "See `waist.rs`; it makes room for an odd number.\n\n```text\ntold\n```\n").is_empty());
        assert!(lines("a.rs", "// A broom, the understanding, `told`.\n").is_empty());
        assert_eq!(lines("a.md", "One.\n\nTwo\nrooms.\n"), [4]);
    }

    #[test]
    fn comments_of_yaml_are_read_and_values_are_not() {
        assert_eq!(lines("a.yaml", "key: told\nother: 1 # told\n"), [2]);
    }
}
