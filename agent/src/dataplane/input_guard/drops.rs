//! What the input guard dropped, summed over its tables.
//!
//! A table's counters start at zero, and the sums here never decrease. Does not read the kernel.

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Number of packets.
    pub packets: u64,
    /// Their length from the network header on, in bytes.
    pub bytes: u64,
}

/// What the guard dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Packets to the node that no entry allows.
    pub node: DropCount,
    /// Packets to the node's tunnel devices.
    pub tunnel: DropCount,
}

/// A counter of the kernel that starts at zero whenever its table is replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DropTally {
    /// Counts of former tables.
    base: DropCount,
    /// The last count of this table.
    last: DropCount,
}

impl DropTally {
    /// Takes a new reading. A smaller one comes from a new table.
    pub(super) fn see(&mut self, now: DropCount) {
        if now.packets < self.last.packets || now.bytes < self.last.bytes {
            self.retire();
        }
        self.last = now;
    }

    /// Keeps the count of a table that is gone.
    pub(super) fn retire(&mut self) {
        self.base = self.total();
        self.last = DropCount::default();
    }

    /// The count of all tables.
    pub(super) fn total(&self) -> DropCount {
        let (base, last) = (self.base, self.last);
        DropCount { packets: base.packets + last.packets, bytes: base.bytes + last.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> DropCount {
        DropCount { packets, bytes: 100 * packets }
    }

    #[test]
    fn a_tally_never_decreases() {
        let mut tally = DropTally::default();
        for (now, total) in [(5, 5), (7, 7), (2, 9), (0, 9), (1, 10)] {
            tally.see(count(now));
            assert_eq!(tally.total(), count(total));
        }
        tally.retire();
        tally.see(count(3));
        assert_eq!(tally.total(), count(13));
    }
}
