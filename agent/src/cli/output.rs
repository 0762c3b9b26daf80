//! The form of results: aligned tables, colours on a terminal, and escaped names.
//!
//! Pure, except that [`ColorChoice::paint`] looks at stdout and at `NO_COLOR`. Knows no command.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a command ended: the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command succeeded.
    Fine = 0,
    /// The command failed.
    Failed = 1,
    /// The command succeeded and found something.
    Found = 3,
    /// Timed out while waiting.
    TimedOut = 5,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

/// Columns aligned over all rows.
#[derive(Debug, Default)]
pub(crate) struct TextTable {
    rows: Vec<Vec<TextCell>>,
}

/// One cell of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextCell {
    text: String,
    style: Style,
    right: bool,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl ColorChoice {
    /// Whether to colour what this process writes to stdout.
    pub fn paint(self) -> Paint {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        self.decide(no_color, std::io::stdout().is_terminal())
    }

    fn decide(self, no_color: bool, terminal: bool) -> Paint {
        let on = match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && !no_color,
        };
        Paint { on }
    }
}

impl Paint {
    /// The text in this style.
    pub fn paint(self, style: Style, text: &str) -> String {
        if self.on && style != Style::new() {
            format!("{}{text}{}", style.render(), style.render_reset())
        } else {
            text.to_owned()
        }
    }
}

/// The style of what is dropped or wrong.
pub(crate) fn red() -> Style {
    AnsiColor::Red.on_default()
}

/// The style of what is audited or held back.
pub(crate) fn yellow() -> Style {
    AnsiColor::Yellow.on_default()
}

/// The style of what is in order.
pub(crate) fn green() -> Style {
    AnsiColor::Green.on_default()
}

/// The style of headings.
pub(crate) fn bold() -> Style {
    Style::new().bold()
}

/// The text with control characters and bidirectional marks escaped. Names come from the cluster, so a terminal must
/// not interpret them.
pub(crate) fn safe(text: &str) -> String {
    let escaped = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .flat_map(|letter| if escaped(letter) { letter.escape_unicode().collect() } else { vec![letter] })
        .collect()
}

/// A cell with text on the left.
pub(crate) fn cell(text: &str) -> TextCell {
    TextCell { text: safe(text), ..TextCell::default() }
}

/// A cell with a number on the right.
pub(crate) fn number(number: u64) -> TextCell {
    TextCell { text: number.to_string(), right: true, ..TextCell::default() }
}

impl TextCell {
    /// The same cell in this style.
    pub(crate) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// The same cell with its text on the right.
    pub(crate) fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

impl TextTable {
    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = TextCell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// All rows as text, with two spaces between columns. Columns are at least as wide as `widths`, which grows with
    /// them. So a table that is printed in pieces keeps its columns.
    pub(crate) fn render(&self, paint: Paint, widths: &mut Vec<usize>) -> String {
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            let last = row.len().saturating_sub(1);
            for (column, (cell, width)) in row.iter().zip(widths.iter()).enumerate() {
                let blanks = " ".repeat(width - cell.text.chars().count());
                let painted = paint.paint(cell.style, &cell.text);
                line += &match (cell.right, column == last) {
                    (true, _) => format!("{blanks}{painted}"),
                    (false, true) => painted,
                    (false, false) => format!("{painted}{blanks}"),
                };
                line += if column == last { "" } else { "  " };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = TextTable::default();
        table.row([cell("NODE"), cell("PODS").right(), cell("MODE")]);
        table.row([cell("ip-10-0-1-23"), number(7), cell("")]);
        let text = table.render(Paint::default(), &mut Vec::new());
        assert_eq!(text, "NODE          PODS  MODE\nip-10-0-1-23     7\n");
    }

    #[test]
    fn a_table_printed_in_pieces_keeps_its_columns() {
        let mut widths = vec![6];
        let mut table = TextTable::default();
        table.row([cell("a"), cell("b")]);
        assert_eq!(table.render(Paint::default(), &mut widths), "a       b\n");
    }

    #[test]
    fn control_characters_in_a_name_are_escaped() {
        let text = safe("x\u{1b}[2J\n\u{202e}y");
        assert_eq!(text, "x\\u{1b}[2J\\u{a}\\u{202e}y");
    }

    #[test]
    fn no_color_wins_over_a_terminal_and_always_wins_over_both() {
        assert!(ColorChoice::Auto.decide(false, true).on);
        assert!(!ColorChoice::Auto.decide(true, true).on);
        assert!(!ColorChoice::Auto.decide(false, false).on);
        assert!(ColorChoice::Always.decide(true, false).on);
        assert!(!ColorChoice::Never.decide(false, true).on);
    }
}
