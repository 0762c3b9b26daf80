//! The reply table as the kernel holds it: one array of buckets, in which each local pod has a block of its own.
//!
//! A connection lies in one of two buckets of its pod's block. So no pod can evict an entry of another pod, and one that
//! does not fit evicts the least useful of its own sixteen. Knows no map and no clock: time is an argument.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::conntrack::{ReplyEntry, ReplyKey};

/// Blocks of the table. Block 0 is common to pods of `class: Shared` tenants and to pods without a block.
pub const BLOCKS: u16 = 256;
/// Buckets in block 0; a power of two.
pub const COMMON_BUCKETS: u32 = 8_192;
/// Entries in a bucket.
pub const BUCKET_LEN: usize = 8;
/// Entries in the block of one pod, unless `--connections-per-pod` states another number.
pub const CONNECTIONS_PER_POD: u32 = 2_048;

/// One connection, as it lies in a bucket. All zero is free.
///
/// Several CPUs may write one entry at once. The seal shows it: it fits only the key and the generation with which it was
/// written, so no entry has the key of one write and the generation of another. Expiry and flags may be mixed; they
/// decide how long the entry counts, never for whom.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StoredReply {
    /// The other end's address, first half; 0 for IPv4.
    pub remote_hi: u64,
    /// The other end's address, second half.
    pub remote_lo: u64,
    /// Hash of the key, combined with the generation.
    pub seal: u64,
    /// As in [`ReplyEntry`].
    pub generation: u64,
    /// As in [`ReplyEntry`]; 0 is a free entry.
    pub expires_ns: u64,
    /// The other end's port, and the pod's in the high half; host order.
    pub ports: u32,
    /// IANA protocol number, and the key's side in the high half.
    pub kind: u16,
    /// As in [`ReplyEntry`].
    pub flags: u16,
}

/// Entries among which the hash of a key does not choose.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ReplyBucket {
    /// The entries, in no order.
    pub entries: [StoredReply; BUCKET_LEN],
}

const _: () = assert!(size_of::<StoredReply>() == 48 && size_of::<ReplyBucket>() == 384);

/// Number of buckets in a table whose pods have `per_pod` connections each.
pub const fn bucket_count(per_pod: u32) -> u32 {
    COMMON_BUCKETS + (BLOCKS as u32 - 1) * buckets_per_pod(per_pod)
}

/// Number of buckets in the block of a pod with `per_pod` connections, which is a power of two.
pub const fn buckets_per_pod(per_pod: u32) -> u32 {
    per_pod / BUCKET_LEN as u32
}

/// The first bucket of a block, and how many it has.
#[inline(always)]
pub const fn buckets_of(block: u16, per_pod: u32) -> (u32, u32) {
    match block {
        0 => (0, COMMON_BUCKETS),
        block => (COMMON_BUCKETS + (block as u32 - 1) * per_pod, per_pod),
    }
}

/// The block of a pod with this event slot.
#[inline(always)]
pub const fn block(slot: u16, is_shared: bool) -> u16 {
    if is_shared || slot >= BLOCKS { 0 } else { slot }
}

/// A key in the form in which entries hold it, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedKey {
    /// As in [`StoredReply`].
    pub remote_hi: u64,
    /// As in [`StoredReply`].
    pub remote_lo: u64,
    /// As in [`StoredReply`].
    pub ports: u32,
    /// As in [`StoredReply`].
    pub kind: u16,
    /// Hash of the key.
    pub hash: u64,
}

const MULTIPLIERS: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

impl HashedKey {
    /// Hashes a key.
    #[inline(always)]
    pub const fn new(key: &ReplyKey) -> Self {
        let ReplyKey { remote_hi, remote_lo, cookie, remote_port, local_port, protocol, side, .. } = *key;
        let ports = remote_port as u32 | (local_port as u32) << 16;
        let kind = protocol as u16 | (side as u16) << 8;
        let words = [remote_hi ^ (kind as u64) << 48, remote_lo, cookie as u64 | (ports as u64) << 32];
        Self { remote_hi, remote_lo, ports, kind, hash: hash(words) }
    }

    /// Indices of the two buckets in which the connection may lie. `per_pod` is [`buckets_per_pod`].
    #[inline(always)]
    pub const fn buckets(&self, block: u16, per_pod: u32) -> [u32; 2] {
        let (first, length) = buckets_of(block, per_pod);
        let one = (self.hash >> 40) as u32 & (length - 1);
        let other = (self.hash >> 24) as u32 & (length - 1);
        [first + one, first + other]
    }

    /// Whether the entry names this connection. It has no branch, because the verifier follows each.
    #[inline(always)]
    const fn names(&self, stored: &StoredReply) -> bool {
        let ends = (stored.remote_hi ^ self.remote_hi) | (stored.remote_lo ^ self.remote_lo);
        ends | (stored.ports ^ self.ports) as u64 | (stored.kind ^ self.kind) as u64 == 0
    }
}

/// Each step is a bijection of the word that it mixes in. So two keys that differ in one word only have different hashes:
/// that is why an entry need not hold the cookie.
#[inline(always)]
const fn hash(words: [u64; 3]) -> u64 {
    let first = mix(words[0], MULTIPLIERS[0]);
    let second = mix(first ^ words[1], MULTIPLIERS[1]);
    mix(second ^ words[2], MULTIPLIERS[2])
}

#[inline(always)]
const fn mix(word: u64, multiplier: u64) -> u64 {
    let product = word.wrapping_mul(multiplier);
    product ^ product >> 29
}

/// The seal of an entry, by the hash of its key and its generation.
#[inline(always)]
const fn seal(hash: u64, generation: u64) -> u64 {
    hash ^ generation.wrapping_add(1).wrapping_mul(MULTIPLIERS[3])
}

impl ReplyBucket {
    /// The place of the entry with the seal of this hash; [`BUCKET_LEN`] if there is none. `read` loads a word of an entry
    /// exactly once: another CPU may write it. Places are taken from the first one on, so nothing is behind an entry that
    /// was never written.
    #[inline(always)]
    pub fn find(&self, hash: u64, read: impl Fn(&u64) -> u64) -> usize {
        let mut i = 0;
        while i < BUCKET_LEN {
            let found = read(&self.entries[i].seal);
            if found == seal(hash, read(&self.entries[i].generation)) {
                return i;
            }
            if found == 0 {
                return BUCKET_LEN;
            }
            i += 1;
        }
        i
    }

    /// The entry of a connection at the place that [`ReplyBucket::find`] returned.
    #[inline(always)]
    pub fn entry(&self, key: &HashedKey, place: usize, read: impl Fn(&u64) -> u64) -> Option<ReplyEntry> {
        let stored = self.entries.get(place)?;
        let generation = read(&stored.generation);
        let entry = ReplyEntry { expires_ns: read(&stored.expires_ns), generation, flags: stored.flags };
        (read(&stored.seal) == seal(key.hash, generation) && key.names(stored)).then_some(entry)
    }

    /// The place that a new connection takes: a free or expired entry, else the one whose loss costs least.
    #[inline(always)]
    pub fn place(&self, now_ns: u64) -> Placement {
        let mut best = Placement(u64::MAX);
        let mut i = 0;
        while i < BUCKET_LEN {
            let place = Placement::new(rank(&self.entries[i], now_ns), i);
            if place.is_better_than(best) {
                best = place;
            }
            i += 1;
        }
        best
    }
}

/// A place in a bucket for a new connection. It is one register: the rank, in whose low three bits the index is. Eight
/// nanoseconds of a rank do not matter.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement(u64);

impl Placement {
    const INDEX: u64 = BUCKET_LEN as u64 - 1;

    #[inline(always)]
    const fn new(rank: u64, index: usize) -> Self {
        Self(rank & !Self::INDEX | index as u64)
    }

    /// As a register.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a register.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Index in the bucket.
    #[inline(always)]
    pub const fn index(self) -> usize {
        (self.0 & Self::INDEX) as usize
    }

    /// Whether this place is taken rather than the other one: less is lost, or its bucket is emptier.
    #[inline(always)]
    pub const fn is_better_than(self, other: Self) -> bool {
        self.0 < other.0
    }

    /// Whether a connection that both sides use loses its entry.
    #[inline(always)]
    pub const fn evicts(self) -> bool {
        self.0 & ESTABLISHED != 0
    }
}

const FREE: u64 = 0;
const ESTABLISHED: u64 = 1 << 63;

/// What the loss of an entry costs: nothing if it no longer counts, most if both sides use the connection. Among equals,
/// the one that lives longest ranks highest. So a flood of openings without replies evicts no established connection.
#[inline(always)]
const fn rank(stored: &StoredReply, now_ns: u64) -> u64 {
    let entry = ReplyEntry { expires_ns: stored.expires_ns, generation: 0, flags: stored.flags };
    if !entry.is_live(now_ns) {
        return FREE;
    }
    entry.expires_ns | if entry.is_established() { ESTABLISHED } else { 0 }
}

impl StoredReply {
    /// The entry in the form in which a bucket holds it.
    pub fn new(key: &HashedKey, entry: ReplyEntry) -> Self {
        let mut stored = Self::default();
        stored.write(key, entry);
        stored
    }

    /// Writes the entry of a connection, field by field: a copy would need more of the kernel's stack.
    #[inline(always)]
    pub fn write(&mut self, key: &HashedKey, entry: ReplyEntry) {
        self.remote_hi = key.remote_hi;
        self.remote_lo = key.remote_lo;
        self.ports = key.ports;
        self.kind = key.kind;
        self.generation = entry.generation;
        self.seal = seal(key.hash, entry.generation);
        self.refresh(entry);
    }

    /// Writes how long the entry counts, and what was seen of its connection.
    #[inline(always)]
    pub fn refresh(&mut self, entry: ReplyEntry) {
        self.expires_ns = entry.expires_ns;
        self.flags = entry.flags;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::*;
    use crate::conntrack::Opener;
    use crate::headers::{TCP, UDP};

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    fn key(remote_lo: u64, remote_port: u16) -> ReplyKey {
        let side = Opener::Remote as u8;
        ReplyKey { remote_hi: 0, remote_lo, cookie: 7, block: 3, remote_port, local_port: 80, protocol: TCP, side }
    }

    fn entry(seen_ns: u64, flags: u16) -> ReplyEntry {
        ReplyEntry::new(TCP, flags, 5, seen_ns)
    }

    fn find(bucket: &ReplyBucket, key: &ReplyKey) -> Option<ReplyEntry> {
        let (key, read) = (HashedKey::new(key), |word: &u64| *word);
        bucket.entry(&key, bucket.find(key.hash, read), read)
    }

    #[test]
    fn an_entry_is_found_by_its_own_key_only() {
        let stored = key(1, 40_000);
        let mut bucket = ReplyBucket::default();
        bucket.entries[0] = StoredReply::new(&HashedKey::new(&stored), entry(NOW, ReplyEntry::REPLIED));
        assert_eq!(find(&bucket, &stored), Some(entry(NOW, ReplyEntry::REPLIED)));
        for other in [
            ReplyKey { remote_lo: 2, ..stored },
            ReplyKey { remote_hi: 1, ..stored },
            ReplyKey { cookie: 8, ..stored },
            ReplyKey { remote_port: 40_001, ..stored },
            ReplyKey { local_port: 81, ..stored },
            ReplyKey { protocol: UDP, ..stored },
            ReplyKey { side: Opener::Pod as u8, ..stored },
            ReplyKey { side: stored.side | ReplyKey::IPV6, ..stored },
        ] {
            assert_eq!(find(&bucket, &other), None, "{other:?}");
        }
        assert_eq!(find(&ReplyBucket::default(), &stored), None, "zero is no entry");
    }

    #[test]
    fn keys_that_differ_in_the_cookie_only_never_have_the_same_hash() {
        let hashes: HashSet<u64> =
            (0..10_000).map(|cookie| HashedKey::new(&ReplyKey { cookie, ..key(1, 1) }).hash).collect();
        assert_eq!(hashes.len(), 10_000);
    }

    #[test]
    fn a_mixture_of_two_writes_is_no_entry() {
        let keys = [key(1, 1), key(2, 2)];
        let [one, two] = keys.map(|key| StoredReply::new(&HashedKey::new(&key), entry(NOW, 0)));
        let newer = StoredReply::new(&HashedKey::new(&keys[0]), ReplyEntry { generation: 6, ..entry(NOW, 0) });
        for mixed in [
            StoredReply { remote_lo: two.remote_lo, ..one },
            StoredReply { ports: two.ports, ..one },
            StoredReply { seal: two.seal, ..one },
            StoredReply { generation: newer.generation, ..one },
            StoredReply { seal: newer.seal, ..one },
        ] {
            let mut bucket = ReplyBucket::default();
            bucket.entries[0] = mixed;
            for key in keys.iter().chain(&[ReplyKey { remote_port: 2, ..keys[0] }]) {
                assert_eq!(find(&bucket, key), None, "{mixed:?}");
            }
        }
    }

    #[test]
    fn a_new_connection_takes_the_place_whose_loss_costs_least() {
        const USED: u16 = ReplyEntry::REPLIED | ReplyEntry::CONFIRMED;
        let used = |age| (age, USED);
        let mut bucket = ReplyBucket::default();
        let mut fill = |states: [(u64, u16); BUCKET_LEN]| {
            for (index, (age, flags)) in states.into_iter().enumerate() {
                let key = HashedKey::new(&key(1, index as u16));
                bucket.entries[index] = StoredReply::new(&key, entry(NOW - age * SECOND, flags));
            }
            let place = bucket.place(NOW);
            (place.index(), place.evicts())
        };
        let full = [100, 90, 80, 70, 60, 50, 40, 30].map(used);
        assert_eq!(fill(full), (0, true), "the one not used for longest");
        let mut flooded = full;
        flooded[7] = (1, ReplyEntry::REPLIED);
        assert_eq!(fill(flooded), (7, false), "a SYN that the pod's kernel answered, though newer");
        flooded[6] = (110, USED | ReplyEntry::CLOSING);
        assert_eq!(fill(flooded), (6, false), "a closing one, the oldest of the two");
        flooded[3] = (121, USED | ReplyEntry::CLOSING);
        assert_eq!(fill(flooded), (3, false), "one that has expired");
        assert_eq!(ReplyBucket::default().place(NOW), Placement::new(FREE, 0), "a free one");
    }

    #[test]
    fn no_two_blocks_share_a_bucket_and_every_bucket_exists() {
        let per_pod = buckets_per_pod(CONNECTIONS_PER_POD);
        let range = |block: u16| {
            let buckets: std::vec::Vec<u32> =
                (0..50_000).flat_map(|port| HashedKey::new(&key(1, port)).buckets(block, per_pod)).collect();
            (buckets.iter().min().copied().unwrap_or_default(), buckets.iter().max().copied().unwrap_or_default())
        };
        let mut next = 0;
        for number in [0, 1, 2, 255] {
            let (first, last) = range(number);
            assert!(first >= next && last < bucket_count(CONNECTIONS_PER_POD), "{number}: {first} to {last}");
            next = last + 1;
        }
        assert_eq!(range(255).1, bucket_count(CONNECTIONS_PER_POD) - 1);
        assert_eq!(
            [block(0, false), block(1, false), block(255, false), block(256, false), block(7, true)],
            [0, 1, 255, 0, 0]
        );
    }

    #[test]
    fn nearly_all_of_a_pod_s_block_is_used_before_a_connection_is_lost() {
        let per_pod = buckets_per_pod(CONNECTIONS_PER_POD);
        for (remotes, ports, shift) in [(1, 1_700, 0), (1_700, 1, 0), (40, 40, 0), (1, 200, 8)] {
            let mut table = std::vec![ReplyBucket::default(); bucket_count(CONNECTIONS_PER_POD) as usize];
            let mut lost = 0;
            for (remote, port) in (0..remotes).flat_map(|remote| (0..ports).map(move |port| (remote, port))) {
                let key = HashedKey::new(&key(remote << 24 | 0x0a, (port as u16) << shift));
                let [one, other] = key.buckets(3, per_pod).map(|index| (index, table[index as usize].place(NOW)));
                let (index, place) = if other.1.is_better_than(one.1) { other } else { one };
                lost += usize::from(place != Placement::new(FREE, place.index()));
                table[index as usize].entries[place.index()] = StoredReply::new(&key, entry(NOW, 0));
            }
            assert!(lost < 4, "{lost} of {} are lost: {remotes} remotes, {ports} ports", remotes * ports);
        }
    }
}
