//! The counters of losses.
//!
//! Knows no packet. A stage that cannot report or record something counts it here.

#![allow(unsafe_code)]

use agent_common::counters::Loss;

use crate::maps;

/// Counts a loss.
#[inline(always)]
pub(crate) fn count(loss: Loss, amount: u64) {
    if let Some(lost) = maps::LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: this CPU's own value of a per-CPU map; programs on one hook do not interrupt each other on a CPU.
        unsafe { *lost += amount };
    }
}
