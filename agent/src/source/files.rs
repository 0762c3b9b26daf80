//! Lists the files of the configuration and reads them.
//!
//! A directory contributes its `*.yaml`, `*.yml` and `*.json` files, in the order of their names. Subdirectories and
//! names that begin with a dot are ignored. Symbolic links are followed, because a mounted ConfigMap consists of them.
//! The module does not know what the files contain.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::load::unreadable;
use super::merge::Look;

/// Size of the largest file that is read. It holds about a hundred thousand documents.
const MAX_BYTES: u64 = 64 << 20;
/// How many times a file is read if it changes during each read.
const ATTEMPTS: usize = 3;

/// Metadata of one file, which an edit changes. No program can set the change time (ctime) back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    found: Option<(u64, u64, u64, i64, i64, i64, i64)>,
}

/// The files of a configuration, which is one file or a directory of them.
pub(crate) fn config_files(config: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(config)?.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(config)? {
        let path = entry?.path();
        if is_config(&path) && !fs::metadata(&path).is_ok_and(|found| found.is_dir()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file. If the file changes during the read, it is read again, so all bytes are from one moment.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        let before = fs::metadata(path)?;
        if !before.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
        }
        if identity(&before) == identity(&fs::metadata(path)?) {
            return Ok(bytes);
        }
    }
    Err(io::Error::other("it changes during every attempt to read it"))
}

/// Reads all files of the configuration.
pub(super) fn look(config: &Path) -> Look {
    let lost = |problem: &str| Look { listing: Some(unreadable(config, 0, problem)), ..Look::default() };
    match config_files(config) {
        // A directory whose mount was lost is empty, too.
        Ok(files) if files.is_empty() => {
            lost("contains no *.yaml, *.yml or *.json file; the last good configuration stays in force")
        }
        Ok(files) => Look {
            files: files.into_iter().map(|path| (path.clone(), read(&path).map_err(problem_of))).collect(),
            listing: None,
        },
        Err(error) => lost(&problem_of(error)),
    }
}

/// The stamps of all files that [`look`] would read, and of `config` itself.
pub(super) fn stamps(config: &Path) -> Vec<Stamp> {
    let mut paths = config_files(config).unwrap_or_default();
    paths.push(config.to_owned());
    let stamp = |path: PathBuf| Stamp { found: fs::metadata(&path).ok().map(|found| identity(&found)), path };
    paths.into_iter().map(stamp).collect()
}

fn identity(found: &Metadata) -> (u64, u64, u64, i64, i64, i64, i64) {
    (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
}

fn is_config(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml" || kind == "json")
}

/// The error without the path, which is another field of the finding.
fn problem_of(error: io::Error) -> String {
    format!("cannot be read: {error}")
}
