//! Writes the pages of `docs/reference` from the code, or compares them with it.
//!
//! The facts are what `bulkhead reference` prints, so no page can say what the program does not do. The modules below turn
//! one part of them into one page each; none of them reads or writes a file.

mod commands;
mod events;
mod maps;
mod metrics;
mod page;
mod reasons;
mod tenant;

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{delegate, workspace};

/// Turns the facts into one page.
type Render = fn(&Value) -> String;

const DIRECTORY: &str = "docs/reference";
const PAGES: [(&str, Render); 6] = [
    ("drop-reasons.md", reasons::render),
    ("events.md", events::render),
    ("metrics.md", metrics::render),
    ("maps.md", maps::render),
    ("cli.md", commands::render),
    ("network-tenant.md", tenant::render),
];

/// Writes the pages; with `check`, only compares them and fails on a difference.
pub(crate) fn run(check: bool) -> Result<()> {
    let directory = workspace::root().join(DIRECTORY);
    let facts = facts()?;
    let mut differing = Vec::new();
    for (name, render) in PAGES {
        let (file, wanted) = (directory.join(name), render(&facts));
        if fs::read_to_string(&file).is_ok_and(|current| current == wanted) {
            continue;
        }
        differing.push(name);
        if !check {
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
            fs::write(&file, wanted).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    match (check, differing.as_slice()) {
        (_, []) => eprintln!("{DIRECTORY} is up to date"),
        (true, names) => bail!("{DIRECTORY}: {} differ from the code: run `cargo xtask docs`", names.join(", ")),
        (false, names) => eprintln!("{DIRECTORY}: {} written", names.join(", ")),
    }
    Ok(())
}

/// What `bulkhead reference` prints.
fn facts() -> Result<Value> {
    let text = delegate::agent_output("reference")?;
    serde_json::from_slice(&text).context("`bulkhead reference` printed no JSON")
}
