//! `bench [--json FILE] [--quick] [--api]`: measures the CPU time of a verdict relative to an empty program, or the
//! load of an agent's start on the API server.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;
use testbed::api;
use testbed::engine::stay_on_one_cpu;
use testbed::measure::{Bench, Effort, measure, report};

/// Measures the loaded programs against an empty one, or an agent's start.
#[derive(Parser)]
struct Arguments {
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer repetitions, for a first look.
    #[arg(long)]
    quick: bool,
    /// Measure an agent's start with a real API server and 10, 1,000 and 10,000 other pods.
    #[arg(long)]
    api: bool,
}

/// Pods on other nodes.
const OTHERS: [usize; 3] = [10, 1000, 10_000];

fn main() -> Result<()> {
    let Arguments { json, quick, api } = Arguments::parse();
    let (table, figures) = if api { start(quick)? } else { verdict(quick)? };
    print!("{table}");
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn verdict(quick: bool) -> Result<(String, Value)> {
    stay_on_one_cpu()?;
    let bench = Bench::new()?;
    let figures = measure(&bench, if quick { Effort::QUICK } else { Effort::FULL })?;
    let (cases, sizes) = (bench.cases(), bench.sizes()?);
    Ok((report::table(&cases, &figures, &sizes), report::json(&cases, &figures, &sizes)))
}

fn start(quick: bool) -> Result<(String, Value)> {
    let starts = api::measure(if quick { &OTHERS[..2] } else { &OTHERS })?;
    Ok((api::table(&starts), serde_json::to_value(&starts)?))
}
