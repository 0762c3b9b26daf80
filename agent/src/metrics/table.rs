//! The table of metrics: name, type, labels, help. Each stands here once and nowhere else.

use prometheus_client::metrics::MetricType;

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name as it is searched for, without the `_total` that counters get.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// Label names, in the order in which samples give their values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $id: Metric =
                Metric { name: $name, kind: MetricType::$kind, labels: &[$($label),*], help: $help };
        )+
        /// All, in the order in which they are written.
        pub static ALL: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    PACKETS = Counter "bulkhead_packets" ["verdict", "direction"]
        "Packets the enforcement programs decided on.";
    PACKET_BYTES = Counter "bulkhead_packet_bytes" ["verdict", "direction"]
        "Bytes the enforcement programs decided on.";
    DROP_PACKETS = Counter "bulkhead_drop_packets" ["reason", "direction"]
        "Packets dropped, counted in the kernel.";
    DROP_BYTES = Counter "bulkhead_drop_bytes" ["reason", "direction"]
        "Bytes dropped, counted in the kernel.";
    AUDIT_PACKETS = Counter "bulkhead_audit_packets" ["reason", "direction"]
        "Packets that would have been dropped in enforce mode.";
    TENANT_DROP_PACKETS = Counter "bulkhead_tenant_drop_packets" ["source_tenant", "reason"]
        "Packets dropped, by the local tenant that sent them.";
    TENANT_AUDIT_PACKETS = Counter "bulkhead_tenant_audit_packets" ["source_tenant", "reason"]
        "Packets that would have been dropped in enforce mode, by the local tenant that sent them.";
    TENANT_INGRESS_DROP_PACKETS = Counter "bulkhead_tenant_ingress_drop_packets" ["destination_tenant", "reason"]
        "Packets dropped on their way to a local pod, by the tenant they were for.";
    GUARD_DROP_PACKETS = Counter "bulkhead_guard_drop_packets" ["guard", "reason"]
        "Packets dropped by the guards on what leaves the node: their sender is not claimed, or a Service led them astray.";
    GUARD_INTERFACES = Gauge "bulkhead_guard_interfaces" ["guard"]
        "Interfaces that hold a guard, or should; for cgroup, the group that holds all pods.";
    GUARD_BROKEN = Gauge "bulkhead_guard_broken" []
        "Parts of the guards that could not be put in place.";
    TENANTS = Gauge "bulkhead_tenants" ["state"]
        "Tenants the agent knows.";
    ENDPOINTS = Gauge "bulkhead_endpoints" ["state"]
        "Pods on this node, by enforcement state.";
    ENDPOINT_ATTACH = Counter "bulkhead_endpoint_attach" ["result"]
        "Attempts to attach to a pod interface.";
    ENDPOINT_DENIED = Histogram "bulkhead_endpoint_denied_seconds" []
        "Time from first sight of a pod interface until nothing comes out of it any more; from then on it is denied.";
    ENDPOINT_EXPOSURE = Histogram "bulkhead_endpoint_exposure_seconds" []
        "Time from first sight of a pod interface to the right policy on it; the network plugins' own time is in it.";
    NRI_CONNECTED = Gauge "bulkhead_nri_connected" []
        "1 while the container runtime lets the agent hold new sandboxes; absent unless that is asked for.";
    NRI_HOLD = Histogram "bulkhead_nri_hold_seconds" ["result"]
        "Time a new sandbox was held until its interface was enforced, or in vain.";
    POLICY_REVISION = Gauge "bulkhead_policy_revision" []
        "Policy revision now in the kernel, local to the node.";
    POLICY_PENDING = Gauge "bulkhead_policy_pending" []
        "1 while a newer policy waits to be written.";
    POLICY_LAST_APPLIED = Gauge "bulkhead_policy_last_applied_timestamp_seconds" []
        "When the policy in the kernel was applied.";
    POLICY_PROPAGATION = Histogram "bulkhead_policy_propagation_seconds" ["source"]
        "Time from a change seen to the kernel maps written; the oldest of a burst counts.";
    POLICY_ERRORS = Counter "bulkhead_policy_errors" ["stage"]
        "Failures to read, build or apply a policy.";
    ENFORCEMENT_MODE = Gauge "bulkhead_enforcement_mode" ["mode"]
        "1 for the mode in force.";
    MAP_ENTRIES = Gauge "bulkhead_bpf_map_entries" ["map"]
        "Entries in use.";
    MAP_MAX_ENTRIES = Gauge "bulkhead_bpf_map_max_entries" ["map"]
        "Entries the map can hold.";
    MAP_ERRORS = Counter "bulkhead_bpf_map_errors" ["map", "operation"]
        "Failed map operations.";
    MEMORY = Gauge "bulkhead_bpf_memory_bytes" ["kind"]
        "Kernel memory of maps and programs.";
    EVENTS_RECEIVED = Counter "bulkhead_events_received" []
        "Records read from the ring buffer.";
    EVENTS_SUPPRESSED = Counter "bulkhead_events_suppressed" []
        "Records folded into an earlier event.";
    EVENTS_LOST = Counter "bulkhead_events_lost" ["stage"]
        "Records that reached no sink, by the stage that lost them; packet counters are not affected.";
    EVENTS_EXPORTED = Counter "bulkhead_events_exported" ["sink", "result"]
        "Events handed to a sink.";
    EVENTS_QUEUE = Gauge "bulkhead_events_queue_length" ["sink"]
        "Events waiting for a sink.";
    EVENTS_LAST = Gauge "bulkhead_events_last_exported_timestamp_seconds" ["sink"]
        "When a sink last took an event.";
    WATCH_SYNCED = Gauge "bulkhead_kube_watch_synced" ["resource"]
        "1 while every watch of the resource is established and complete.";
    WATCH_ERRORS = Counter "bulkhead_kube_watch_errors" ["resource"]
        "Failures of a watch, and objects that could not be read.";
    WATCH_LAST_EVENT = Gauge "bulkhead_kube_watch_last_event_timestamp_seconds" ["resource"]
        "When the API server last sent an object or a bookmark to a watch of the resource.";
    AGENT_READY = Gauge "bulkhead_agent_ready" []
        "1 when all local pods are enforced and everything known is in the kernel.";
    BOOTSTRAP = Gauge "bulkhead_bootstrap_duration_seconds" ["phase"]
        "Time in each phase of the start.";
    BUILD_INFO = Gauge "bulkhead_build_info" ["version", "revision", "rustc", "kernel", "arch"]
        "Always 1.";
    PROCESS_CPU = Counter "process_cpu_seconds" []
        "User and system CPU time spent.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Most file descriptors that may be open.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory size.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory size.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "When the process started, seconds since 1970.";
}
