//! Tests of Bulkhead on a real two-node Kubernetes: the image, the manifests and the agents that users install.
//!
//! Each file has one subject. A scenario is a function of a [`Site`](testbed::kube::Site) and a line in this list. All
//! scenarios run in this order on a cluster with routed pods. Those marked for both run again on a cluster with a
//! bridge.

mod address_reuse;
mod churn;
mod control_plane;
mod edits;
mod events;
mod guards;
mod install;
mod matrix;
mod node_input;
mod nri;
mod outage;
mod ranges;
mod service_ends;
mod services;
mod unassigned;
mod unclaimed;
mod uninstall;
mod unprotected;

use std::process::ExitCode;

use testbed::kube::run::{self, BOTH, PTP, Scenario};

const SCENARIOS: [Scenario; 34] = [
    Scenario::always("a_busy_cluster_is_enforced_without_restarting_a_pod", BOTH, install::enforces),
    Scenario::new("valid_tenants_are_accepted_and_invalid_ones_rejected", PTP, |site| {
        control_plane::valid_tenants_are_accepted_and_invalid_ones_rejected(&site.kubectl())
    }),
    Scenario::new("service_accounts_have_the_least_verbs", PTP, |site| {
        control_plane::service_accounts_have_the_least_verbs(&site.kubectl())
    }),
    Scenario::new("a_tenancy_key_needs_the_verb_assign", PTP, |site| {
        control_plane::a_tenancy_key_needs_the_verb_assign(&site.kubectl())
    }),
    Scenario::new("what_a_tenant_must_not_do_is_reported", PTP, |site| {
        control_plane::what_a_tenant_must_not_do_is_reported(&site.kubectl())
    }),
    Scenario::new("tenants_become_ready_and_the_newer_one_reports_a_conflict", PTP, |site| {
        control_plane::tenants_become_ready_and_the_newer_one_reports_a_conflict_by_the_controller(&site.kubectl())
    }),
    Scenario::new("a_peer_resolves_once_it_is_mutual", PTP, |site| {
        control_plane::a_peer_resolves_once_it_is_mutual_by_the_controller(&site.kubectl())
    }),
    Scenario::new("a_node_is_freed_when_its_agent_is_ready", PTP, |site| {
        control_plane::a_node_is_freed_when_its_agent_is_ready_by_the_controller(&site.kubectl())
    }),
    Scenario::new("the_connectivity_matrix_matches_the_objects", BOTH, matrix::matches_the_objects),
    Scenario::new("ranges_are_learnt_and_a_node_that_does_not_know_them_is_not_ready", PTP, ranges::are_learnt),
    Scenario::new("dns_names_give_the_same_results", PTP, matrix::dns_names_give_the_same),
    Scenario::new("events_name_both_sides", BOTH, events::name_both_sides),
    Scenario::new("events_name_the_reason", PTP, events::name_the_reason),
    Scenario::new("events_name_both_sides_where_it_arrives", PTP, events::name_both_sides_where_it_arrives),
    Scenario::new("an_interface_that_no_pod_claims_is_denied", PTP, unclaimed::are_denied),
    Scenario::new("a_guard_alone_keeps_unclaimed_senders_on_their_node", PTP, guards::stand_alone),
    Scenario::new("the_cgroup_guard_alone_stops_sockets_of_unclaimed_pods", PTP, guards::stand_alone_on_control_groups),
    Scenario::new("host_network_pods_of_tenants_are_reported", PTP, unprotected::host_network_pods_are_reported),
    Scenario::new("an_address_that_changes_hands_changes_tenants", BOTH, address_reuse::inherits_nothing),
    Scenario::new("a_subnet_is_added_and_removed", BOTH, edits::a_subnet),
    Scenario::new("peers_agree_and_withdraw", PTP, edits::peers),
    Scenario::new("a_namespace_moves_between_tenants", PTP, edits::a_namespace),
    Scenario::new("a_namespace_loses_its_label", PTP, edits::a_label),
    Scenario::new("a_tenant_is_audited_for_a_while", PTP, edits::a_mode),
    Scenario::new("namespaces_in_no_tenant_follow_the_setting", PTP, unassigned::each_setting),
    Scenario::new("a_pod_s_first_command_finds_its_policy_in_force", PTP, nri::holds_new_pods),
    Scenario::new("a_service_reaches_nothing_that_its_tenant_may_not_reach", BOTH, services::reach_nothing_else),
    Scenario::new("services_are_judged_by_the_ends_that_are_there", PTP, service_ends::are_judged_by_who_is_there),
    Scenario::new("a_service_leads_no_pod_to_the_node_itself", BOTH, node_input::is_denied),
    Scenario::new("an_exact_entry_opens_its_ports_of_a_node", BOTH, node_input::is_opened_by_exact_entries),
    Scenario::new("short_lived_pods_reach_their_own_tenant_only", PTP, churn::of_short_lived_pods),
    Scenario::new("an_outage_changes_nothing_and_the_next_edit_counts", PTP, outage::without_an_api_server),
    Scenario::new("agents_are_replaced_amid_traffic", BOTH, outage::agents_are_replaced),
    Scenario::always("uninstalling_restores_the_nodes", BOTH, uninstall::restores),
];

fn main() -> ExitCode {
    run::main(&SCENARIOS)
}
