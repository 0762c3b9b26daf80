//! Reads the configuration again after every change.
//!
//! [`DirWatcher`] reports edits at once. The files' times are compared every two seconds, in case it misses an edit.
//! The module decides nothing: [`Merge`] decides which objects an edit changes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::files::{self, Stamp};
use super::merge::{Merge, Outcome};
use crate::api::finding::{Finding, FindingSeverity};
use crate::dir_watcher::DirWatcher;
use policy::model::input::Change;

/// How often the files' times are compared with those of the last look.
const POLL: Duration = Duration::from_secs(2);
/// How long no change may come before a look, because editors write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// How long changes may delay a look.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon a look follows one that missed a file.
const AGAIN: Duration = Duration::from_millis(500);

/// Sends a full resync for every change of `config`, until the receiver is gone. Keeps the number of open findings in
/// `open_findings`.
///
/// If the channel holds three changes, the three changes of a resync are sent at once, so the receiver sees them
/// together. Nothing is sent until a file could be read. The future may be dropped at any point.
pub(crate) async fn follow(config: PathBuf, changes: mpsc::Sender<Change>, open_findings: Arc<AtomicU64>) {
    let mut watcher = DirWatcher::new("the configuration");
    let (mut merge, mut stamps, mut open) = (Merge::default(), Vec::new(), HashSet::new());
    loop {
        watch(&mut watcher, &config);
        let mut again = None;
        match look(config.clone(), merge.clone()).await {
            Ok((merged, outcome, seen)) => {
                (merge, stamps) = (merged, seen);
                report(&outcome, &mut open);
                open_findings.store(open.len() as u64, Ordering::Relaxed);
                again = outcome.look_again.then(|| Instant::now() + AGAIN);
                if send(&changes, outcome.changes).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "reading the configuration failed: the last good configuration stays in force")
            }
        }
        tokio::select! {
            () = changes.closed() => return,
            () = next(&watcher, &config, &stamps, again) => {}
        }
    }
}

/// Reads, parses and merges on another thread. Works on a copy, so that a failure leaves the last good state alone.
/// Takes the files' times first: the next poll notices a change that comes after them.
async fn look(config: PathBuf, mut merge: Merge) -> Result<(Merge, Outcome, Vec<Stamp>), JoinError> {
    let all = move || {
        let stamps = files::stamps(&config);
        let outcome = merge.take(&files::look(&config));
        (merge, outcome, stamps)
    };
    tokio::task::spawn_blocking(all).await
}

async fn send(to: &mpsc::Sender<Change>, changes: Vec<Change>) -> Result<(), mpsc::error::SendError<()>> {
    if changes.is_empty() {
        return Ok(());
    }
    if to.max_capacity() < changes.len() {
        for change in changes {
            to.reserve().await?.send(change);
        }
        return Ok(());
    }
    let slots = to.reserve_many(changes.len()).await?;
    slots.zip(changes).for_each(|(slot, change)| slot.send(change));
    Ok(())
}

/// Logs each new finding, and one line when no finding is left. Keeps the open findings in `open`.
fn report(outcome: &Outcome, open: &mut HashSet<String>) {
    let line =
        |finding: &Finding| format!("{}:{} {} {finding}", finding.file.display(), finding.line, finding.code.as_str());
    let now: HashSet<String> = outcome.findings.iter().map(line).collect();
    for finding in outcome.findings.iter().filter(|finding| !open.contains(&line(finding))) {
        let (file, at, code) = (finding.file.display(), finding.line, finding.code.as_str());
        match finding.code.severity() {
            FindingSeverity::Error => tracing::error!(%file, line = at, code, "{finding}"),
            FindingSeverity::Warn => tracing::warn!(%file, line = at, code, "{finding}"),
        }
    }
    if now.is_empty() && !open.is_empty() {
        tracing::info!("every document of the configuration is valid again");
    }
    *open = now;
    if !outcome.changes.is_empty() {
        let [tenants, namespaces, endpoints] = outcome.objects;
        tracing::info!(tenants, namespaces, endpoints, stale = outcome.kept, "configuration read");
    }
}

/// Watches the directory that holds the file, and the configuration itself if it is a directory. Editors and ConfigMaps
/// replace the files that they change.
fn watch(watcher: &mut DirWatcher, config: &Path) {
    let parent = match config.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let own = config.is_dir().then_some(config);
    for directory in own.into_iter().chain([parent]) {
        watcher.watch(directory);
    }
}

/// Waits until it is time to look: at `again`, or shortly after the last change.
async fn next(watcher: &DirWatcher, config: &Path, stamps: &[Stamp], again: Option<Instant>) {
    let latest = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
    tokio::select! {
        () = sleep_until(latest) => return,
        () = watcher.changed() => {}
        () = differs(config, stamps) => {}
    }
    let patience = Instant::now() + PATIENCE;
    while Instant::now() < patience && timeout(QUIET, watcher.changed()).await.is_ok() {}
}

/// Waits until the files' times differ from those of the last look.
async fn differs(config: &Path, stamps: &[Stamp]) {
    loop {
        sleep(POLL).await;
        let config = config.to_owned();
        let now = tokio::task::spawn_blocking(move || files::stamps(&config)).await.unwrap_or_default();
        if now != stamps {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
