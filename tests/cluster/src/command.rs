//! Runs other programs. An error contains the command and its output.
//!
//! Knows nothing about a cluster.

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// A command with its arguments.
pub(crate) fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a command to its end and returns its standard output. The error of a failed command contains standard error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    finish(command, &output)
}

/// Runs a command like [`run`], with text on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().expect("standard input was piped above");
    // A separate thread writes, because two full pipes would block both processes.
    let (written, output) = thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output();
        (writer.join(), output)
    });
    let answer = finish(command, &output.with_context(|| format!("cannot wait for {command:?}"))?)?;
    ensure!(matches!(written, Ok(Ok(()))), "{command:?} did not read its input");
    Ok(answer)
}

fn finish(command: &Command, output: &Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let said = format!("{}{}", text(&output.stderr), text(&output.stdout));
        bail!("{command:?}: {}\n{}", output.status, said.trim_end());
    }
    Ok(text(&output.stdout))
}

/// Repeats an attempt until it succeeds or the limit has passed. The error is that of the last attempt.
pub fn wait<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("{what}: not within {} s", limit.as_secs())));
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_contains_the_command_and_its_output() {
        let error = run(&mut command("sh", ["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("no such luck") && error.contains("exit 3") && error.contains("3"), "{error}");
    }

    #[test]
    fn large_input_reaches_a_program_that_writes_while_it_reads() {
        let text = "x".repeat(300_000);
        assert_eq!(run_with_input(&mut command("cat", [""; 0]), &text).unwrap(), text);
    }

    #[test]
    fn waiting_ends_with_the_last_failure() {
        let error = wait::<()>("the moon", Duration::ZERO, || bail!("still dark")).unwrap_err();
        assert!(format!("{error:#}").contains("still dark"));
    }
}
