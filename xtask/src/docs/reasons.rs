//! The page of drop reasons.

use serde_json::Value;

use super::page::{Page, code, list, scalar, text};

const INTRODUCTION: &str = "\
Every denied packet has one reason. Metrics, events, `bulkhead observe` and `bulkhead explain` use the same name, and a number
is never reused. In audit mode the packet passes, and its severity is one step lower. The rule is the value of
`policy.rule` in events where no named range decided.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let row = |reason: &Value| {
        [
            scalar(&reason["number"]),
            code(text(reason, "name")),
            text(reason, "severity").to_owned(),
            text(reason, "meaning").to_owned(),
            text(reason, "remedy").to_owned(),
            code(text(reason, "rule")),
        ]
    };
    let rows: Vec<_> = list(facts, "drop_reasons").iter().map(row).collect();
    let mut page = Page::new("Drop reasons", INTRODUCTION);
    page.table(["number", "reason", "severity", "meaning", "what to do", "rule"], &rows);
    page.finish()
}
