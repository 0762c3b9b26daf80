//! Tables that differ in one setting or several from those of the attack table.
//!
//! Every variant holds the same keys, because what only an earlier variant had would stay in the kernel's maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::layout::{Grant, GrantKey, PORTS_ANY, PeerEntry, PrefixGrant};
use agent_common::mem_tables::MemTables;
use agent_common::tenant::{TenantId, TenantState};
use testbed::engine::stage::{self, A, B};

use super::generate::Dice;

/// Further peers, in both families: a pod of a Shared tenant, a pod of an unassigned namespace, and three Services.
pub(super) const PEERS: [(IpAddr, IpAddr, TenantId, u8, u8); 5] = [
    (v4(10, 30, 1, 8), v6(0xc), TenantId(3), PeerEntry::POD, PeerEntry::SHARED),
    (v4(10, 40, 1, 9), v6(0xd), TenantId(4), PeerEntry::POD, PeerEntry::UNASSIGNED),
    (v4(10, 96, 0, 20), v6(0xe), B, PeerEntry::SERVICE, 0),
    (v4(10, 96, 0, 21), v6(0xf), A, PeerEntry::SERVICE, 0),
    (v4(10, 96, 0, 30), v6(0x10), TenantId::UNKNOWN, PeerEntry::SERVICE_LISTED, 0),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(net: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, 9))
}

/// One setting of everything that varies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variant {
    /// Further flags of the pod's tenant.
    flags: u32,
    /// When the grants out and back end.
    until: [u64; 2],
    /// Another tenant owns a part of the first prefix.
    contested: bool,
    /// Every address is in a prefix of the tenant.
    wide: bool,
}

impl Variant {
    pub(super) fn random(dice: &mut Dice) -> Self {
        let settings = [
            TenantState::SHARED,
            TenantState::AUDIT,
            TenantState::UNASSIGNED,
            TenantState::OPEN,
            TenantState::TRIE_V4,
            TenantState::TRIE_V6,
            TenantState::NODES_ALLOWED,
        ];
        let chosen = settings.into_iter().filter(|_| dice.one_in(6)).fold(0, |flags, flag| flags | flag);
        let grants = if dice.one_in(2) { TenantState::HAS_GRANTS } else { 0 };
        let mut until = || [0, 1, u64::MAX / 2_000_000_000, Grant::FOREVER][dice.below(4)];
        let until = [until(), until()];
        Self { flags: chosen | grants, until, contested: dice.one_in(2), wide: dice.one_in(3) }
    }

    /// The tables.
    pub(super) fn tables(&self) -> MemTables {
        let mut tables = stage::tables();
        tables.tenants.get_mut(&A).expect("tenant A").flags |= self.flags;
        // A day of the year 2001: the second of four ends lies before it.
        tables.runtime.clock_offset_ns = 1_000_000_000_000_000_000;
        for ((from, to), until) in [(A, B), (B, A)].into_iter().zip(self.until) {
            tables.grants.insert(GrantKey { from, to }, Grant { until });
        }
        for (four, six, tenant, kind, flags) in PEERS {
            let entry = PeerEntry { tenant, kind, flags, _pad: 0 };
            stage::peer(&mut tables, four, entry);
            stage::peer(&mut tables, six, entry);
        }
        self.write_prefixes(&mut tables);
        tables.owners_v4.push((stage::v4(Ipv4Addr::new(192, 0, 2, 128)), 25, TenantId::NODES));
        tables.owners_v4.push((stage::v4(Ipv4Addr::new(10, 96, 0, 0)), 16, TenantId::CLUSTER));
        tables
    }

    /// The prefixes of the pod's tenant, the same in its row and in the trie.
    fn write_prefixes(&self, tables: &mut MemTables) {
        let flags = if self.contested { PrefixGrant::CONTESTED } else { 0 };
        let row = tables.rows_v4.get_mut(&1).expect("a row of A");
        let last = row.prefixes.iter().position(|prefix| !prefix.grant.is_some()).expect("a free place");
        // Every variant writes a prefix of length 0 or 8, so that the trie has both keys each time.
        let wide = stage::row_v4(&[(Ipv4Addr::new(10, 0, 0, 0), 8, PORTS_ANY), (Ipv4Addr::UNSPECIFIED, 0, PORTS_ANY)]);
        row.prefixes[last] = wide.prefixes[usize::from(self.wide)];
        row.prefixes.iter_mut().take(last + 1).for_each(|prefix| prefix.grant.flags |= flags);
        let six = tables.rows_v6.get_mut(&1).expect("a row of A");
        six.prefixes.iter_mut().filter(|prefix| prefix.grant.is_some()).for_each(|prefix| prefix.grant.flags |= flags);
        let in_row = |length| row.prefixes.iter().any(|prefix| prefix.grant.is_some() && prefix.grant.length == length);
        for prefix in row.prefixes.iter().filter(|prefix| prefix.grant.is_some()) {
            tables.trie_v4.push((A, prefix.net, prefix.grant.length, prefix.grant));
        }
        for other in wide.prefixes.iter().take(2).filter(|prefix| !in_row(prefix.grant.length)) {
            let nothing = PrefixGrant { ports: 0, ..other.grant };
            tables.trie_v4.push((A, other.net, other.grant.length, nothing));
        }
        for prefix in six.prefixes.iter().filter(|prefix| prefix.grant.is_some()) {
            tables.trie_v6.push((A, prefix.net, prefix.grant.length, prefix.grant));
        }
    }
}
