//! Builds and runs calls of `cargo test`, passes their output on and adds up their results.
//!
//! Reads only the result lines of libtest and the `SKIPPED` lines of the tests. It does not know which tier it serves.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};

use super::tier::TestCommand;
use crate::{step, tally::Tally};

/// Builds each command behind a progress line, then runs it.
pub fn commands(commands: &[TestCommand]) -> Tally {
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

/// Runs one command and counts its results. A test that says it was skipped counts as ignored.
pub fn run(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("standard output is not piped")?;
    let errors = child.stderr.take().context("standard error is not piped")?;
    let skips = thread::spawn(move || count_skips(errors));
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        println!("{line}");
        tally += Tally::of_line(&line).unwrap_or_default();
    }
    let skips = skips.join().map_err(|_| anyhow!("cannot read the errors of cargo test"))?;
    let mut tally = tally.without_skips(skips);
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("error: cargo test ended with {status}, but no test failed");
        tally.failed = 1;
    }
    Ok(tally)
}

/// Passes standard error on and counts the tests that were skipped.
fn count_skips(errors: impl Read) -> u32 {
    let mut skips = 0;
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        skips += u32::from(Tally::names_a_skip(&line));
    }
    skips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_ignored_and_a_lost_exit_code_is_a_failure() {
        let shell = |script: &str| run(Command::new("sh").args(["-c", script])).expect("a shell");
        let result = "echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured'";
        let skip = "echo 'SKIPPED isolation::a_packet: it needs root' >&2";
        assert_eq!(shell(&format!("{skip}; {result}")), Tally { passed: 2, failed: 0, ignored: 2 });
        assert_eq!(shell(&format!("{result}; exit 1")), Tally { passed: 3, failed: 1, ignored: 1 });
    }
}
