//! The comments and string literals of a Rust file, as text.
//!
//! The token reader drops comments, so this one reads characters. It knows where comments and literals begin and end, and
//! nothing else of the language.

/// A piece of prose and the line it begins on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prose {
    /// Without the marks of the comment and without quotes.
    pub text: String,
    /// The line.
    pub line: usize,
}

/// Every comment and every string literal, in their order. Lines of one comment are joined.
pub(super) fn prose(source: &str) -> Vec<Prose> {
    let mut reader = Reader { rest: source, line: 1, found: Vec::new(), previous: ' ' };
    while reader.step() {}
    join(reader.found)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<(bool, Prose)>,
    previous: char,
}

impl<'a> Reader<'a> {
    /// Reads one comment, literal or character; false at the end.
    fn step(&mut self) -> bool {
        let rest = self.rest;
        if rest.starts_with("//") {
            let text = self.take(rest.find('\n').unwrap_or(rest.len()));
            self.push(true, text.trim_start_matches(['/', '!']), self.line);
        } else if rest.starts_with("/*") {
            let line = self.line;
            let text = self.take(rest.find("*/").map_or(rest.len(), |end| end + 2));
            self.push(true, text.trim_start_matches(['/', '*', '!']).trim_end_matches(['/', '*']), line);
        } else if let Some(hashes) = raw_string(rest).filter(|_| !is_word(self.previous)) {
            let line = self.line;
            self.take(rest.find('"').unwrap_or_default() + 1);
            let end = format!("\"{}", "#".repeat(hashes));
            let text = self.take(self.rest.find(&end).unwrap_or(self.rest.len()));
            self.push(false, text, line);
            self.take(end.len());
        } else if rest.starts_with('"') {
            self.take(1);
            let line = self.line;
            let text = self.take(end_of_string(self.rest));
            self.push(false, text, line);
            self.take(1);
        } else if let Some(length) = character(rest) {
            self.take(length);
        } else {
            let length = rest.chars().next().map_or(0, char::len_utf8);
            self.take(length);
        }
        !self.rest.is_empty()
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.line += taken.matches('\n').count();
        self.previous = taken.chars().next_back().unwrap_or(self.previous);
        self.rest = rest;
        taken
    }

    fn push(&mut self, comment: bool, text: &str, line: usize) {
        self.found.push((comment, Prose { text: text.trim().to_owned(), line }));
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number of hashes of `r#"`, where a raw string begins.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br"))?;
    let unhashed = after.trim_start_matches('#');
    unhashed.starts_with('"').then(|| after.len() - unhashed.len())
}

/// Where the string ends that began before `rest`.
fn end_of_string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('\'')?;
    let first = after.chars().next()?;
    let length = if first == '\\' { 2 + after.get(2..)?.find('\'')? } else { first.len_utf8() };
    (after.get(length..)?.starts_with('\'')).then_some(length + 2)
}

/// Joins comments on consecutive lines, so that a sentence is not torn apart.
fn join(found: Vec<(bool, Prose)>) -> Vec<Prose> {
    let mut joined: Vec<(bool, usize, Prose)> = Vec::new();
    for (comment, prose) in found {
        match joined.last_mut() {
            Some((true, last, before)) if comment && prose.line == *last + 1 && !prose.text.is_empty() => {
                before.text = format!("{}\n{}", before.text, prose.text);
                *last = prose.line;
            }
            _ => joined.push((comment, prose.line, prose)),
        }
    }
    joined.into_iter().map(|(_, _, prose)| prose).filter(|prose| !prose.text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<(usize, String)> {
        prose(source).into_iter().map(|prose| (prose.line, prose.text)).collect()
    }

    #[test]
    fn comments_of_consecutive_lines_are_one_text() {
        let found = texts("//! One\n//! two.\n\nlet x = 1; // three\n// four\n/* five\nsix */");
        let expected = [(1, "One\ntwo."), (4, "three\nfour\nfive\nsix")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn strings_are_found_and_characters_are_none() {
        let found = texts("f(\"a \\\" b // c\", '\"', r#\"d \" e\"#, 'x, '\\'', \"f\")");
        let expected = ["a \\\" b // c", "d \" e", "f"];
        assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), expected);
    }
}
