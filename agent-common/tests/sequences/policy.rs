//! The policy between one pod and one remote end, written without the rules of the crate.
//!
//! [`Connections::may_pass`] is the promise: a packet is allowed if its sender may open connections, or if it may be a
//! reply to a connection that the other side opened and still may open. [`Connections::passes`] is exact: it also knows
//! which connections have an entry, and how long an entry lives.

use agent_common::conntrack::Opener;
use agent_common::flow::Direction;

/// The remote end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// A pod of another tenant: grants decide.
    Pod,
    /// An address outside the cluster: the owner of its range decides.
    Outside,
}

/// A grant between the two tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Permit {
    None,
    /// It ends at [`EXPIRY`].
    Expires,
    Forever,
}

/// Who owns the range of the outside address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Subnet {
    Nobody,
    /// It is a data subnet of the pod's tenant.
    Mine,
    /// It is a data subnet of another tenant.
    Theirs,
}

/// What a packet is to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Syn,
    Ack,
    Fin,
    Reset,
    Datagram,
}

/// When a grant that expires ends, in seconds of the monotonic clock: 90 seconds after the beginning.
pub(crate) const EXPIRY: u64 = 1_090;

/// The policy at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub remote: Remote,
    pub out: Permit,
    pub back: Permit,
    pub owner: Subnet,
}

impl Policy {
    /// Whether a side may open connections to the other.
    fn may_open(&self, side: Opener, now: u64) -> bool {
        let holds = |permit| permit == Permit::Forever || permit == Permit::Expires && now < EXPIRY;
        match (self.remote, side) {
            (Remote::Pod, Opener::Pod) => holds(self.out),
            (Remote::Pod, Opener::Remote) => holds(self.back),
            (Remote::Outside, Opener::Pod) => self.owner == Subnet::Mine,
            (Remote::Outside, Opener::Remote) => self.owner != Subnet::Theirs,
        }
    }
}

impl Segment {
    const fn opens(self) -> bool {
        matches!(self, Self::Syn | Self::Datagram)
    }

    const fn may_reply(self) -> bool {
        !matches!(self, Self::Syn)
    }

    const fn closes(self) -> bool {
        matches!(self, Self::Fin | Self::Reset)
    }
}

/// The connections between the two ends, by the side that opened them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Connections {
    sides: [Side; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Side {
    /// When the last packet of a connection that this side was allowed to open passed, in seconds.
    opened: Option<u64>,
    /// The entry of the reply table.
    entry: Option<Kept>,
}

/// An entry of the reply table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kept {
    seen: u64,
    tcp: bool,
    replied: bool,
    /// The opener has sent more than the SYN.
    confirmed: bool,
    closing: bool,
}

impl Kept {
    fn is_live(self, now: u64) -> bool {
        let timeout = match (self.tcp, self.closing, self.replied && self.confirmed) {
            (true, false, true) => 3 * 3600,
            (true, ..) => 120,
            (false, _, true) => 180,
            (false, ..) => 60,
        };
        now - self.seen < timeout
    }
}

const fn ends(way: Direction) -> (Opener, Opener) {
    match way {
        Direction::Egress => (Opener::Pod, Opener::Remote),
        Direction::Ingress => (Opener::Remote, Opener::Pod),
    }
}

impl Connections {
    /// Whether the packet may pass under this policy.
    pub(crate) fn may_pass(&self, policy: &Policy, way: Direction, segment: Segment, now: u64) -> bool {
        let (sender, receiver) = ends(way);
        // No entry lives longer than three hours.
        let is_open = self.side(receiver).opened.is_some_and(|last| now - last < 3 * 3600);
        policy.may_open(sender, now) || segment.may_reply() && is_open && policy.may_open(receiver, now)
    }

    /// Whether exactly this packet passes under this policy.
    pub(crate) fn passes(&self, policy: &Policy, way: Direction, segment: Segment, now: u64) -> bool {
        let (sender, receiver) = ends(way);
        let is_live = self.side(receiver).entry.is_some_and(|entry| entry.is_live(now));
        policy.may_open(sender, now) || segment.may_reply() && is_live && policy.may_open(receiver, now)
    }

    /// Remembers a packet that this policy decided on.
    pub(crate) fn remember(&mut self, policy: &Policy, way: Direction, segment: Segment, now: u64, passed: bool) {
        if !passed {
            return;
        }
        let (sender, receiver) = ends(way);
        if !policy.may_open(sender, now) {
            let side = self.side_mut(receiver);
            side.opened = Some(now);
            side.entry = side.entry.map(|entry| entry.after(segment, true, now));
            return;
        }
        for side in [sender, receiver] {
            let side = self.side_mut(side);
            side.opened = side.opened.map(|_| now);
        }
        if segment.opens() {
            self.side_mut(sender).opened = Some(now);
        }
        // Where both sides may open connections, no reply needs an entry.
        if policy.may_open(receiver, now) {
            return;
        }
        let side = self.side_mut(sender);
        let known = side.entry.filter(|entry| entry.is_live(now) && segment != Segment::Syn);
        side.entry = match known {
            Some(entry) => Some(entry.after(segment, false, now)),
            None if segment.opens() => Some(Kept::new(segment, now)),
            None => side.entry,
        };
    }

    /// The entry of this side's connection is gone.
    pub(crate) fn forget(&mut self, side: Opener) {
        *self.side_mut(side) = Side::default();
    }

    fn side(&self, side: Opener) -> &Side {
        &self.sides[usize::from(side as u8 - 1)]
    }

    fn side_mut(&mut self, side: Opener) -> &mut Side {
        &mut self.sides[usize::from(side as u8 - 1)]
    }
}

impl Kept {
    fn new(segment: Segment, now: u64) -> Self {
        let tcp = segment != Segment::Datagram;
        Self { seen: now, tcp, replied: false, confirmed: !tcp, closing: false }
    }

    fn after(self, segment: Segment, reply: bool, now: u64) -> Self {
        let (replied, closing) = (self.replied || reply, self.closing || segment.closes());
        let confirmed = self.confirmed || !reply && segment != Segment::Syn;
        Self { seen: now, replied, confirmed, closing, ..self }
    }
}
