//! Builds the network of `plan`: a namespace for each host, all on one bridge.
//!
//! Links are made inside the namespaces, both ends at once, so the machine's own namespace never contains one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{command, run, run_with_input},
    id::Id,
    plan::{self, DATA, DATABASE, HOSTS, Host, LAN},
};

/// The settings of every host. Forwarding is on. The reverse-path check is off, because packets of Services leave by
/// another interface than they arrived. Duplicate address detection is off, because it would delay a pod's IPv6 by one
/// to two seconds.
const SETTINGS: [(&str, &str); 6] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
];

/// The path that `ip netns` gives a namespace.
pub(crate) fn path(id: &Id, host: &str) -> PathBuf {
    Path::new("/run/netns").join(id.netns(host))
}

/// A command that runs in a host's network namespace only.
pub(crate) fn enter(id: &Id, host: &str) -> Command {
    command("nsenter", [format!("--net={}", path(id, host).display())])
}

/// Creates the lan and all its hosts.
pub(crate) fn build(id: &Id) -> Result<()> {
    for host in names() {
        run(&mut command("ip", ["netns", "add", &id.netns(host)]))?;
    }
    batch(id, LAN, &lan_links(id))?;
    HOSTS.iter().try_for_each(|host| {
        set(id, host)?;
        batch(id, host.name, &host_links(host))
    })
}

/// The existing namespaces of this cluster.
pub(crate) fn found(id: &Id) -> Vec<String> {
    let ours = |name: &String| Id::from_netns(name).as_ref() == Some(id);
    all().into_iter().filter(ours).collect()
}

/// Removes the namespaces. Their processes must have been ended before.
pub(crate) fn remove(id: &Id) -> Result<Vec<String>> {
    let found = found(id);
    for name in &found {
        run(&mut command("ip", ["netns", "del", name]))?;
    }
    Ok(found)
}

/// Every cluster that has a namespace on this machine.
pub(crate) fn clusters() -> Vec<Id> {
    let mut ids: Vec<Id> = all().iter().filter_map(|name| Id::from_netns(name)).collect();
    ids.sort_by_key(Id::to_string);
    ids.dedup();
    ids
}

fn all() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(LAN).chain(plan::HOSTS.iter().map(|host| host.name))
}

fn batch(id: &Id, host: &str, lines: &str) -> Result<()> {
    let mut ip = command("ip", ["-n", &id.netns(host), "-batch", "-"]);
    run_with_input(&mut ip, lines).with_context(|| format!("network of {host}:\n{lines}"))?;
    Ok(())
}

fn set(id: &Id, host: &Host) -> Result<()> {
    let lines: String = SETTINGS.iter().map(|(key, value)| format!("echo {value} > /proc/sys/net/{key}\n")).collect();
    run(enter(id, host.name).args(["sh", "-ec", &lines]))?;
    Ok(())
}

/// Multicast snooping is off: without a querier on the lan, the bridge would drop IPv6 neighbour discovery after a
/// while.
fn lan_links(id: &Id) -> String {
    let mut lines = String::from("link set lo up\nlink add br0 type bridge mcast_snooping 0 forward_delay 0\n");
    lines += "link set br0 up\n";
    for Host { name, .. } in HOSTS {
        let netns = id.netns(name);
        lines += &format!("link add to-{name} type veth peer name eth0 netns {netns}\n");
        lines += &format!("link set to-{name} master br0 up\n");
    }
    lines
}

fn host_links(host: &Host) -> String {
    let mut lines = format!(
        "link set lo up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
        host.v4(),
        host.v6()
    );
    for (range, gateway) in host.routes() {
        lines += &format!("route add {range} via {gateway}\n");
    }
    for address in DATA.iter().filter(|_| *host == DATABASE) {
        lines += &format!("addr add {address} dev lo\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NODES;

    #[test]
    fn every_host_has_a_link_to_the_bridge_that_is_made_in_its_namespace() {
        let lines = lan_links(&Id::new("x").unwrap());
        assert!(lines.contains("link add to-b type veth peer name eth0 netns bulkhead-x-b\n"));
        assert_eq!(lines.matches("master br0").count(), HOSTS.len());
    }

    #[test]
    fn the_data_addresses_are_on_the_database_host_only() {
        assert!(host_links(&DATABASE).contains("addr add 10.40.0.10/32 dev lo\n"));
        assert!(!host_links(&NODES[0]).contains("10.40."));
    }

    #[test]
    fn a_node_has_both_families() {
        let lines = host_links(&NODES[1]);
        assert!(lines.contains("addr add 198.18.0.12/24 dev eth0\n"));
        assert!(lines.contains("addr add fd00:198:18::12/64 dev eth0 nodad\n"));
        assert!(lines.contains("route add fd00:10:244:1::/64 via fd00:198:18::11\n"));
    }
}
