//! The promise to aya that our layouts may be read and written as plain bytes.

#![allow(unsafe_code)]

use crate::addr::{V4, V6};
use crate::layout::{
    EndpointEntry, Grant, GrantKey, PeerEntry, PeerKeyV4, PortSet, PrefixGrant, RowV4, RowV6, Runtime, TrieKeyV4,
    TrieKeyV6,
};
use crate::tenant::{TenantId, TenantName, TenantState};

macro_rules! plain {
    ($($name:ty),+ $(,)?) => {
        $(
            const _: () = assert_plain::<$name>();
            // SAFETY: `assert_plain` shows at compile time that every byte pattern is a valid value
            // (`FromBytes`) and that no byte is padding (`IntoBytes`); the types are `Copy`.
            unsafe impl aya::Pod for $name {}
        )+
    };
}

const fn assert_plain<T: zerocopy::FromBytes + zerocopy::IntoBytes + Copy + 'static>() {}

plain!(
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
