//! Markdown: the head of a generated page, sections and tables.
//!
//! Knows nothing of the facts. Every cell is escaped here and nowhere else.

use std::fmt::Write as _;

use serde_json::Value;

/// A page under construction.
pub(super) struct Page(String);

impl Page {
    /// Begins with the title and one paragraph.
    pub(super) fn new(title: &str, introduction: &str) -> Self {
        let note = "<!-- Generated from the code by `cargo xtask docs`. Do not edit. -->";
        Self(format!("{note}\n\n# {title}\n\n{introduction}\n"))
    }

    /// Begins a section; nothing stands under an empty `text`.
    pub(super) fn section(&mut self, title: &str, text: &str) {
        let _ = write!(self.0, "\n## {title}\n");
        if !text.is_empty() {
            let _ = write!(self.0, "\n{}\n", one_line(text));
        }
    }

    /// Adds a table. Columns whose cells are all empty are left out.
    pub(super) fn table<const N: usize>(&mut self, columns: [&str; N], rows: &[[String; N]]) {
        let is_used = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
        let used: Vec<usize> = (0..N).filter(is_used).collect();
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        self.0.push('\n');
        self.0 += &line(used.iter().map(|column| columns[*column]).collect());
        self.0 += &format!("|{}\n", "---|".repeat(used.len()));
        for row in rows {
            let cells: Vec<String> = used.iter().map(|column| one_line(&row[*column]).replace('|', "\\|")).collect();
            self.0 += &line(cells.iter().map(String::as_str).collect());
        }
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// The text of a field; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The items of a field; none where there is none.
pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The text as code; empty where it is empty.
pub(super) fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// A number with a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A bare scalar as it is written in YAML.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_and_unused_columns_are_left_out() {
        let mut page = Page::new("Title", "Text.");
        page.table(["a", "b", "c"], &[["x|y".into(), String::new(), "two\nlines".into()]]);
        assert!(page.finish().ends_with("\n| a | c |\n|---|---|\n| x\\|y | two lines |\n"));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 131_072].map(grouped), ["0", "999", "1,000", "131,072"]);
    }
}
