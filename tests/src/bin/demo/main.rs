//! The demo: shows on one machine which hosts reach each other without the agent, with it, and after it was killed.
//!
//! Results go to standard output, progress to standard error. The exit code is 0 only if every probe ended as expected
//! and nothing was left.

mod kept;
mod play;
mod show;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows how the agent separates two tenants on one machine.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Keep the network and the agent running.
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// End a demo that was kept.
    Down,
    /// Serve in the namespaces of a kept demo.
    #[command(hide = true)]
    Serve,
    /// Remove everything when standard input ends.
    #[command(hide = true)]
    Guard,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.action {
        None => play::play(arguments.keep),
        Some(Action::Down) => kept::down(),
        Some(Action::Serve) => kept::serve(),
        Some(Action::Guard) => watch::guard(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
