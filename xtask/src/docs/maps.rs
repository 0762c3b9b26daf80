//! The page of BPF maps.

use serde_json::Value;

use super::page::{Page, code, grouped, list, text};

const INTRODUCTION: &str = "\
The agent pins every map under `--pin-dir`, in a directory named after the version of the layouts, so that maps outlive the
agent. Sizes are in bytes, and limits are the defaults. A full map never opens anything: what does not fit is denied.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let size = |map: &Value, field: &str| map[field].as_u64().filter(|size| *size > 0).map_or(String::new(), grouped);
    let row = |map: &Value| {
        [
            code(text(map, "name")),
            text(map, "holds").to_owned(),
            size(map, "key"),
            size(map, "value"),
            size(map, "entries"),
            code(text(map, "flag")),
            text(map, "when_full").to_owned(),
        ]
    };
    let rows: Vec<_> = list(facts, "maps").iter().map(row).collect();
    let mut page = Page::new("BPF maps", INTRODUCTION);
    page.table(["map", "holds", "key", "value", "limit", "flag", "when full"], &rows);
    page.finish()
}
