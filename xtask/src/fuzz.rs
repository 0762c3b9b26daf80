//! The fuzz targets: builds them for libFuzzer and runs each for a while.
//!
//! Stable Rust builds them, because rustc passes the options of LLVM's coverage on. Finds grow a corpus below `target`,
//! on top of the one that is committed. Knows no property: what a target checks is in `fuzz/src`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{setup, step, tally::Tally, workspace};

/// Seconds of the tier, for all targets together.
pub(crate) const SECONDS: u64 = 60;
/// The programs of `fuzz/fuzz_targets`.
const TARGETS: [&str; 4] = ["verdict", "post_nat", "records", "objects"];
/// What libFuzzer needs of the code under test: counters of edges, their addresses, and operands of comparisons.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// One input may take this long, in seconds, and this much memory, in MiB.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

/// Why the targets cannot be built on this machine, with the remedy. Installs the C++ compiler if this user may.
pub(crate) fn obstacle() -> Option<String> {
    let chosen = env::var_os("CXX").is_some();
    if chosen || workspace::on_path("c++").is_some() {
        return None;
    }
    setup::packages("install a C++ compiler", &["g++"]).err().map(|error| format!("no C++ compiler: {error:#}"))
}

/// Builds the targets and runs each for its share of the time. Each target counts as one test.
pub(crate) fn run(seconds: u64, seed: u64) -> Tally {
    let host = match build() {
        Ok(host) => host,
        Err(error) => {
            println!("error: {error:#}");
            return Tally::one_failure();
        }
    };
    let mut tally = Tally::default();
    for target in TARGETS {
        match fuzz(&host, target, (seconds / TARGETS.len() as u64).max(1), seed) {
            Ok(inputs) => {
                println!("{target} ... ok: {inputs} inputs, seed {seed}");
                tally.passed += 1;
            }
            Err(error) => {
                println!("{target} ... FAILED with seed {seed}: {error:#}");
                tally.failed += 1;
            }
        }
    }
    tally
}

/// Builds every target. Returns the triple of this machine, which also names their directory.
fn build() -> Result<String> {
    let host = host()?;
    let mut command = workspace::cargo_on(&workspace::fuzz_manifest(), "build");
    // With a target, the options do not reach build scripts, which libFuzzer does not drive.
    command.args(["--bins", "--target", &host, "--target-dir"]).arg(directory());
    command.env("CARGO_ENCODED_RUSTFLAGS", [&COVERAGE[..], &["--cfg", "fuzzing"]].concat().join("\x1f"));
    step::run("build the fuzz targets", &mut command)?;
    Ok(host)
}

fn host() -> Result<String> {
    let version = workspace::output_of(Command::new("rustc").arg("-vV")).context("rustc -vV failed")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs one target. Returns how many inputs it has tried.
fn fuzz(host: &str, target: &str, seconds: u64, seed: u64) -> Result<u64> {
    let program = directory().join(host).join("debug").join(target);
    let (grown, found) = (directory().join("corpus").join(target), directory().join("found").join(target));
    for directory in [&grown, &found] {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let committed = workspace::root().join("fuzz/corpus").join(target);
    ensure!(committed.is_dir(), "{} does not exist", committed.display());
    let mut command = Command::new(&program);
    command.args(LIMITS).args(["-print_final_stats=1", "-verbosity=1"]);
    // The fuzzer takes 32 bits, and 0 means a seed of its own choice.
    command.arg(format!("-seed={}", (seed as u32).max(1))).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", found.display())).arg(&grown).arg(committed);
    let label = format!("fuzz {target}");
    step::run(&label, &mut command).with_context(|| {
        let program = program.display();
        format!("the input is in {}; run it again with: {program} FILE", found.display())
    })?;
    inputs(&step::log_file(&label)?)
}

/// The number of inputs, as the fuzzer reports it at its end.
fn inputs(log: &Path) -> Result<u64> {
    let text = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let number = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    number.with_context(|| format!("{} names no number of inputs", log.display()))
}

/// The directory of the programs, of the corpus that grows, and of inputs that break a property.
fn directory() -> PathBuf {
    workspace::products().join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_has_a_corpus_and_runs() {
        let files = fs::read_dir(workspace::root().join("fuzz/fuzz_targets")).expect("the targets");
        let mut names: Vec<String> = files
            .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        let mut known = TARGETS.map(str::to_owned);
        known.sort();
        assert_eq!(names, known);
        for target in TARGETS {
            let corpus = fs::read_dir(workspace::root().join("fuzz/corpus").join(target)).expect("a corpus");
            assert!(corpus.count() > 0, "{target} has no corpus");
        }
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_log() {
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(log.path(), b"\xff\nstat::number_of_executed_units: 1234\n").expect("write");
        assert_eq!(inputs(log.path()).expect("a number"), 1234);
        fs::write(log.path(), "Done\n").expect("write");
        assert!(inputs(log.path()).is_err());
    }
}
