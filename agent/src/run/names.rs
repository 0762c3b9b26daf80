//! Names of addresses, interfaces and tenants, looked up in a snapshot.
//!
//! Only reads the snapshot. An address without an owner has no name, and none is guessed.

use std::net::IpAddr;

use agent_common::addr::V6;
use agent_common::layout::EndpointEntry;
use agent_common::tenant::TenantId;

use crate::events::enrich::{Named, Names, TenantNamed};
use crate::events::schema::{FlowEndpointKind, WorkloadRef};
use crate::reconcile::Snapshot;
use policy::model::input::Range;
use policy::model::pod::Pod;

impl Names for Snapshot {
    fn endpoint(&self, ifindex: u32, _cookie: u32) -> Option<Named> {
        self.endpoint_on(ifindex).map(|view| pod(self, &view.status.pod))
    }

    fn address(&self, address: IpAddr, _at_ns: u64) -> Option<Named> {
        if let Some(found) = self.pod(address) {
            return Some(pod(self, found));
        }
        if self.nodes.contains(&address) {
            return Some(Named { kind: FlowEndpointKind::Host, ..Named::default() });
        }
        if let Some(service) = self.service(address) {
            return Some(Named {
                kind: FlowEndpointKind::Service,
                tenant: self.tenant_of(&service.namespace).map(ToString::to_string),
                namespace: Some(service.namespace.clone()),
                name: Some(service.name.clone()),
                ..Named::default()
            });
        }
        let (tenant, range) = self.subnet(address)?;
        Some(Named {
            kind: FlowEndpointKind::External,
            tenant: Some(tenant),
            subnet: Some(range.name.clone()),
            ..Named::default()
        })
    }

    fn tenant(&self, id: TenantId) -> Option<TenantNamed> {
        let tenant = self.tenants.get(&id)?;
        Some(TenantNamed { name: tenant.name.to_string(), audit: tenant.member.is_audited(&self.settings) })
    }

    fn rule(&self, tenant: TenantId, address: IpAddr) -> Option<String> {
        let object = self.tenants.get(&tenant)?.member.object.as_ref()?;
        let covers = |range: &&Range| range.cidr.contains(&address);
        let subnet = object.subnets.iter().filter(covers).max_by_key(|range| range.cidr.prefix_len());
        let egress = object.egress.iter().filter(covers).max_by_key(|range| range.cidr.prefix_len());
        match (subnet, egress) {
            (Some(subnet), _) => Some(format!("subnets/{}", subnet.name)),
            (None, Some(egress)) => Some(format!("egress/{}", egress.name)),
            (None, None) => None,
        }
    }
}

impl Snapshot {
    /// The tenant whose subnet contains an address.
    fn subnet(&self, address: IpAddr) -> Option<(String, &Range)> {
        self.tenants.values().find_map(|tenant| {
            let object = tenant.member.object.as_ref()?;
            let range = object.subnets.iter().find(|range| range.cidr.contains(&address))?;
            Some((tenant.name.to_string(), range))
        })
    }
}

fn pod(snapshot: &Snapshot, pod: &Pod) -> Named {
    let key = pod.key();
    let text = |text: String| (!text.is_empty()).then_some(text);
    Named {
        kind: FlowEndpointKind::Pod,
        tenant: snapshot.tenant_of(&key.namespace).map(ToString::to_string),
        namespace: text(key.namespace),
        pod: text(key.name),
        uid: text(pod.uid.to_string()),
        workload: pod
            .workload
            .as_ref()
            .map(|workload| WorkloadRef { kind: workload.kind.to_string(), name: workload.name.to_string() }),
        ..Named::default()
    }
}

/// The addresses of an endpoint's entry.
pub(crate) fn addresses(entry: &EndpointEntry) -> Vec<IpAddr> {
    let v4 = (entry.v4.0 != 0).then(|| IpAddr::from(entry.v4.octets()));
    let v6 = (entry.v6 != V6::UNSPECIFIED).then(|| IpAddr::from(entry.v6.octets()));
    v4.into_iter().chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use policy::model::input::{Change, Service};
    use policy::model::settings::Settings;
    use policy::model::testing::{ip, key, link, local, namespace, tenant};

    use super::*;
    use crate::dataplane::mem_dataplane::MemDataplane;
    use crate::reconcile::{Now, ReconcileState, step};

    #[test]
    fn an_address_is_named_as_what_has_it() {
        let mut kernel = MemDataplane::default();
        let mut state = ReconcileState::start(&mut kernel, Settings::default()).expect("a readable kernel");
        let (address, end) = (ip("10.96.0.7"), ip("10.0.0.1"));
        let changes = vec![
            Change::Tenants(vec![tenant("acme")]),
            Change::Namespaces(vec![namespace("web", "acme")]),
            Change::Services(vec![Service { key: key("web/shop"), addresses: vec![address], ends: vec![end] }]),
            Change::Endpoints(vec![local("web/a", &["10.0.0.1"], "veth7")]),
            Change::Links(vec![link(7, "veth7")]),
            Change::Nodes(vec![ip("192.0.2.1")]),
        ];
        step(&mut state, &mut kernel, changes, Now { unix: 1000, tick: std::time::Duration::ZERO });
        let named = |address| state.snapshot().address(address, 0).unwrap_or_default();
        let service = named(address);
        assert_eq!((service.kind, service.tenant.as_deref()), (FlowEndpointKind::Service, Some("acme")));
        assert_eq!((service.namespace.as_deref(), service.name.as_deref()), (Some("web"), Some("shop")));
        assert_eq!((named(end).kind, named(end).pod.as_deref()), (FlowEndpointKind::Pod, Some("a")));
        assert_eq!(named(ip("192.0.2.1")).kind, FlowEndpointKind::Host);
        assert_eq!(named(ip("10.96.0.8")).kind, FlowEndpointKind::Unknown, "the control: no Service has it");
    }
}
