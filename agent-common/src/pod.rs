//! The promise to aya that values of our layouts are plain bytes: `impl aya::Pod` for each.
//!
//! The only file of this crate with unsafe code. The compiler checks the promise by zerocopy's traits.

#![allow(unsafe_code)]

use crate::addr::{V4, V6};
use crate::aggregate::{AggregateEntry, EventBudget};
use crate::counters::Counter;
use crate::event::FlowEvent;
use crate::guard::cgroup::CgroupConfig;
use crate::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use crate::reply_table::ReplyBucket;
use crate::tenant::{TenantId, TenantName, TenantState};

macro_rules! pod {
    ($($name:ty),+ $(,)?) => {
        $(
            const _: () = assert_pod::<$name>();
            // SAFETY: `assert_pod` shows at compile time that every byte pattern is a valid value (`FromBytes`), and
            // that no byte is padding (`IntoBytes`). The types are `Copy`.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

const fn assert_pod<T: zerocopy::FromBytes + zerocopy::IntoBytes + Copy + 'static>() {}

pod!(
    Counter,
    FlowEvent,
    AggregateEntry,
    EventBudget,
    CgroupConfig,
    ReplyBucket,
    EndpointEntry,
    Grant,
    GrantKey,
    PeerEntry,
    PeerKeyV4,
    PortSet,
    PrefixGrant,
    RowV4,
    RowV6,
    Runtime,
    TenantId,
    TenantName,
    TenantState,
    TrieKeyV4,
    TrieKeyV6,
    V4,
    V6,
);
