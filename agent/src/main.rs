//! The `bulkhead` binary: parses the command line, runs the command, and returns its exit code.
//!
//! All logic is in the library. An error is printed once, on one line, with its causes.

use std::process::ExitCode;

use bulkhead::{Cli, with_causes};
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}
