//! All metrics: name, type, labels and help, each defined once.
//!
//! Holds no value. The help gives the unit and the meaning in one sentence. `docs/reference/metrics.md` shows it.

use prometheus_client::metrics::MetricType;

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Name, without the `_total` that counters get on the page.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// Label names, in the order in which samples give their values.
    pub labels: &'static [&'static str],
    /// One sentence with the meaning and the unit.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(crate) static $id: Metric =
                Metric { name: $name, kind: MetricType::$kind, labels: &[$($label),*], help: $help };
        )+
        /// All, in the order in which they are written.
        pub(crate) static ALL: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    PACKETS = Counter "bulkhead_packets" ["verdict", "direction"]
        "Packets that the programs on pod interfaces decided on, by verdict.";
    PACKET_BYTES = Counter "bulkhead_packet_bytes" ["verdict", "direction"]
        "Bytes of the packets that the programs on pod interfaces decided on, by verdict.";
    DROP_PACKETS = Counter "bulkhead_drop_packets" ["reason", "direction"]
        "Packets that were dropped, by drop reason.";
    DROP_BYTES = Counter "bulkhead_drop_bytes" ["reason", "direction"]
        "Bytes of the packets that were dropped, by drop reason.";
    AUDIT_PACKETS = Counter "bulkhead_audit_packets" ["reason", "direction"]
        "Packets that audit mode let pass and enforce mode would drop, by drop reason.";
    TENANT_DROP_PACKETS = Counter "bulkhead_tenant_drop_packets" ["source_tenant", "reason"]
        "Packets from local pods that were dropped, by the tenant of the sender.";
    TENANT_AUDIT_PACKETS = Counter "bulkhead_tenant_audit_packets" ["source_tenant", "reason"]
        "Packets from local pods that enforce mode would drop, by the tenant of the sender.";
    TENANT_INGRESS_DROP_PACKETS = Counter "bulkhead_tenant_ingress_drop_packets" ["destination_tenant", "reason"]
        "Packets to local pods that were dropped, by the tenant of the receiver.";
    GUARD_DROP_PACKETS = Counter "bulkhead_guard_drop_packets" ["guard", "reason"]
        "Packets that a guard dropped: the sender is no claimed pod, the post-NAT check denied them, or they are malformed.";
    GUARD_INTERFACES = Gauge "bulkhead_guard_interfaces" ["guard"]
        "Interfaces that a guard belongs on; for the cgroup guard, the number of cgroups (0 or 1).";
    GUARD_BROKEN = Gauge "bulkhead_guard_broken" []
        "Parts of the guards that could not be attached or written.";
    POD_RANGE_KNOWN = Gauge "bulkhead_pod_range_known" []
        "Whether the range of pods is known. While it is not, wide egress ranges open no private address (0 or 1).";
    TENANTS = Gauge "bulkhead_tenants" ["state"]
        "Tenants that the agent knows, by state.";
    ENDPOINTS = Gauge "bulkhead_endpoints" ["state"]
        "Pods on this node, by enforcement state.";
    UNPROTECTED = Gauge "bulkhead_unprotected_pods" ["reason"]
        "Pods on this node with traffic that no program judges, by reason; a pod with two reasons counts for each.";
    ENDPOINT_ATTACH = Counter "bulkhead_endpoint_attach" ["result"]
        "Attempts to attach the programs to a pod interface, by result.";
    DISPLACEMENTS = Counter "bulkhead_displacements" []
        "Times that another program was found before one of Bulkhead's at a hook; Bulkhead's was moved to the front.";
    ENDPOINT_DENIED = Histogram "bulkhead_endpoint_denied_seconds" []
        "Seconds from the first sight of a pod interface until every packet from it is denied.";
    ENDPOINT_EXPOSURE = Histogram "bulkhead_endpoint_exposure_seconds" []
        "Seconds from the first sight of a pod interface until its policy is enforced, network plugins included.";
    NRI_CONNECTED = Gauge "bulkhead_nri_connected" []
        "1 while the container runtime lets the agent hold new sandboxes; absent without --nri-socket.";
    NRI_HOLD = Histogram "bulkhead_nri_hold_seconds" ["result"]
        "Seconds for which a new sandbox was held, by whether its interface was enforced in time.";
    POLICY_REVISION = Gauge "bulkhead_policy_revision" []
        "Revision of the policy in the kernel; each node counts for itself.";
    POLICY_PENDING = Gauge "bulkhead_policy_pending" []
        "1 while a newer policy is not completely written to the kernel.";
    POLICY_LAST_APPLIED = Gauge "bulkhead_policy_last_applied_timestamp_seconds" []
        "Time of the last policy write to the kernel, in seconds since 1970.";
    POLICY_PROPAGATION = Histogram "bulkhead_policy_propagation_seconds" ["source"]
        "Seconds from the oldest change of a burst until the kernel maps hold it, by kind of object.";
    POLICY_ERRORS = Counter "bulkhead_policy_errors" ["stage"]
        "Failed policy operations, by stage: build, apply or prune.";
    ENFORCEMENT_MODE = Gauge "bulkhead_enforcement_mode" ["mode"]
        "1 for the mode of tenants that name none, 0 for the other mode.";
    MAP_ENTRIES = Gauge "bulkhead_bpf_map_entries" ["map"]
        "Entries in use, by map.";
    MAP_MAX_ENTRIES = Gauge "bulkhead_bpf_map_max_entries" ["map"]
        "Entries that the map can hold.";
    MAP_ERRORS = Counter "bulkhead_bpf_map_errors" ["map", "operation"]
        "Failed operations on maps, by map and operation.";
    PROGRAM_ERRORS = Counter "bulkhead_program_errors" ["operation"]
        "Operations that failed in the programs: packet headers not read.";
    REPLY_EVICTIONS = Counter "bulkhead_reply_evictions" []
        "Connections in use that lost their entry in the reply table to another one of their pod.";
    MEMORY = Gauge "bulkhead_bpf_memory_bytes" ["kind"]
        "Bytes of kernel memory that maps and programs use.";
    EVENTS_RECEIVED = Counter "bulkhead_events_received" []
        "Records read from the ring buffer.";
    EVENTS_SUPPRESSED = Counter "bulkhead_events_suppressed" []
        "Records whose packets were added to an earlier event of the same flow.";
    EVENTS_PRESUMED_PACKETS = Counter "bulkhead_events_presumed_packets" []
        "Packets in no event of this agent, because an earlier agent is presumed to have reported them.";
    EVENTS_LOST = Counter "bulkhead_events_lost" ["stage"]
        "Records and events that reached no sink, by the stage that lost them; packet counters stay exact.";
    EVENTS_EXPORTED = Counter "bulkhead_events_exported" ["sink", "result"]
        "Events that a sink took or refused, by result.";
    EVENTS_QUEUE = Gauge "bulkhead_events_queue_length" ["sink"]
        "Events that wait for a sink.";
    EVENTS_LAST = Gauge "bulkhead_events_last_exported_timestamp_seconds" ["sink"]
        "Time at which a sink last took an event, in seconds since 1970.";
    WATCH_SYNCED = Gauge "bulkhead_kube_watch_synced" ["resource"]
        "1 while every watch of the resource is established and complete.";
    WATCH_ERRORS = Counter "bulkhead_kube_watch_errors" ["resource"]
        "Failures of a watch, and objects that could not be read, by resource.";
    WATCH_LAST_EVENT = Gauge "bulkhead_kube_watch_last_event_timestamp_seconds" ["resource"]
        "When the API server last sent an object or a bookmark to a watch of the resource.";
    AGENT_READY = Gauge "bulkhead_agent_ready" []
        "1 while the agent is ready: all local pods are enforced and all writes are done.";
    BOOTSTRAP = Gauge "bulkhead_bootstrap_duration_seconds" ["phase"]
        "Seconds from the start of the agent to the end of each phase.";
    BUILD_INFO = Gauge "bulkhead_build_info" ["version", "revision", "rustc", "kernel", "arch"]
        "Always 1; the labels hold versions of the agent, its compiler and the kernel.";
    PROCESS_CPU = Counter "process_cpu_seconds" []
        "Seconds of user and system CPU time that the agent used.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors of the agent.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Limit of the open file descriptors of the agent.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory of the agent in bytes.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory of the agent in bytes.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "Time at which the agent started, in seconds since 1970.";
}
