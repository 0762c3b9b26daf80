//! `frames FILE`: replays frames into the loaded programs. Prints one JSON line per frame, then a summary.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use testbed::engine::{Engine, replay::replay, stage};

/// Replays frames into the loaded programs.
#[derive(Parser)]
struct Arguments {
    /// One JSON object a line: `name`, `hook`, `frame` in hexadecimal, `verdict`, `reason`, `group`.
    file: PathBuf,
}

fn main() -> Result<ExitCode> {
    let Arguments { file } = Arguments::parse();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut engine = Engine::new(stage::tables())?;
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let (passed, failed) = replay(&mut engine, &text, |line| {
        let text = serde_json::to_string(line).expect("a line is plain JSON");
        if written.is_ok() {
            written = writeln!(out, "{text}");
        }
    })?;
    written?;
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
