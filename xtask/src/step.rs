//! Long steps: one line while they run, and their output in a log file. When a step fails, the end of the log is shown.
//!
//! Everything goes to standard error, because standard output belongs to the result of the verb.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Time between two lines where lines cannot be rewritten.
const QUIET_PERIOD: Duration = Duration::from_secs(20);
/// Shorter steps print no line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// Lines of the log that are shown after a failure.
const LAST_LINES: usize = 40;
const WIDTH: usize = 100;

/// Runs a command to its end; its output goes to a log file under `target/log`.
pub(crate) fn run(label: &str, command: &mut Command) -> Result<()> {
    let log = log_file(label)?;
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut line = Line::new(label);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let mut pause = Duration::from_millis(5);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        line.update(&log);
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    };
    line.finish(status.success());
    if !status.success() {
        eprintln!("{}", tail(&log, 64 * 1024, LAST_LINES));
        bail!("{label}: {status}; the whole output is in {}", log.display());
    }
    Ok(())
}

/// `target/log/build-the-agent.log` for "build the agent".
pub(crate) fn log_file(label: &str) -> Result<PathBuf> {
    let directory = workspace::products().join("log");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(directory.join(format!("{name}.log")))
}

/// The line with the state of the step.
struct Line<'a> {
    label: &'a str,
    started: Instant,
    printed: Instant,
    terminal: bool,
}

impl<'a> Line<'a> {
    fn new(label: &'a str) -> Self {
        let now = Instant::now();
        Self { label, started: now, printed: now, terminal: io::stderr().is_terminal() }
    }

    /// Rewrites the line on a terminal. Elsewhere adds a line from time to time.
    fn update(&mut self, log: &Path) {
        if self.terminal && self.started.elapsed() > Duration::from_millis(300) {
            eprint!("\r\x1b[2K{}", self.text(&tail(log, 4096, 1)));
            let _ = io::stderr().flush();
        } else if !self.terminal && self.printed.elapsed() >= QUIET_PERIOD {
            self.printed = Instant::now();
            eprintln!("{}", self.text(&tail(log, 4096, 1)));
        }
    }

    fn finish(&self, success: bool) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        if !success || self.started.elapsed() > WORTH_A_LINE {
            eprintln!("{}", self.text(if success { "done" } else { "failed" }));
        }
    }

    fn text(&self, state: &str) -> String {
        let text = format!("  {} [{}] {}", self.label, seconds(self.started.elapsed()), state.trim());
        text.chars().take(WIDTH).collect()
    }
}

/// `7 s` or `2 min 07 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        short @ 0..60 => format!("{short} s"),
        long => format!("{} min {:02} s", long / 60, long % 60),
    }
}

/// The last lines among the last `bytes` of a file; empty if it cannot be read.
fn tail(file: &Path, bytes: u64, lines: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(end)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_a_clock() {
        assert_eq!(seconds(Duration::from_secs(7)), "7 s");
        assert_eq!(seconds(Duration::from_secs(127)), "2 min 07 s");
    }

    #[test]
    fn a_failing_step_is_an_error_that_names_its_log() {
        let error = run("a step that fails", Command::new("sh").args(["-c", "echo why; exit 3"]))
            .expect_err("the command fails");
        assert!(error.to_string().contains("a-step-that-fails.log"), "{error}");
    }

    #[test]
    fn the_tail_skips_empty_lines_and_survives_a_missing_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), "one\ntwo\n\nthree\n\n").expect("write");
        assert_eq!(tail(file.path(), 4096, 2), "two\nthree");
        assert_eq!(tail(Path::new("/nowhere/at/all"), 4096, 2), "");
    }
}
