//! Formats figures as a table and as JSON.
//!
//! Measures nothing and decides nothing: a missed goal is only marked.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{BenchCase, Figures, Sizes, median};

/// The goals for the larger program.
const VERIFIED_GOAL: u32 = 10_000;
const JITED_GOAL: u32 = 6_000;

fn bounds(values: &[f64]) -> (f64, f64) {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(0.0, f64::max);
    (min, max)
}

/// An aligned table.
pub fn table(cases: &[BenchCase<'_>], figures: &[Figures], sizes: &[(&str, Sizes)]) -> String {
    let width = cases.iter().map(|case| case.label.len()).max().unwrap_or_default();
    let mut text = String::new();
    let line = |text: std::fmt::Arguments<'_>, out: &mut String| writeln!(out, "{text}").expect("a string grows");
    line(
        format_args!(
            "{:width$}  {:>7} {:>7} {:>7}  {:>7}  {:>5}",
            "ns/frame", "min", "median", "max", "x empty", "goal"
        ),
        &mut text,
    );
    for (case, figures) in cases.iter().zip(figures) {
        let (min, max) = bounds(&figures.nanoseconds);
        let (middle, ratio) = (median(&figures.nanoseconds), median(&figures.ratios));
        let goal = case.goal.map_or(String::new(), |goal| format!("{goal:.1}"));
        let missed = if case.goal.is_some_and(|goal| ratio > goal) { "  missed" } else { "" };
        let label = case.label;
        line(
            format_args!("{label:width$}  {min:7.2} {middle:7.2} {max:7.2}  {ratio:7.2}  {goal:>5}{missed}"),
            &mut text,
        );
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
            })
        })
        .collect();
    let programs: Vec<Value> = sizes
        .iter()
        .map(|(name, size)| {
            json!({"program": name, "verified": size.verified, "instructions": size.instructions, "jited": size.jited})
        })
        .collect();
    json!({"cases": rows, "programs": programs, "goals": {"verified": VERIFIED_GOAL, "jited": JITED_GOAL}})
}
