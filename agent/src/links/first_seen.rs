//! When the kernel first reported each new interface.
//!
//! Knows indices and times. Each time is taken once, so an index that is used again has its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;

/// Times of first report by interface, shared between the netlink task and the reconcile loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstSeen(Arc<Mutex<HashMap<u32, Instant>>>);

impl FirstSeen {
    /// When this interface was first reported. `None` if it existed before this agent, and on a second call.
    pub(crate) fn take(&self, ifindex: u32) -> Option<Instant> {
        self.with(|seen| seen.remove(&ifindex))
    }

    /// Takes in a message; `is_known` says whether an interface was listed before.
    pub(crate) fn record(&self, message: &NetlinkPayload<RouteNetlinkMessage>, is_known: impl Fn(u32) -> bool) {
        match message {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if !is_known(link.header.index) => {
                self.with(|seen| _ = seen.entry(link.header.index).or_insert_with(Instant::now));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.with(|seen| _ = seen.remove(&link.header.index));
            }
            _ => {}
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<u32, Instant>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    fn link(ifindex: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message
    }

    #[test]
    fn only_a_new_interface_has_a_time_and_only_once() {
        let first_seen = FirstSeen::default();
        let appears = |ifindex, is_known: bool| {
            let message = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link(ifindex)));
            first_seen.record(&message, |_| is_known);
        };
        appears(7, false);
        appears(8, true);
        appears(9, false);
        first_seen.record(&NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link(9))), |_| false);
        let taken = [7, 8, 9].map(|ifindex| first_seen.take(ifindex).is_some());
        assert_eq!((taken, first_seen.take(7)), ([true, false, false], None));
    }
}
