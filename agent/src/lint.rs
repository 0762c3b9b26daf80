//! `bulkhead lint FILES…`: reports what the API server, the agent or another file would refuse, before it is applied.
//!
//! [`lint`] is pure and takes the time as an argument. [`run`] reads, prints and chooses the exit code. The rules for
//! one object are in `crate::api`. This module adds only the findings that need more than one object.

mod cross;
mod print;
mod world;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::api::document::Key;
use crate::api::finding::{Code, Finding};
use crate::source::load::{self, Document, Documents};
use crate::source::{config_files, read};
use world::World;

/// Exit code: there are no findings.
const CLEAN: u8 = 0;
/// Exit code: a file could not be read, or the findings could not be printed.
const FAILED: u8 = 1;
/// Exit code: every file was read, and there are findings.
const FOUND: u8 = 3;

/// What to lint.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Files, or directories of *.yaml files; - is standard input
    #[arg(required = true, value_name = "FILES")]
    pub files: Vec<PathBuf>,
    /// How to print findings
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Codes not to report, such as BH030
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = code)]
    pub suppress: Vec<Code>,
}

/// How to print findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line each.
    Text,
    /// One array.
    Json,
}

/// Name and content of one file.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// The name that findings state.
    pub file: PathBuf,
    /// The content.
    pub bytes: Vec<u8>,
}

/// All findings about these files, ordered by file and line. `now` is in seconds since 1970.
pub(crate) fn lint(inputs: &[Input], now: i64) -> Vec<Finding> {
    let (mut findings, mut loaded) = (Vec::new(), Vec::new());
    for input in inputs {
        match load::load(&input.file, &input.bytes) {
            Ok(documents) => loaded.push((input.file.as_path(), documents)),
            Err(finding) => findings.push(*finding),
        }
    }
    findings.extend(loaded.iter_mut().flat_map(|(_, documents)| std::mem::take(&mut documents.findings)));
    findings.extend(duplicates(&loaded));
    findings.extend(cross::check(&World::of(&loaded), now));
    let order = |finding: &Finding| (finding.file.clone(), finding.line, finding.code, finding.field.clone());
    findings.sort_by_cached_key(order);
    findings
}

/// Runs the command: prints findings on standard output and a summary on standard error.
pub(crate) fn run(args: &Args) -> ExitCode {
    let (inputs, mut unread) = gather(&args.files);
    let mut findings = lint(&inputs, jiff::Timestamp::now().as_second());
    findings.retain(|finding| !args.suppress.contains(&finding.code));
    let failed = !unread.is_empty();
    unread.append(&mut findings);
    if print::all(&unread, args.output).is_err() {
        return ExitCode::from(FAILED);
    }
    ExitCode::from(match (failed, unread.is_empty()) {
        (true, _) => FAILED,
        (false, false) => FOUND,
        (false, true) => CLEAN,
    })
}

/// Reads all files. Returns a finding for each file that cannot be read.
fn gather(paths: &[PathBuf]) -> (Vec<Input>, Vec<Finding>) {
    let (mut inputs, mut findings) = (Vec::new(), Vec::new());
    let mut take = |file: PathBuf, bytes: std::io::Result<Vec<u8>>| match bytes {
        Ok(bytes) => inputs.push(Input { file, bytes }),
        Err(error) => findings.push(load::unreadable(&file, 0, &format!("cannot be read: {error}"))),
    };
    for path in paths {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            take(path.clone(), std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes));
            continue;
        }
        match config_files(path) {
            Ok(files) if files.is_empty() => {
                take(path.clone(), Err(std::io::Error::other("it contains no *.yaml file")))
            }
            Ok(files) => files.into_iter().for_each(|file| {
                let bytes = read(&file);
                take(file, bytes);
            }),
            Err(error) => take(path.clone(), Err(error)),
        }
    }
    (inputs, findings)
}

fn duplicates(loaded: &[(&Path, Documents)]) -> Vec<Finding> {
    let mut first: BTreeMap<&Key, (&Path, usize)> = BTreeMap::new();
    let mut findings = Vec::new();
    for (file, documents) in loaded {
        for Document { line, key, .. } in &documents.documents {
            let Some(key) = key else { continue };
            match first.get(key) {
                Some((there, at)) => findings.push(Finding {
                    file: file.to_path_buf(),
                    line: *line,
                    object: Some(key.to_string()),
                    field: String::new(),
                    code: Code::Duplicate,
                    problem: format!("is already defined at {}:{at}, and only that definition counts", there.display()),
                    remedy: "remove one of the two".to_owned(),
                }),
                None => {
                    first.insert(key, (file, *line));
                }
            }
        }
    }
    findings
}

fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.iter().find(|code| code.as_str().eq_ignore_ascii_case(text));
    known
        .copied()
        .ok_or_else(|| format!("unknown code; the codes are BH001 to {}", Code::ALL[Code::ALL.len() - 1].as_str()))
}

#[cfg(test)]
mod tests;
