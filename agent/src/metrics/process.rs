//! The usual process metrics, read from `/proc/self`.
//!
//! Knows no metric name. A value that cannot be read is left out.

use std::fs;

/// The kernel's unit of time in `/proc`: `USER_HZ`, 100 on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// User and system time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Limit of open descriptors.
    pub max_fds: Option<u64>,
    /// Virtual memory, bytes.
    pub virtual_bytes: Option<u64>,
    /// Resident memory, bytes.
    pub resident_bytes: Option<u64>,
    /// Start, seconds since 1970.
    pub start_seconds: Option<f64>,
}

/// Reads all values now.
pub(crate) fn read() -> Process {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut process = parse(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/stat"));
    // The directory itself is open while it is read.
    process.open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1));
    process.max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    process
}

fn parse(stat: &str, status: &str, system: &str) -> Process {
    // The name in parentheses may contain anything. The first field after it has number 3.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Process {
        cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
        virtual_bytes: bytes("VmSize"),
        resident_bytes: bytes("VmRSS"),
        start_seconds: boot.zip(ticks(22)).map(|(boot, since)| boot + since),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 1200 1000 10";
        let process = parse(stat, "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t 1024 kB\n", "cpu 1\nbtime 1000\n");
        assert_eq!(process.cpu_seconds, Some(3.0));
        assert_eq!(process.start_seconds, Some(1012.0));
        assert_eq!((process.virtual_bytes, process.resident_bytes), (Some(2048 * 1024), Some(1024 * 1024)));
    }

    #[test]
    fn this_process_has_the_values() {
        let process = read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(process.open_fds.is_some_and(|fds| fds >= 3) && process.max_fds.is_some());
        assert!(process.start_seconds.is_some_and(|start| start > 1.7e9));
    }

    #[test]
    fn without_proc_every_value_is_absent() {
        assert_eq!(parse("", "", ""), Process::default());
    }
}
