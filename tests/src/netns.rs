//! Network namespaces that remove themselves.
//!
//! A namespace is a name below `/run/netns`, as `ip netns` makes it, so `ip` and the agent find it too. No shared
//! thread ever enters a namespace: every closure runs on a thread of its own. A child process inherits the namespace of
//! the thread that starts it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The directory of the names that `ip netns` creates.
const DIRECTORY: &str = "/run/netns";

/// A network namespace. Dropping the value that created it removes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    owned: bool,
}

impl Netns {
    /// Creates a namespace. Duplicate address detection is off, so that an address can be used at once.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name], "")?;
        let mut netns = Self::open(name)?;
        netns.owned = true;
        netns.sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
        ])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Opens an existing namespace. Dropping the value does not remove it.
    pub fn open(name: &str) -> Result<Self> {
        let file = File::open(path(name)).with_context(|| format!("cannot open network namespace {name}"))?;
        Ok(Self { name: name.to_owned(), file, owned: false })
    }

    /// Opens a namespace by a path such as `/proc/PID/ns/net`. `name` is only for messages.
    pub fn at(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}, of {name}", path.display()))?;
        Ok(Self { name: name.to_owned(), file, owned: false })
    }

    /// The name under `/run/netns`, or the one that was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the namespace when the value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// Runs a closure inside, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.file);
                work()
            });
            inside.join()
        });
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a thread inside. The namespace lives at least as long as the thread.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = self.file.try_clone().expect("a descriptor can be duplicated");
        thread::spawn(move || {
            enter(&file);
            drop(file);
            work()
        })
    }

    /// Starts a process inside.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        self.run(|| command.spawn())
    }

    /// Runs a batch of `ip` commands inside, one a line.
    pub fn ip(&self, batch: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], batch)
    }

    /// Writes settings below `/proc/sys/net`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let file = Path::new("/proc/sys/net").join(key);
                fs::write(&file, value).with_context(|| format!("{}: cannot set {key} to {value}", self.name))?;
            }
            Ok(())
        })
    }

    /// Names of its interfaces, without `lo`.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let names =
            self.links()?.into_iter().filter_map(|line| line.split(": ").nth(1)?.split('@').next().map(str::to_owned));
        Ok(names.collect())
    }

    /// Waits until every interface carries packets. A bridge opens its ports some time after their other ends are up,
    /// because the kernel's link watch is a work queue.
    pub fn wait_until_up(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let waiting = |line: &String| !line.contains("state UP") || line.contains("bridge_slave state disabled");
            let Some(line) = self.links()?.into_iter().find(waiting) else { return Ok(()) };
            ensure!(Instant::now() < end, "{}: an interface does not get up: {line}", self.name);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The line that `ip` prints for each interface, without `lo`.
    fn links(&self) -> Result<Vec<String>> {
        let output = Command::new("ip").args(["-n", &self.name, "-d", "-o", "link", "show"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter(|line| !line.starts_with("1: lo")).map(str::to_owned).collect())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// Names of all namespaces.
pub fn list() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes a name. The namespace itself ends with its last thread, socket or descriptor.
pub fn remove(name: &str) {
    let path = path(name);
    // The name may have been removed already, by the scope or by the value.
    let _ = unmount(&path, UnmountFlags::DETACH);
    let _ = fs::remove_file(&path);
}

/// Kills the processes of a namespace whose owner has ended, so that the kernel removes it.
pub fn end_processes(name: &str) {
    let Ok(namespace) = fs::metadata(path(name)).map(|meta| meta.ino()) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if fs::metadata(entry.path().join("ns/net")).is_ok_and(|meta| meta.ino() == namespace) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Runs `ip`, with `input` on its standard input.
pub fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip`: install iproute2")?;
    child.stdin.take().expect("it is piped").write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("`ip {}` failed: {}\n{input}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

fn enter(file: &File) {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may enter a network namespace it has open");
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
