//! Tests with real files, edited as people and Kubernetes edit them: in place, by rename, and by a new symbolic link.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::api::document::ObjectKind;

struct World {
    dir: TempDir,
    changes: Receiver<Change>,
    open_findings: Arc<AtomicU64>,
}

/// Follows `name` in a new directory that holds what `prepare` puts there.
fn follow_in(name: &str, prepare: impl FnOnce(&Path)) -> World {
    let dir = tempfile::tempdir().expect("a directory");
    prepare(dir.path());
    let (send, changes) = mpsc::channel(8);
    let open_findings = Arc::<AtomicU64>::default();
    tokio::spawn(follow(dir.path().join(name), send, Arc::clone(&open_findings)));
    World { dir, changes, open_findings }
}

impl World {
    /// The namespaces of the next resync.
    async fn next(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..3 {
            let wait = timeout(Duration::from_secs(20), self.changes.recv());
            if let Change::Namespaces(all) = wait.await.expect("a resync in time").expect("still following") {
                names = all.into_iter().map(|namespace| namespace.name).collect();
            }
        }
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file as editors do: writes another file and renames it.
    fn replace(&self, name: &str, text: &str) {
        let aside = self.path(".aside");
        fs::write(&aside, text).expect("written");
        fs::rename(aside, self.path(name)).expect("renamed");
    }
}

fn namespaces(names: &[&str]) -> String {
    names.iter().map(|name| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")).collect()
}

#[tokio::test]
async fn edits_in_place_and_by_rename_are_picked_up() {
    let mut world = follow_in("c.yaml", |dir| fs::write(dir.join("c.yaml"), namespaces(&["a"])).expect("written"));
    assert_eq!(world.next().await, ["a"]);
    world.replace("c.yaml", &namespaces(&["a", "b"]));
    assert_eq!(world.next().await, ["a", "b"]);
    fs::write(world.path("c.yaml"), namespaces(&["c"])).expect("written");
    assert_eq!(world.next().await, ["c"]);
    assert!(world.changes.try_recv().is_err(), "each edit is one resync");
}

#[tokio::test]
async fn a_vanished_file_changes_nothing_and_its_return_does() {
    let mut world = follow_in("c.yaml", |dir| fs::write(dir.join("c.yaml"), namespaces(&["a"])).expect("written"));
    assert_eq!(world.next().await, ["a"]);
    fs::remove_file(world.path("c.yaml")).expect("removed");
    while world.open_findings.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(world.changes.try_recv().is_err());
    world.replace("c.yaml", &namespaces(&["b"]));
    assert_eq!(world.next().await, ["b"]);
}

#[tokio::test]
async fn a_vanished_file_keeps_its_objects_as_stale() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c.yaml");
    fs::write(&config, namespaces(&["a"])).expect("written");
    let (merge, outcome, _) = look(config.clone(), Merge::default()).await.expect("no panic");
    let namespaces = |outcome: &Outcome| outcome.objects[ObjectKind::Namespace as usize];
    assert_eq!((outcome.kept, namespaces(&outcome)), (0, 1));
    fs::remove_file(&config).expect("removed");
    let (_, outcome, _) = look(config, merge).await.expect("no panic");
    assert_eq!((outcome.kept, namespaces(&outcome)), (1, 1));
}

#[tokio::test]
async fn a_config_map_is_swapped_by_its_link() {
    let version = |dir: &Path, version: &str, names: &[&str]| {
        fs::create_dir(dir.join(version)).expect("made");
        fs::write(dir.join(version).join("c.yaml"), namespaces(names)).expect("written");
        symlink(version, dir.join("..data_tmp")).expect("linked");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swapped");
    };
    let prepare = |dir: &Path| {
        version(dir, "..1", &["a"]);
        symlink("..data/c.yaml", dir.join("c.yaml")).expect("linked");
    };
    for config in ["c.yaml", ""] {
        let mut world = follow_in(config, prepare);
        assert_eq!(world.next().await, ["a"]);
        version(world.dir.path(), "..2", &["b"]);
        fs::remove_dir_all(world.path("..1")).expect("removed");
        assert_eq!(world.next().await, ["b"]);
    }
}

#[tokio::test]
async fn a_directory_loses_the_objects_of_a_removed_file_but_not_of_all_at_once() {
    let mut world = follow_in("", |dir| {
        fs::write(dir.join("a.yaml"), namespaces(&["a"])).expect("written");
        fs::write(dir.join("b.yml"), namespaces(&["b"])).expect("written");
        fs::write(dir.join("notes.txt"), "not yaml: [").expect("written");
        fs::write(dir.join(".hidden.yaml"), "not yaml: [").expect("written");
    });
    assert_eq!(world.next().await, ["a", "b"]);
    assert_eq!(world.open_findings.load(Ordering::Relaxed), 0);
    fs::remove_file(world.path("a.yaml")).expect("removed");
    assert_eq!(world.next().await, ["b"]);
    fs::remove_file(world.path("b.yml")).expect("removed");
    while world.open_findings.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(AGAIN * 2).await;
    assert!(world.changes.try_recv().is_err(), "an empty directory may be a lost mount, so its objects stay");
}

#[tokio::test]
async fn an_edit_that_inotify_misses_is_seen_by_the_poll() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c.yaml");
    fs::write(&config, namespaces(&["a"])).expect("written");
    let stamps = files::stamps(&config);
    let seen = async {
        fs::write(&config, namespaces(&["b"])).expect("written");
        next(&DirWatcher::blind(), &config, &stamps, None).await;
    };
    timeout(Duration::from_secs(20), seen).await.expect("seen by the poll");
}

#[tokio::test]
async fn a_file_that_is_not_regular_is_reported_and_not_waited_for() {
    let mut world = follow_in("c.yaml", |dir| {
        let fifo = dir.join("c.yaml");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a FIFO");
    });
    let reported = async {
        while world.open_findings.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), reported).await.expect("reported");
    assert!(world.changes.try_recv().is_err(), "nothing was read");
}

#[tokio::test]
async fn following_ends_when_the_receiver_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("c.yaml"), namespaces(&["a"])).expect("written");
    let (send, changes) = mpsc::channel(8);
    let task = tokio::spawn(follow(dir.path().join("c.yaml"), send, Arc::default()));
    drop(changes);
    timeout(Duration::from_secs(20), task).await.expect("ended").expect("without a panic");
}
