//! Long-running programs: started inside our cgroups, recorded, and ended by that record.
//!
//! A record contains a pid and the start time of that process, so a reused pid is left alone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::command::wait;

/// Joins the cgroups before `--`, then executes the command after it in a session of its own.
const LAUNCH: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec setsid "$@""#;

/// How long a daemon may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directories with the records and the logs of one cluster's daemons.
#[derive(Clone, Debug)]
pub struct Daemons {
    /// One file per daemon: its pid and its start time.
    pub records: PathBuf,
    /// One file per daemon: its output.
    pub logs: PathBuf,
}

/// A process that cannot be mistaken for a later one of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid, which is also its session and process group.
    pub pid: i32,
    /// Its start time, in clock ticks since boot.
    pub born: u64,
}

impl Daemons {
    /// Starts a daemon in the cgroups of these `cgroup.procs` files.
    pub fn start(&self, name: &str, procs_files: &[PathBuf], command: &Command) -> Result<Process> {
        ensure!(self.find(name).is_none(), "{name} runs already");
        let log = || File::options().create(true).append(true).open(self.log(name));
        let mut launch = Command::new("sh");
        launch
            .args(["-c", LAUNCH, "sh"])
            .args(procs_files)
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        launch.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        launch.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let child = launch.spawn().with_context(|| format!("cannot start {name}"))?;
        let process = Process::of(child.id().cast_signed()).with_context(|| format!("{name} ended at once"))?;
        wait(name, Duration::from_secs(5), || process.leads()).with_context(|| self.last_words(name))?;
        fs::write(self.records.join(name), format!("{} {}", process.pid, process.born))?;
        Ok(process)
    }

    /// Ends a daemon that any process has started. Does nothing if it does not run.
    pub fn stop(&self, name: &str) -> Result<()> {
        if let Some(process) = self.find(name) {
            process.end().with_context(|| format!("cannot stop {name}"))?;
        }
        let _ = fs::remove_file(self.records.join(name));
        Ok(())
    }

    /// Stops a daemon's process group with SIGSTOP. Its connections and files stay open.
    pub fn freeze(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::STOP)
    }

    /// Continues a stopped daemon.
    pub fn thaw(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::CONT)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.find(name).with_context(|| format!("{name} does not run"))?;
        let group = Pid::from_raw(process.pid).context("pid zero")?;
        kill_process_group(group, signal).with_context(|| format!("cannot signal {name}"))
    }

    /// The daemon of that name, if it is recorded and still runs.
    pub fn find(&self, name: &str) -> Option<Process> {
        let record = fs::read_to_string(self.records.join(name)).ok()?;
        let (pid, born) = record.split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, born: born.parse().ok()? };
        process.lives().then_some(process)
    }

    /// All recorded names, and whether each daemon still runs.
    pub fn list(&self) -> Vec<(String, bool)> {
        let entries = fs::read_dir(&self.records).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), self.find(&name).is_some())).collect()
    }

    /// The file with a daemon's output.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The last lines of a daemon's output, for error messages.
    pub fn last_words(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, born: stat.born })
    }

    /// Whether it still runs. A zombie does not.
    pub fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.born == self.born && !stat.dead)
    }

    /// Fails until the process has a session of its own, because a signal to its group would miss it before.
    fn leads(&self) -> Result<()> {
        let group = stat(self.pid).map(|stat| stat.group);
        ensure!(group == Some(self.pid), "it has not started");
        Ok(())
    }

    /// Ends its process group with SIGTERM, after a while with SIGKILL, and waits until every process has ended.
    fn end(&self) -> Result<()> {
        let group = Pid::from_raw(self.pid).context("pid zero")?;
        let start = Instant::now();
        let mut signal = Signal::TERM;
        // An error means that the group has ended already.
        let _ = kill_process_group(group, signal);
        while group_lives(self.pid) {
            if start.elapsed() > PATIENCE && signal == Signal::TERM {
                signal = Signal::KILL;
                let _ = kill_process_group(group, signal);
            }
            ensure!(start.elapsed() < PATIENCE * 2, "process group {} does not end", self.pid);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The fields of `/proc/PID/stat` that are needed here.
struct Stat {
    dead: bool,
    group: i32,
    born: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields are counted after the program's name, which may itself contain blanks and brackets.
fn parse(stat: &str) -> Option<Stat> {
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X"),
        group: fields.get(2)?.parse().ok()?,
        born: fields.get(19)?.parse().ok()?,
    })
}

fn group_lives(group: i32) -> bool {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).any(|stat| stat.group == group && !stat.dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::command;

    fn daemons(directory: &Path) -> Daemons {
        let daemons = Daemons { records: directory.join("pids"), logs: directory.into() };
        fs::create_dir(&daemons.records).unwrap();
        daemons
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = "7 (a) b) S 1 42 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9001 0 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.group, stat.born, stat.dead), (42, 9001, false));
    }

    #[test]
    fn a_daemon_is_found_by_its_record_and_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let daemons = daemons(directory.path());
        let process = daemons.start("sleeper", &[], &command("sleep", ["600"])).unwrap();
        assert_eq!(daemons.find("sleeper"), Some(process));
        assert!(daemons.start("sleeper", &[], &command("sleep", ["600"])).is_err());
        daemons.stop("sleeper").unwrap();
        assert!(!process.lives());
        assert!(daemons.list().is_empty());
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let daemons = daemons(directory.path());
        let me = std::process::id();
        fs::write(daemons.records.join("old"), format!("{me} 1")).unwrap();
        assert_eq!(daemons.find("old"), None);
        daemons.stop("old").unwrap();
    }
}
