//! The page of the command line.

use serde_json::Value;

use super::page::{Page, code, list, text};

const INTRODUCTION: &str = "\
`bulkhead COMMAND --help` prints the same. A flag wins over its environment variable, and both win over the default. Standard
output carries results only; everything else goes to standard error.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let mut page = Page::new("Command line", INTRODUCTION);
    for command in list(facts, "commands") {
        page.section(&code(&format!("bulkhead {}", text(command, "name"))), &sentence(text(command, "meaning")));
        let rows: Vec<_> = list(command, "arguments").iter().map(row).collect();
        if !rows.is_empty() {
            page.table(["argument", "variable", "default", "meaning"], &rows);
        }
    }
    page.finish()
}

fn row(argument: &Value) -> [String; 4] {
    let words = [text(argument, "name"), text(argument, "value")];
    let usage: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let choices: Vec<String> = list(argument, "choices").iter().map(choice).collect();
    let mut meaning = sentence(text(argument, "meaning"));
    if !choices.is_empty() {
        meaning = format!("{meaning} One of {}.", choices.join(", "));
    }
    [code(&usage.join(" ")), code(text(argument, "variable")), code(text(argument, "default")), meaning]
}

fn choice(choice: &Value) -> String {
    let name = code(text(choice, "name"));
    match text(choice, "meaning") {
        "" => name,
        meaning => format!("{name} ({})", lower(meaning)),
    }
}

/// Help texts end without a full stop.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_argument_shows_its_value_and_its_choices() {
        let argument = json!({
            "name": "--mode", "value": "MODE", "default": "auto", "meaning": "How to do it",
            "choices": [{ "name": "auto", "meaning": "As the kernel allows" }, { "name": "none" }],
        });
        let expected = ["`--mode MODE`", "", "`auto`", "How to do it. One of `auto` (as the kernel allows), `none`."];
        assert_eq!(row(&argument), expected);
    }
}
