//! Reports that something in a directory may have changed.
//!
//! inotify makes changes known at once, but not certainly: watches run out, and a watched directory may be replaced.
//! Whoever uses this module therefore also looks at intervals. The module does not know what the files mean.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Watches directories, but not those inside them.
pub(crate) struct DirWatcher {
    /// What changes when a directory changes, for messages.
    subject: &'static str,
    changed: Arc<Notify>,
    /// `None`: inotify is not available.
    watcher: Option<RecommendedWatcher>,
    /// Directories whose failure to be watched was reported.
    reported: HashSet<PathBuf>,
}

impl DirWatcher {
    /// Watches nothing yet. `subject` names what changes, such as "the configuration".
    pub(crate) fn new(subject: &'static str) -> Self {
        let changed = Arc::<Notify>::default();
        let notify = Arc::clone(&changed);
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                notify.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(on_event)
            .inspect_err(
                |error| tracing::warn!(%error, "inotify is not available: {subject} is read every two seconds"),
            )
            .ok();
        Self { subject, changed, watcher, reported: HashSet::new() }
    }

    /// A watcher that never reports a change.
    #[cfg(test)]
    pub(crate) fn blind() -> Self {
        Self { subject: "nothing", changed: Arc::default(), watcher: None, reported: HashSet::new() }
    }

    /// Watches `directory`. To be called before each look, because the directory may have been created or replaced.
    pub(crate) fn watch(&mut self, directory: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        // An earlier watch of this path may belong to a directory that was replaced.
        let _ = watcher.unwatch(directory);
        let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) else { return };
        if !is_missing(&error) && self.reported.insert(directory.to_owned()) {
            let (directory, subject) = (directory.display(), self.subject);
            tracing::warn!(%directory, %error, "the directory cannot be watched: {subject} is read every two seconds");
        }
    }

    /// Waits until something may have changed since the last call returned.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Whether the event is a change. The agent's own reading is an event too; a closed write counts as a change.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Whether the directory does not exist. It is watched as soon as it does.
fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_change_of_a_directory_is_reported_and_reading_it_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        let mut watcher = DirWatcher::new("the test");
        assert!(watcher.watcher.is_some(), "inotify is available");
        watcher.watch(directory.path());
        let changes: [(&str, &dyn Fn()); 4] = [
            ("made", &|| fs::create_dir(&first).expect("a directory")),
            ("renamed", &|| fs::rename(&first, &second).expect("a new name")),
            ("removed", &|| fs::remove_dir(&second).expect("an empty directory")),
            ("written", &|| fs::write(&first, "text").expect("a file")),
        ];
        for (name, change) in changes {
            change();
            let reported = tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await;
            assert!(reported.is_ok(), "{name}: no change was reported");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = watcher.changed().now_or_never();
        }
        fs::read_dir(directory.path()).and_then(|_| fs::read(&first)).expect("readable");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(watcher.changed().now_or_never().is_none(), "reading was reported");
    }
}
