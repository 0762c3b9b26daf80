//! The controller's metrics and health, which `crate::http` serves.
//!
//! Every metric of the controller is named here, once. The loop writes; the pages only read.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::Pages;

/// A loop without a pass for this many seconds is stuck.
const STUCK_SECONDS: i64 = 120;

type PageLabels = [(&'static str, &'static str); 1];

/// The state that the pages show.
#[derive(Debug)]
pub(crate) struct ControllerPages {
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// Tenants, by whether they are Ready.
    pub tenants: Family<PageLabels, Gauge>,
    /// Conflicts between objects, by kind.
    pub conflicts: Family<PageLabels, Gauge>,
    /// Nodes with the start-up taint.
    pub tainted: Gauge,
    /// Nodes without a ready agent for more than five minutes.
    pub unguarded: Gauge,
    /// Writes, by result.
    pub writes: Family<PageLabels, Counter>,
    /// Every watch has delivered its objects.
    pub synced: AtomicBool,
    last_pass: AtomicI64,
    registry: Registry,
}

impl Default for ControllerPages {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bulkhead_controller");
        let pages = Self {
            leader: Gauge::default(),
            tenants: Family::default(),
            conflicts: Family::default(),
            tainted: Gauge::default(),
            unguarded: Gauge::default(),
            writes: Family::default(),
            synced: AtomicBool::default(),
            last_pass: AtomicI64::new(Timestamp::now().as_second()),
            registry: Registry::default(),
        };
        registry.register("leader", "1 while this replica leads", pages.leader.clone());
        registry.register("tenants", "NetworkTenants, by whether they are Ready", pages.tenants.clone());
        registry.register("conflicts", "Conflicts between objects, by kind", pages.conflicts.clone());
        registry.register("nodes_tainted", "Nodes that still have the start-up taint", pages.tainted.clone());
        let help = "Nodes without a ready agent for more than five minutes";
        registry.register("nodes_without_ready_agent", help, pages.unguarded.clone());
        registry.register("writes", "Writes of statuses and taints, by result", pages.writes.clone());
        Self { registry, ..pages }
    }
}

impl ControllerPages {
    /// Records that the loop makes a pass.
    pub(crate) fn record_pass(&self) {
        self.last_pass.store(Timestamp::now().as_second(), Ordering::Relaxed);
    }
}

impl Pages for ControllerPages {
    fn metrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn not_live(&self) -> Vec<String> {
        let age = Timestamp::now().as_second() - self.last_pass.load(Ordering::Relaxed);
        let stuck = age > STUCK_SECONDS;
        stuck.then(|| "the controller's loop has made no pass for two minutes".to_owned()).into_iter().collect()
    }

    fn not_ready(&self) -> Vec<String> {
        let missing = !self.synced.load(Ordering::Relaxed);
        missing.then(|| "the watches have not delivered all objects yet".to_owned()).into_iter().collect()
    }
}
