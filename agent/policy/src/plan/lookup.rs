//! The verdict's tables over [`Actual`], so that a person's question gets the verdict of the kernel's programs.
//!
//! Holds no rule: [`agent_common::decide`] has them. Holds no reply table: replies need no permission, so only openings
//! can be decided here.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_common::access::Lookup;
use agent_common::addr::{V4, V6};
use agent_common::conntrack::{ReplyEntry, ReplyKey};
use agent_common::decide::Rules;
use agent_common::layout::{Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime};
use agent_common::tables::Tables;
use agent_common::tenant::TenantId;

use super::Actual;

/// The tables at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ActualTables<'a> {
    /// What the kernel's maps hold.
    pub actual: &'a Actual,
    /// The monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// Real time minus monotonic time, in nanoseconds. 0 is unknown: grants with an end then count as ended.
    pub clock_offset_ns: u64,
}

macro_rules! family {
    ($address:ty, $row:ty, $rows:ident, $trie:ident, $owners:ident, $ip:ty, $peer:expr, $holds:expr) => {
        impl Lookup<$address> for ActualTables<'_> {}
        impl Rules<$address> for ActualTables<'_> {}

        impl Tables<$address> for ActualTables<'_> {
            fn peer(&self, address: $address) -> Option<PeerEntry> {
                $peer(self.actual, address)
            }

            fn row(&self, row: u16) -> Option<&$row> {
                self.actual.$rows.get(&row).map(Box::as_ref)
            }

            fn trie(&self, tenant: TenantId, address: $address) -> PrefixGrant {
                let all = self.actual.$trie.iter();
                let found = all.filter(|((key, bits), _)| key.tenant == tenant && $holds(*bits, key.net, address));
                found.max_by_key(|((_, bits), _)| *bits).map(|(_, grant)| *grant).unwrap_or_default()
            }

            fn owner(&self, address: $address) -> Option<TenantId> {
                let address = <$ip>::from(address.octets());
                let found = self.actual.$owners.iter().filter(|(net, _)| net.contains(&address));
                found.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
            }

            fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>) {
                (Tables::<V4>::peer(self, address), Tables::<V4>::owner(self, address))
            }

            fn grant(&self, key: &GrantKey) -> Option<Grant> {
                self.actual.grants.get(key).copied()
            }

            fn port_set(&self, set: u16) -> Option<&PortSet> {
                self.actual.port_sets.get(&set)
            }

            fn reply(&self, _: &ReplyKey) -> Option<ReplyEntry> {
                None
            }

            fn insert_reply(&self, _: &ReplyKey, _: ReplyEntry, _: u64) {}

            fn refresh_reply(&self, _: &ReplyKey, _: ReplyEntry) {}

            fn runtime(&self) -> Runtime {
                Runtime { generation: self.actual.generation, clock_offset_ns: self.clock_offset_ns }
            }

            fn now_ns(&self) -> u64 {
                self.now_ns
            }
        }
    };
}

family!(V4, RowV4, rows_v4, trie_v4, owners_v4, Ipv4Addr, peer_v4, holds_v4);
family!(V6, RowV6, rows_v6, trie_v6, owners_v6, Ipv6Addr, peer_v6, holds_v6);

fn peer_v4(actual: &Actual, address: V4) -> Option<PeerEntry> {
    actual.peers_v4.get(&PeerKeyV4 { network: 0, address }).copied()
}

fn peer_v6(actual: &Actual, address: V6) -> Option<PeerEntry> {
    actual.peers_v6.get(&address).copied()
}

fn holds_v4(bits: u8, net: V4, address: V4) -> bool {
    address.0 & V4::mask(bits).0 == net.0
}

fn holds_v6(bits: u8, net: V6, address: V6) -> bool {
    let mask = V6::mask(bits);
    address.hi & mask.hi == net.hi && address.lo & mask.lo == net.lo
}
