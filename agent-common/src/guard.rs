//! The guards: programs that let out only what claimed pods and the node itself send.
//!
//! `from_pod` judges a pod only once the agent has attached it to the pod's interface. That takes milliseconds, or much
//! longer while no agent runs. A guard is attached where every packet leaves the node, and stays attached, so it does
//! not depend on the agent's speed. The interface guards drop packets that arrived by an interface which is neither a
//! claimed pod's nor the node's own. The cgroup guard drops packets of sockets in cgroups of unclaimed pods: it also
//! protects the node, and pods of the same node.
//!
//! Knows no policy: it lets the packets of claimed pods pass, because `from_pod` and `to_pod` judge them.

pub mod cgroup;
pub mod interface;

use crate::reason::DropReason;

/// A guard.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// Where packets leave the node.
    Uplink = 0,
    /// Where packets enter the node from a bridge of pods.
    Bridge = 1,
    /// Where sockets in cgroups of pods send.
    Cgroup = 2,
}

impl Guard {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Uplink, Self::Bridge, Self::Cgroup];

    /// The guards on interfaces. One of them without the other would stop claimed pods.
    pub const ON_INTERFACES: [Self; 2] = [Self::Uplink, Self::Bridge];

    /// Entries of the map of dropped packets; one more guard would fit.
    pub const LEN: u32 = 4 * DropReason::ROW;

    /// Name of the program, and value of the label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Bridge => "bridge",
            Self::Cgroup => "cgroup",
        }
    }

    /// Index of the counter of packets that it dropped for a reason.
    #[inline(always)]
    pub const fn index(self, reason: DropReason) -> u32 {
        self as u32 * DropReason::ROW + reason.number() as u32
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_guards_share_a_counter() {
        let all: HashSet<u32> =
            Guard::ALL.iter().flat_map(|guard| DropReason::ALL.iter().map(|reason| guard.index(*reason))).collect();
        assert_eq!(all.len(), Guard::ALL.len() * DropReason::ALL.len());
        assert!(all.iter().all(|index| *index < Guard::LEN));
    }
}
