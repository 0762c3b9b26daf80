//! `bench [--json FILE] [--quick]`: what a verdict costs, beside a program that does nothing.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bench::engine::stay_on_one_cpu;
use bench::measure::{Bench, Effort, measure, report};
use clap::Parser;

/// Measures the loaded programs against an empty one.
#[derive(Parser)]
struct Arguments {
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer repetitions, for a first look.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let Arguments { json, quick } = Arguments::parse();
    stay_on_one_cpu()?;
    let bench = Bench::new()?;
    let figures = measure(&bench, if quick { Effort::QUICK } else { Effort::FULL })?;
    let (cases, sizes) = (bench.cases(), bench.sizes()?);
    print!("{}", report::table(&cases, &figures, &sizes));
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report::json(&cases, &figures, &sizes))? + "\n";
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
