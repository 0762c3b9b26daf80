//! Formats figures as a table and as JSON.
//!
//! Measures nothing and decides nothing: a missed goal is only marked.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{BenchCase, Figures, Sizes, median, mitigations};

/// The goals for the larger program.
const VERIFIED_GOAL: u32 = 10_000;
const JITED_GOAL: u32 = 6_000;

fn bounds(values: &[f64]) -> (f64, f64) {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(0.0, f64::max);
    (min, max)
}

/// The median ratio to the minimal shape.
fn minimal_ratio(figures: &Figures) -> Option<f64> {
    (!figures.to_minimal.is_empty()).then(|| median(&figures.to_minimal))
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2}"))
}

/// An aligned table.
pub fn table(cases: &[BenchCase<'_>], figures: &[Figures], sizes: &[(&str, Sizes)]) -> String {
    let width = cases.iter().map(|case| case.label.len()).max().unwrap_or_default();
    let mut text = String::new();
    let line = |text: std::fmt::Arguments<'_>, out: &mut String| writeln!(out, "{text}").expect("a string grows");
    line(
        format_args!(
            "{:width$}  {:>7} {:>7} {:>7}  {:>7}  {:>5}  {:>9}  {:>5}",
            "ns/frame", "min", "median", "max", "x empty", "goal", "x minimal", "goal"
        ),
        &mut text,
    );
    for (case, figures) in cases.iter().zip(figures) {
        let (min, max) = bounds(&figures.nanoseconds);
        let (middle, ratio) = (median(&figures.nanoseconds), median(&figures.ratios));
        let goal = case.goal.map_or(String::new(), |goal| format!("{goal:.1}"));
        let (minimal, minimal_goal) = (number(minimal_ratio(figures)), number(case.minimal_goal));
        let is_missed = case.goal.is_some_and(|goal| ratio > goal)
            || case.minimal_goal.zip(minimal_ratio(figures)).is_some_and(|(goal, ratio)| ratio > goal);
        let missed = if is_missed { "  missed" } else { "" };
        let label = case.label;
        line(
            format_args!(
                "{label:width$}  {min:7.2} {middle:7.2} {max:7.2}  {ratio:7.2}  {goal:>5}  {minimal:>9}  \
                 {minimal_goal:>5}{missed}"
            ),
            &mut text,
        );
    }
    line(
        format_args!(
            "\nThe goals against the empty program are for CPUs without mitigations; those against the minimal shape"
        ),
        &mut text,
    );
    line(format_args!("(parse, array and hash lookup, compare, count) are for CPUs with them. This CPU:"), &mut text);
    for (name, state) in mitigations() {
        line(format_args!("  {name}: {state}"), &mut text);
    }
    line(format_args!("\n{:width$}  {:>8} {:>12} {:>6}", "program", "verified", "instructions", "jited"), &mut text);
    for (name, size) in sizes {
        line(format_args!("{name:width$}  {:8} {:12} {:6}", size.verified, size.instructions, size.jited), &mut text);
    }
    line(format_args!("{:width$}  {VERIFIED_GOAL:8} {:12} {JITED_GOAL:6}", "goal, the larger", ""), &mut text);
    text
}

/// The figures as JSON.
pub fn json(cases: &[BenchCase<'_>], figures: &[Figures], sizes: &[(&str, Sizes)]) -> Value {
    let rows: Vec<Value> = cases
        .iter()
        .zip(figures)
        .map(|(case, figures)| {
            let (min, max) = bounds(&figures.nanoseconds);
            json!({
                "case": case.label.trim(),
                "min_ns": min,
                "median_ns": median(&figures.nanoseconds),
                "max_ns": max,
                "ratio": median(&figures.ratios),
                "goal": case.goal,
                "ratio_to_minimal": minimal_ratio(figures),
                "goal_to_minimal": case.minimal_goal,
            })
        })
        .collect();
    let programs: Vec<Value> = sizes
        .iter()
        .map(|(name, size)| {
            json!({"program": name, "verified": size.verified, "instructions": size.instructions, "jited": size.jited})
        })
        .collect();
    let mitigations: serde_json::Map<String, Value> =
        mitigations().into_iter().map(|(name, state)| (name.to_owned(), state.into())).collect();
    json!({"cases": rows, "programs": programs, "mitigations": mitigations, "goals": {"verified": VERIFIED_GOAL, "jited": JITED_GOAL}})
}
