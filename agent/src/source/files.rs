//! Which files make up the configuration, and reading them.
//!
//! A directory counts flat: `*.yaml`, `*.yml` and `*.json` that do not begin with a dot, in the order
//! of their names. Symbolic links are followed, as a mounted ConfigMap needs.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::load::unreadable;
use super::merge::Look;

/// Largest file that is read: some hundred thousand documents.
const MAX_BYTES: u64 = 64 << 20;
/// How often a file that changes while it is read is read anew.
const ATTEMPTS: usize = 3;

/// What changes when a file does, content aside. An edit cannot set the change time back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    found: Option<(u64, u64, u64, i64, i64, i64, i64)>,
}

/// The files of a configuration, which is one file or a directory of them.
pub fn config_files(config: &Path) -> io::Result<Vec<PathBuf>> {
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

/// The bytes of one file, as they stood at one moment.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        let before = fs::metadata(path)?;
        if !before.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("is larger than {} MiB", MAX_BYTES >> 20)));
        }
        if identity(&before) == identity(&fs::metadata(path)?) {
            return Ok(bytes);
        }
    }
    Err(io::Error::other("changes while it is read"))
}

/// Reads everything.
pub fn look(config: &Path) -> Look {
    let lost = |problem: &str| Look { listing: Some(unreadable(config, 0, problem)), ..Look::default() };
    match config_files(config) {
        // An empty directory is what a lost mount looks like.
        Ok(files) if files.is_empty() => lost("holds no *.yaml file; what was in force stays"),
        Ok(files) => Look {
            files: files.into_iter().map(|path| (path.clone(), read(&path).map_err(words))).collect(),
            listing: None,
        },
        Err(error) => lost(&words(error)),
    }
}

/// Stamps of everything that a look would read.
pub fn stamps(config: &Path) -> Vec<Stamp> {
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

/// The reason alone; the path stands beside it.
fn words(error: io::Error) -> String {
    format!("cannot be read: {error}")
}
