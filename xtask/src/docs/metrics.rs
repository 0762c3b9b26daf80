//! The page of metrics.

use serde_json::Value;

use super::page::{Page, code, list, scalar, text};

const INTRODUCTION: &str = "\
The agent serves these metrics as OpenMetrics text at `/metrics` (flag `--listen`). Packet counters live in pinned maps: they
are exact, and a restart of the agent does not reset them. No metric has a pod, an address or a port in its labels. Tenants
beyond `--metrics-max-tenants` share the label value `other`. The end of a name is its unit.";

/// Writes the page.
pub(super) fn render(facts: &Value) -> String {
    let row = |metric: &Value| {
        let labels: Vec<String> = list(metric, "labels").iter().map(|label| code(&scalar(label))).collect();
        let name = text(metric, "name");
        [
            code(name),
            text(metric, "type").to_owned(),
            unit(name).to_owned(),
            labels.join(", "),
            text(metric, "meaning").to_owned(),
        ]
    };
    let rows: Vec<_> = list(facts, "metrics").iter().map(row).collect();
    let mut page = Page::new("Metrics", INTRODUCTION);
    page.table(["metric", "type", "unit", "labels", "meaning"], &rows);
    page.finish()
}

/// The unit that a name ends in.
fn unit(name: &str) -> &'static str {
    let units = ["seconds", "bytes", "packets"];
    let name = name.trim_end_matches("_total");
    units.into_iter().find(|unit| name.ends_with(unit)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_end_of_the_name() {
        assert_eq!(unit("bulkhead_packet_bytes_total"), "bytes");
        assert_eq!(unit("bulkhead_nri_hold_seconds"), "seconds");
        assert_eq!(unit("bulkhead_agent_ready"), "");
    }
}
