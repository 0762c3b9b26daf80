//! The cgroup guard: it decides by the cgroup and the network namespace of the socket that sends.
//!
//! Knows no packet and no policy. A socket below the cgroup of all pods sends only if its pod is claimed, or if it is in
//! the node's own network namespace.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::reason::DropReason;

/// The cgroup that holds the cgroups of all pods, and the node's own network namespace. With the zero value every packet
/// is denied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CgroupConfig {
    /// Id of the cgroup that holds all pods' cgroups; 0 is none.
    pub parent: u64,
    /// Inode number of the node's own network namespace; 0 is none.
    pub netns: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<CgroupConfig>() == 16);

impl CgroupConfig {
    /// Whether the agent has written anything.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.parent != 0 || self.netns != 0
    }
}

/// The socket that sends, as the cgroup guard reads it.
pub trait Socket {
    /// Id of the socket's ancestor cgroup at that depth; the root has depth 0. 0 for none.
    fn ancestor(&self, level: u32) -> u64;
    /// Whether a cgroup is that of a claimed pod.
    fn is_claimed(&self, cgroup: u64) -> bool;
    /// Inode number of its network namespace; 0 where that cannot be read.
    fn netns(&self) -> u32;
}

/// Greatest depth at which the cgroup that holds all pods' is looked for. It is at depth 1 on most nodes, and at about 5
/// where a node is itself a container.
const MAX_DEPTH: u32 = 12;

/// Checks a packet of a socket below the cgroup of all pods. Returns why it is denied. Host-network pods are recognised
/// by their network namespace; they pass, because the node must never depend on an agent.
#[inline(always)]
pub fn check_socket(socket: &impl Socket, config: CgroupConfig) -> Option<DropReason> {
    let passes = is_of_claimed_pod(socket, config.parent) || (config.netns != 0 && socket.netns() == config.netns);
    if passes { None } else { Some(DropReason::NotReady) }
}

/// Whether the socket's pod is claimed. A pod's own cgroup is below one for its quality-of-service class or, for
/// guaranteed pods, beside those. Only the kernel knows the depth of the cgroup of all pods: an agent in a cgroup
/// namespace counts from another root.
#[inline(always)]
fn is_of_claimed_pod(socket: &impl Socket, parent: u64) -> bool {
    let claimed = |level| {
        let cgroup = socket.ancestor(level);
        cgroup != 0 && socket.is_claimed(cgroup)
    };
    let mut level = 1;
    while level <= MAX_DEPTH {
        let cgroup = socket.ancestor(level);
        if cgroup == 0 {
            return false;
        }
        if cgroup == parent {
            return claimed(level + 2) || claimed(level + 1);
        }
        level += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;
    use std::vec::Vec;

    use super::*;

    /// A socket: its cgroups from the root on, the claimed cgroups, its network namespace.
    struct SendingSocket(Vec<u64>, HashSet<u64>, u32);

    impl Socket for SendingSocket {
        fn ancestor(&self, level: u32) -> u64 {
            self.0.get(level as usize).copied().unwrap_or_default()
        }
        fn is_claimed(&self, cgroup: u64) -> bool {
            self.1.contains(&cgroup)
        }
        fn netns(&self) -> u32 {
            self.2
        }
    }

    const NODE: u32 = 4_026_531_840;
    const ELSEWHERE: u32 = 4_026_532_600;
    /// Root, `kubepods`, its class, pod, container.
    const BURSTABLE: [u64; 5] = [1, 10, 20, 30, 40];
    /// The same on a node that is itself a container.
    const NESTED: [u64; 7] = [1, 2, 3, 10, 20, 30, 40];
    /// The same for a guaranteed pod.
    const GUARANTEED: [u64; 4] = [1, 10, 31, 41];

    fn passes(cgroups: &[u64], claimed: &[u64], netns: u32, config: CgroupConfig) -> bool {
        let socket = SendingSocket(cgroups.to_vec(), claimed.iter().copied().collect(), netns);
        check_socket(&socket, config).is_none()
    }

    #[test]
    fn a_socket_sends_once_its_pod_is_claimed() {
        let config = CgroupConfig { parent: 10, netns: NODE, _pad: 0 };
        for (cgroups, claimed, expected) in [
            (&BURSTABLE[..], &[30][..], true),
            (&BURSTABLE, &[31], false),
            (&BURSTABLE, &[], false),
            (&GUARANTEED, &[31], true),
            (&GUARANTEED, &[30], false),
            (&BURSTABLE[..4], &[30], true),
            (&BURSTABLE[..3], &[30], false),
            (&NESTED, &[30], true),
            (&NESTED, &[2, 3, 40], false),
            (&[1, 11, 20, 30], &[30], false),
            (&[], &[0], false),
        ] {
            assert_eq!(passes(cgroups, claimed, ELSEWHERE, config), expected, "{cgroups:?} {claimed:?}");
        }
    }

    #[test]
    fn a_socket_on_the_node_s_own_network_sends() {
        let config = CgroupConfig { parent: 10, netns: NODE, _pad: 0 };
        assert!(passes(&BURSTABLE, &[], NODE, config));
        assert!(!passes(&BURSTABLE, &[], 0, CgroupConfig::default()), "an unknown namespace is not the node's");
        assert!(!passes(&BURSTABLE, &[], NODE, CgroupConfig::default()));
        assert!(!passes(&BURSTABLE, &[30], ELSEWHERE, CgroupConfig::default()));
        let deep: Vec<u64> = (1..30).chain([10]).collect();
        assert!(!passes(&deep, &[], ELSEWHERE, CgroupConfig { parent: 99, ..config }));
    }
}
