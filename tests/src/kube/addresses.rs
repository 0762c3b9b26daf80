//! Makes the host-local IPAM plugin of a node assign given addresses next, by editing its files.
//!
//! A test needs this to give one pod's address to the next pod.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use cluster::{Node, wait};

use super::PATIENCE;
use super::world::of_family;
use crate::host::Family;

/// Waits until these addresses of earlier pods are free and sets the plugin's last address to the one before the first
/// of them. The next pods of the node then get the same addresses.
pub fn give_again(node: Node<'_>, addresses: impl IntoIterator<Item = IpAddr>) -> Result<()> {
    let directory = node.path("/var/lib/cni/networks/pods")?;
    let addresses: Vec<IpAddr> = addresses.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    wait("free addresses", PATIENCE, || {
        let taken = addresses.iter().find(|address| directory.join(address.to_string()).exists());
        ensure!(taken.is_none(), "{taken:?} is still taken");
        Ok(())
    })?;
    for (range, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        let previous = before(of_family(&addresses, family).context("a pod without an address of a family")?);
        fs::write(directory.join(format!("last_reserved_ip.{range}")), previous.to_string())?;
    }
    Ok(())
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) - 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) - 1).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_previous_address_may_end_in_255() {
        let previous = ["10.244.2.0", "fd00::1:0"].map(|address| before(address.parse().expect("an address")));
        assert_eq!(previous.map(|address| address.to_string()), ["10.244.1.255", "fd00::ffff"]);
    }
}
