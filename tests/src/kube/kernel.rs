//! Lists what Bulkhead has loaded into a node's kernel: programs on interfaces, programs and maps by id, and pins.
//!
//! Reads the kernel only, and knows nothing that the agent reports.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, ensure};
use aya::maps::loaded_maps;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use cluster::Node;

use crate::netns::Netns;

/// Everything that one node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Interfaces with any program, and the directions.
    pub hooks: BTreeSet<String>,
    /// Ids of those programs, and of others that share their maps.
    pub programs: BTreeSet<u32>,
    /// Ids of the maps that they use.
    pub maps: BTreeSet<u32>,
    /// Files on the node's BPF file system.
    pub pins: BTreeSet<String>,
}

/// Inspects every interface of a node except its loopback.
pub fn look(node: &Node<'_>) -> Result<Traces> {
    let path = node.netns();
    // The name is also the one that `ip` uses.
    let netns = Netns::open(path.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?)?;
    ensure!(!netns.interfaces()?.is_empty(), "node {} has no interface", node.name());
    let mut traces = Traces { pins: pins(node)?, ..Traces::default() };
    for interface in netns.interfaces()? {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let query = || SchedClassifier::query_tcx(interface.as_str(), direction);
            let (_, found) = netns.run(query).with_context(|| format!("cannot query {interface}"))?;
            traces.programs.extend(found.iter().map(|program| program.id()));
            if !found.is_empty() {
                traces.hooks.insert(format!("{interface} {direction:?}"));
            }
        }
    }
    traces.hooks.extend(filters(&netns)?);
    let maps =
        |program: &ProgramInfo| -> Result<BTreeSet<u32>> { Ok(program.map_ids()?.into_iter().flatten().collect()) };
    for program in loaded_programs().filter_map(Result::ok).filter(|program| traces.programs.contains(&program.id())) {
        traces.maps.extend(maps(&program)?);
    }
    let mut more = BTreeSet::new();
    // A program on a cgroup is found by the maps that it shares with programs on interfaces.
    for program in loaded_programs().filter_map(Result::ok) {
        if !maps(&program)?.is_disjoint(&traces.maps) {
            traces.programs.insert(program.id());
            more.extend(maps(&program)?);
        }
    }
    traces.maps.extend(more);
    Ok(traces)
}

/// The programs and maps that the kernel still holds anywhere. Ids are never reused.
pub fn remaining(traces: &Traces) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let programs = loaded_programs().filter_map(Result::ok).map(|program| program.id());
    let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
    (programs.filter(|id| traces.programs.contains(id)).collect(), maps.filter(|id| traces.maps.contains(id)).collect())
}

/// Pins, without the two files that the kernel creates on every BPF file system.
fn pins(node: &Node<'_>) -> Result<BTreeSet<String>> {
    let output = node.command("find")?.args(["/sys/fs/bpf", "-mindepth", "1", "!", "-name", "*.debug"]).output()?;
    ensure!(output.status.success(), "find: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Queueing disciplines that hold programs on a kernel without TCX.
fn filters(netns: &Netns) -> Result<Vec<String>> {
    let mut tc = std::process::Command::new("tc");
    tc.args(["qdisc", "show"]).stdout(std::process::Stdio::piped());
    let output = netns.start(&mut tc)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter(|line| line.contains("clsact")).map(str::to_owned).collect())
}

impl Traces {
    /// Whether the node holds nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hooks, programs, maps, pins } = self;
        write!(f, "{} hooks, {} programs, {} maps, {} pins", hooks.len(), programs.len(), maps.len(), pins.len())
    }
}
