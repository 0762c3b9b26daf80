//! The data that a verdict needs: one trait for the tables, one for what differs between IPv4 and IPv6.
//!
//! Holds no rule. The kernel's programs implement [`Tables`] over their maps, tests over a few `HashMap`s, and `explain`
//! over the maps as they were read back.

use crate::addr::{Address, V4, V6};
use crate::conntrack::{ReplyEntry, ReplyKey};
use crate::fast_path;
use crate::flow::Flow;
use crate::headers::{ICMP, ICMPV6};
use crate::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PortSet, PrefixGrant, ROW_PREFIXES, RowV4, RowV6, Runtime,
};
use crate::parse::{self, Packet};
use crate::tenant::{TenantId, TenantState};

/// The tables of one address family, and those that serve both families.
pub trait Tables<A: Family> {
    /// The peer at exactly this address.
    fn peer(&self, address: A) -> Option<PeerEntry>;
    /// A row of prefixes.
    fn row(&self, row: u16) -> Option<&A::Row>;
    /// The longest prefix that holds the address, of a tenant with too many for a row; zero for none.
    fn trie(&self, tenant: TenantId, address: A) -> PrefixGrant;
    /// The owner of the longest data subnet or cluster range that holds this address.
    fn owner(&self, address: A) -> Option<TenantId>;
    /// The peer and the owner of an IPv4 address, which an IPv6 address may embed.
    fn at_v4(&self, address: V4) -> (Option<PeerEntry>, Option<TenantId>);
    /// A permission between two tenants.
    fn grant(&self, key: &GrantKey) -> Option<Grant>;
    /// A port set.
    fn port_set(&self, set: u16) -> Option<&PortSet>;
    /// An entry of the reply table.
    fn reply(&self, key: &ReplyKey) -> Option<ReplyEntry>;
    /// Writes an entry of the reply table at `now_ns`. Another entry of the same pod may lose its place; that is counted,
    /// and costs only that connection's replies.
    fn insert_reply(&self, key: &ReplyKey, entry: ReplyEntry, now_ns: u64);
    /// Writes expiry and flags of an entry that exists, under the same generation.
    fn refresh_reply(&self, key: &ReplyKey, entry: ReplyEntry);
    /// Generation and clock offset.
    fn runtime(&self) -> Runtime;
    /// The monotonic clock; its resolution may be coarse.
    fn now_ns(&self) -> u64;
}

/// What differs between IPv4 and IPv6.
pub trait Family: Address {
    /// A row of prefixes.
    type Row;
    /// Bits of an address.
    const BITS: u8;
    /// The tenant flag that sends lookups to the trie.
    const TRIE: u32;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// First prefix of the row that holds the address; it is the longest, since rows are sorted. Zero for none. The
    /// result is no `Option`: its second register may be undefined, and verifiers refuse to copy that.
    fn find(self, row: &Self::Row) -> PrefixGrant;
    /// The pod's own address, or [`Address::NONE`].
    fn own(entry: &EndpointEntry) -> Self;
    /// Reads a packet on the fast path.
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>>;
    /// The packet that an ICMP error quotes at `offset`.
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>>;
}

impl Family for V4 {
    type Row = RowV4;
    const BITS: u8 = 32;
    const TRIE: u32 = TenantState::TRIE_V4;
    const ICMP: u8 = ICMP;

    #[inline(always)]
    fn find(self, row: &RowV4) -> PrefixGrant {
        let mut i = 0;
        while i < ROW_PREFIXES {
            let prefix = &row.prefixes[i];
            if !prefix.grant.is_some() {
                break;
            }
            if self.0 & prefix.mask.0 == prefix.net.0 {
                return prefix.grant;
            }
            i += 1;
        }
        PrefixGrant::default()
    }

    #[inline(always)]
    fn own(entry: &EndpointEntry) -> Self {
        entry.v4
    }

    #[inline(always)]
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>> {
        fast_path::ipv4(packet)
    }

    #[inline(always)]
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>> {
        parse::quoted_v4(packet, offset)
    }
}

impl Family for V6 {
    type Row = RowV6;
    const BITS: u8 = 128;
    const TRIE: u32 = TenantState::TRIE_V6;
    const ICMP: u8 = ICMPV6;

    #[inline(always)]
    fn find(self, row: &RowV6) -> PrefixGrant {
        let mut i = 0;
        while i < ROW_PREFIXES {
            let prefix = &row.prefixes[i];
            if !prefix.grant.is_some() {
                break;
            }
            if self.hi & prefix.mask.hi == prefix.net.hi && self.lo & prefix.mask.lo == prefix.net.lo {
                return prefix.grant;
            }
            i += 1;
        }
        PrefixGrant::default()
    }

    #[inline(always)]
    fn own(entry: &EndpointEntry) -> Self {
        entry.v6
    }

    #[inline(always)]
    fn read_fast<P: Packet + ?Sized>(packet: &P) -> Option<Flow<Self>> {
        fast_path::ipv6(packet)
    }

    #[inline(always)]
    fn quoted<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow<Self>> {
        parse::quoted_v6(packet, offset)
    }
}
