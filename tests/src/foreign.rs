//! Programs of another agent on an interface: each decides every packet in the same way.
//!
//! Dropping the value detaches the program.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier};

use crate::measure::sys::{self, Instruction};
use crate::netns::Netns;
use crate::scope::Scope;

/// The packet passes, and the hook's later programs do not run (`TC_ACT_OK`).
pub const PASS: i32 = 0;
/// The next program decides (`TC_ACT_UNSPEC`).
pub const NEXT: i32 = -1;

/// A loaded and attached program.
#[derive(Debug)]
pub struct Foreign {
    /// Its id.
    pub id: u32,
    _link: SchedClassifierLink,
}

impl Foreign {
    /// Attaches by TCX, before all programs of the hook.
    pub fn before_all(scope: &Scope, netns: &Netns, interface: &str, at: TcAttachType, verdict: i32) -> Result<Self> {
        Self::attach(scope, netns, verdict, |program| {
            program.attach_with_options(interface, at, TcAttachOptions::TcxOrder(LinkOrder::first()))
        })
    }

    /// Attaches by clsact, with this priority and handle.
    pub fn filter(
        scope: &Scope,
        netns: &Netns,
        interface: &str,
        at: TcAttachType,
        verdict: i32,
        (priority, handle): (u16, u16),
    ) -> Result<Self> {
        Self::attach(scope, netns, verdict, |program| {
            // It may be there already.
            let _ = qdisc_add_clsact(interface);
            let options = NlOptions { priority, handle: TcHandle::new(0, handle), classid: None };
            program.attach_with_options(interface, at, TcAttachOptions::Netlink(options))
        })
    }

    /// Puts an XDP program that passes everything on an interface, until the interface is gone.
    pub fn xdp(scope: &Scope, netns: &Netns, interface: &str) -> Result<()> {
        // `XDP_PASS`.
        let loaded = sys::load_xdp(&[Instruction(0xb7, 0, 0, 2), Instruction(0x95, 0, 0, 0)])?;
        let pin = scope.file("bpf").join("xdp");
        sys::pin(loaded.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        netns.ip(&format!("link set dev {interface} xdpgeneric pinned {}", pin.display()))
    }

    fn attach(
        scope: &Scope,
        netns: &Netns,
        verdict: i32,
        attach: impl FnOnce(&mut SchedClassifier) -> Result<aya::programs::tc::SchedClassifierLinkId, ProgramError> + Send,
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // `r0 = VERDICT; exit`.
        let loaded = sys::load(&[Instruction(0xb7, 0, 0, verdict), Instruction(0x95, 0, 0, 0)])?;
        let pin = scope.file("bpf").join(format!("foreign{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        sys::pin(loaded.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        let mut program = SchedClassifier::from_pin(&pin)?;
        let attached = netns.run(|| attach(&mut program))?;
        Ok(Self { id: program.info()?.id(), _link: program.take_link(attached)? })
    }
}
