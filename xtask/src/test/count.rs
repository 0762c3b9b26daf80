//! Builds and runs calls of `cargo test`, passes their output on and adds up their results.
//!
//! Reads only the result lines of libtest. It does not know which tier it serves.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::tier::TestCommand;
use crate::{step, tally::Tally};

/// Builds each command behind a progress line, then runs it.
pub(super) fn commands(commands: &[TestCommand]) -> Tally {
    let mut sum = Tally::default();
    for test in commands {
        let tally = match step::run(&test.label, &mut test.build()).and_then(|()| run(&mut test.run())) {
            Ok(tally) => tally,
            Err(error) => {
                println!("error: {error:#}");
                Tally::one_failure()
            }
        };
        sum += tally;
    }
    if sum.passed + sum.failed == 0 {
        println!("error: no test ran");
        return Tally { failed: 1, ..sum };
    }
    sum
}

/// Runs one command and counts its results.
pub(super) fn run(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("standard output is not piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        println!("{line}");
        tally += Tally::of_line(&line).unwrap_or_default();
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("error: cargo test ended with {status}, but no test failed");
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_without_a_failed_test_is_counted() {
        let shell = |script: &str| run(Command::new("sh").args(["-c", script])).expect("a shell");
        let result = "echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured'";
        assert_eq!(shell(result), Tally { passed: 3, failed: 0, ignored: 1 });
        assert_eq!(shell(&format!("{result}; exit 1")), Tally { passed: 3, failed: 1, ignored: 1 });
    }
}
