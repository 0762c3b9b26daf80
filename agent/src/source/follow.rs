//! Keeps looking: after every notice from the kernel, and by itself every two seconds.
//!
//! inotify makes edits quick, the stat makes them certain: watches run out, and a directory may be
//! replaced under us. Nothing here decides anything.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::counters::Counters;
use super::files::{self, Stamp};
use super::merge::{Merge, Outcome};
use crate::api::finding::{Finding, FindingSeverity};
use policy::model::input::Change;

/// How often the files are compared with what was read.
const POLL: Duration = Duration::from_secs(2);
/// How long it must be quiet before a look: editors write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// How long a look is put off at most while it is not quiet.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon a file that is missing is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// Sends a full resync for every change of `config`, until the receiver is gone.
///
/// The three changes of a resync are sent in one go where the channel holds three, so that a receiver
/// that drains it sees them together. Nothing is sent until something could be read. Dropping the
/// future at any point is safe.
pub async fn follow(config: PathBuf, changes: mpsc::Sender<Change>, counters: Arc<Counters>) {
    let mut eyes = Eyes::open(config.clone());
    let (mut merge, mut stamps, mut standing) = (Merge::default(), Vec::new(), HashSet::new());
    loop {
        eyes.watch();
        let mut again = None;
        match look(config.clone(), merge.clone()).await {
            Ok((merged, outcome, seen)) => {
                (merge, stamps) = (merged, seen);
                report(&outcome, &mut standing, &counters);
                again = outcome.look_again.then(|| Instant::now() + AGAIN);
                if send(&changes, outcome.changes).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "the configuration could not be looked at; what was in force stays"),
        }
        tokio::select! {
            () = changes.closed() => return,
            () = eyes.next(&config, &stamps, again) => {}
        }
    }
}

/// Reads, parses and merges away from the event loop. Works on a copy, so that whatever goes wrong
/// leaves the last good state alone. Stamps first: a change between the two is noticed at the next poll.
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

/// Tells what is new, and what is mended; what stands is counted.
fn report(outcome: &Outcome, standing: &mut HashSet<String>, counters: &Counters) {
    let line =
        |finding: &Finding| format!("{}:{} {} {finding}", finding.file.display(), finding.line, finding.code.as_str());
    let now: HashSet<String> = outcome.findings.iter().map(line).collect();
    for finding in outcome.findings.iter().filter(|finding| !standing.contains(&line(finding))) {
        counters.found(finding.code);
        let (file, at, code) = (finding.file.display(), finding.line, finding.code.as_str());
        match finding.code.severity() {
            FindingSeverity::Error => tracing::error!(%file, line = at, code, "{finding}"),
            FindingSeverity::Warn => tracing::warn!(%file, line = at, code, "{finding}"),
        }
    }
    if now.is_empty() && !standing.is_empty() {
        tracing::info!("every document of the configuration is good again");
    }
    *standing = now;
    counters.looked(standing.len(), outcome.kept, outcome.objects);
    if !outcome.changes.is_empty() {
        let [tenants, namespaces, endpoints] = outcome.objects;
        tracing::info!(tenants, namespaces, endpoints, kept = outcome.kept, "configuration taken");
        counters.resynced();
    }
}

/// Notices that something may have changed.
struct Eyes {
    config: PathBuf,
    news: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Directories that could not be watched: one complaint each is enough.
    complained: HashSet<PathBuf>,
}

impl Eyes {
    fn open(config: PathBuf) -> Self {
        let news = Arc::new(Notify::new());
        let bell = Arc::clone(&news);
        let ring = move |event: notify::Result<notify::Event>| {
            // Our own reading is an event too.
            if event.map_or(true, |event| !event.kind.is_access()) {
                bell.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(ring)
            .inspect_err(|error| tracing::warn!(%error, "no notices of edits: looking every two seconds instead"))
            .ok();
        Self { config, news, watcher, complained: HashSet::new() }
    }

    /// Watches the directory that holds the file, and the directory itself if the configuration is one:
    /// editors and ConfigMaps replace what they change. Done anew each time, in case it was replaced.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let parent = match self.config.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let own = self.config.is_dir().then_some(self.config.as_path());
        for directory in own.into_iter().chain([parent]) {
            // Unwatching first: a directory of the same name may be another one by now.
            let _ = watcher.unwatch(directory);
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive)
                && self.complained.insert(directory.to_owned())
            {
                tracing::warn!(directory = %directory.display(), %error, "no notices of edits here: looking every two seconds");
            }
        }
    }

    /// Returns when it is time to look.
    async fn next(&self, config: &Path, stamps: &[Stamp], again: Option<Instant>) {
        let latest = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = sleep_until(latest) => return,
            () = self.news.notified() => {}
            () = differs(config, stamps) => {}
        }
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience && timeout(QUIET, self.news.notified()).await.is_ok() {}
    }
}

/// Returns when the files are no longer those that were read.
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
