//! The rules below the waist: tenant, address, ports and memory to a verdict. No packet in sight.

use crate::ask::Ask;
use crate::conntrack::{Opener, ReplyEntry, ReplyKey};
use crate::layout::{PeerEntry, PrefixGrant};
use crate::reach::{Denied, Family, Party, Reach, Service, Tables, between, fits, foreign, prefix, reach};
use crate::reason::DropReason;
use crate::tenant::TenantState;
use crate::verdict::Verdict;

/// What is asked for at the other end, or would be by an answer to it.
#[inline(always)]
fn service<A: Family>(ask: &Ask<A>) -> Service {
    Service { protocol: ask.protocol, port: ask.remote_port, known: ask.has(Ask::<A>::KNOWN) }
}

/// Judges what a pod sends to an address that is not its own.
#[inline(always)]
pub fn egress<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>) -> Verdict {
    let reached = reach(tables, &ask.me, ask.remote, service(ask));
    if reached == Reach::YES {
        return Verdict::ALLOW;
    }
    if reached == Reach::ONE_WAY {
        open(tables, ask, Opener::Pod);
        return Verdict::ALLOW;
    }
    let denied = reached.denied();
    if reached.may_be_answer() && (answers(tables, ask, denied) || resolves(ask, denied)) {
        return Verdict::ALLOW;
    }
    if ask.me.state.has(TenantState::OPEN) && denied.reason != DropReason::MetadataService {
        return open_world(tables, ask);
    }
    Verdict::because(denied)
}

/// Where destinations are not judged, others' data subnets still are: nothing behind them would.
#[inline(never)]
fn open_world<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>) -> Verdict {
    match foreign(tables, &ask.me, ask.remote) {
        Some(denied) if denied.peer.is_known() => Verdict::because(denied),
        _ => Verdict::ALLOW,
    }
}

/// To answer somebody, a pod must learn where it is.
#[inline(always)]
fn resolves<A: Family>(ask: &Ask<A>, denied: Denied) -> bool {
    ask.has(Ask::<A>::RESOLVES) && (denied.peer.is_known() || denied.reason == DropReason::Node)
}

/// Rule 3: whether the packet answers a connection that the other side opened and still may open.
#[inline(never)]
fn answers<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>, denied: Denied) -> bool {
    if !ask.has(Ask::<A>::ANSWERS) {
        return false;
    }
    let key = ask.key(Opener::Remote);
    let entry = live(tables, &key);
    if entry.seen_ns == 0 {
        return false;
    }
    // Of another generation: the world might be somebody's subnet by now. `reach` has just said
    // that a pod or node may still open.
    let generation = tables.runtime().generation;
    let judged_before = entry.generation == generation || denied.reason == DropReason::Node || denied.peer.is_known();
    if !judged_before && foreign(tables, &ask.me, ask.remote).is_some_and(|owner| !may_enter(owner)) {
        return false;
    }
    keep(tables, &key, entry, ask.mark(true), generation);
    true
}

/// Judges what is on its way to a pod from an address that is not the pod's.
#[inline(always)]
pub fn ingress<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>) -> Verdict {
    match tables.peer(ask.remote) {
        Some(peer) if peer.kind == PeerEntry::POD || peer.kind == PeerEntry::SERVICE => from_peer(tables, ask, peer),
        Some(peer) if peer.kind == PeerEntry::NODE => {
            // Answers need no memory where the pod may open to nodes itself.
            if !ask.me.state.has(TenantState::NODES_ALLOWED | TenantState::SHARED) {
                open(tables, ask, Opener::Remote);
            }
            Verdict::ALLOW
        }
        // Answers, where the pod may ask; asking is judged at the pod.
        Some(peer) if peer.kind == PeerEntry::METADATA || peer.kind == PeerEntry::SERVICE_LISTED => Verdict::ALLOW,
        Some(peer) => Verdict::because(Denied { reason: DropReason::Internal, peer: peer.tenant }),
        None => from_world(tables, ask),
    }
}

#[inline(always)]
fn from_peer<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>, peer: PeerEntry) -> Verdict {
    let reached = between(tables, &ask.me, peer);
    if reached == Reach::YES {
        return Verdict::ALLOW;
    }
    if reached == Reach::ONE_WAY {
        let answer = is_answer(tables, ask) || ask.has(Ask::<A>::RESOLVES);
        let denied = Denied { reason: DropReason::CrossTenant, peer: peer.tenant };
        return if answer { Verdict::ALLOW } else { Verdict::because(denied) };
    }
    if reached.may_be_answer() {
        open(tables, ask, Opener::Remote);
        return Verdict::ALLOW;
    }
    if ask.me.state.has(TenantState::OPEN) {
        return Verdict::ALLOW;
    }
    Verdict::because(seen_from_inside(reached.denied()))
}

/// `unassigned_source` and `unassigned_destination` name the ends of the packet, not of the rule.
#[inline(always)]
fn seen_from_inside(denied: Denied) -> Denied {
    let reason = match denied.reason {
        DropReason::UnassignedSource => DropReason::UnassignedDestination,
        DropReason::UnassignedDestination => DropReason::UnassignedSource,
        other => other,
    };
    Denied { reason, ..denied }
}

#[inline(always)]
fn from_world<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>) -> Verdict {
    if ask.remote.is_multicast() || ask.remote.is_martian() {
        return Verdict::deny(DropReason::Martian);
    }
    // What the pod may open itself needs no memory: answers are justified by identity.
    let grant = prefix(tables, &ask.me, ask.remote);
    let clear = grant.is_some() && grant.flags & PrefixGrant::CONTESTED == 0;
    if clear && fits(tables, grant.ports, service(ask)) {
        return Verdict::ALLOW;
    }
    let generation = tables.runtime().generation;
    let key = ask.key(Opener::Remote);
    let tracked = ask.has(Ask::<A>::OPENS | Ask::<A>::CONTINUES);
    let entry = if tracked { live(tables, &key) } else { ReplyEntry::default() };
    if entry.seen_ns != 0 && entry.generation == generation {
        keep(tables, &key, entry, ask.mark(false), generation);
        return Verdict::ALLOW;
    }
    if let Some(denied) = foreign(tables, &ask.me, ask.remote)
        && !may_enter(denied)
    {
        return Verdict::because(Denied { reason: DropReason::CrossTenant, ..denied });
    }
    if entry.seen_ns != 0 {
        keep(tables, &key, entry, ask.mark(false), generation);
    } else if ask.has(Ask::<A>::OPENS) {
        begin(tables, &key, ask.mark(false), generation);
    }
    Verdict::ALLOW
}

/// Nodes may open connections to pods (probes, and everything that leaves a node translated); other
/// tenants' subnets, and pods nobody has told us of, may not.
#[inline(always)]
fn may_enter(owner: Denied) -> bool {
    owner.reason == DropReason::Node
}

/// Whether a packet to the pod answers a connection the pod opened.
#[inline(never)]
fn is_answer<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>) -> bool {
    let key = ask.key(Opener::Pod);
    let entry = live(tables, &key);
    if entry.seen_ns == 0 || !ask.has(Ask::<A>::ANSWERS) {
        return false;
    }
    keep(tables, &key, entry, ask.mark(true), tables.runtime().generation);
    true
}

/// Remembers, or refreshes, the connection that this packet opens or continues.
#[inline(never)]
fn open<A: Family, T: Tables<A>>(tables: &T, ask: &Ask<A>, opener: Opener) {
    if !ask.has(Ask::<A>::OPENS | Ask::<A>::CONTINUES) {
        return;
    }
    let key = ask.key(opener);
    let entry = live(tables, &key);
    let generation = tables.runtime().generation;
    if entry.seen_ns != 0 {
        keep(tables, &key, entry, ask.mark(false), generation);
    } else if ask.has(Ask::<A>::OPENS) {
        begin(tables, &key, ask.mark(false), generation);
    }
}

/// The entry if it still counts, else the zero entry.
#[inline(always)]
fn live<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>) -> ReplyEntry {
    match tables.reply(key) {
        Some(entry) if entry.is_live(key.protocol, tables.now_ns()) => entry,
        _ => ReplyEntry::default(),
    }
}

#[inline(always)]
fn keep<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>, entry: ReplyEntry, flags: u32, generation: u64) {
    if let Some(next) = entry.touched(flags, generation, tables.now_ns()) {
        tables.remember(key, next);
    }
}

#[inline(always)]
fn begin<A: Family, T: Tables<A>>(tables: &T, key: &ReplyKey<A>, flags: u32, generation: u64) {
    tables.remember(key, ReplyEntry { seen_ns: tables.now_ns(), generation, flags, _pad: 0 });
}

/// Names the owner of an address that no rule allowed: `off_subnet` becomes `cross_tenant` where it
/// lies in somebody's subnet. Never turns a denial into anything else.
#[inline(always)]
pub fn blame<A: Family, T: Tables<A>>(tables: &T, party: &Party, remote: A, denied: Denied) -> Denied {
    match denied.reason {
        DropReason::OffSubnet => foreign(tables, party, remote).unwrap_or(denied),
        _ => denied,
    }
}
