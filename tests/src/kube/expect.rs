//! Computes from the objects which probes must pass: the second statement of the policy.
//!
//! This module follows the documentation and knows nothing of the agent. It is slow on purpose: each rule reads as an
//! administrator would state it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::question::{How, Question, Side};
use super::world::{ClusterWorld, NAMESPACES, OTHER_PORT, PORT, SHARED};
use crate::config::{Config, Port, Tenant};
use crate::host::Family;
use crate::probe::Transport;

/// The setting for namespaces in no tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unassigned {
    /// Each is a tenant of its own.
    Isolate,
    /// As `Isolate`, but packets pass and are reported.
    Audit,
    /// Destinations are not checked.
    Allow,
}

/// The objects in force, and the administrator's settings.
#[derive(Clone, Debug)]
pub struct Policy {
    /// NetworkTenants, and the tenant label of each namespace.
    pub objects: Config,
    /// The setting for all other namespaces.
    pub unassigned: Unassigned,
}

/// The owner of a namespace.
#[derive(Clone, Copy, Debug)]
enum Owner<'a> {
    Tenant(&'a Tenant),
    /// The cluster's own services.
    Shared,
    Nobody,
}

impl Policy {
    /// The policy at the start of every scenario. acme has two data subnets, one of them for PostgreSQL only. globex
    /// has one data subnet and may reach the internet.
    pub fn new() -> Self {
        let range = |name: &str, cidr: &str, ports: &[Port]| (name.to_owned(), cidr.to_owned(), ports.to_vec());
        let (postgres, all) = ([("TCP", PORT)], []);
        let acme = Tenant {
            name: "acme".into(),
            subnets: vec![
                range("rds-a", "10.40.0.0/24", &postgres),
                range("rds-b", "fd00:40::/64", &postgres),
                range("efs-a", "10.41.0.0/24", &all),
                range("efs-b", "fd00:41::/64", &all),
            ],
            ..Tenant::default()
        };
        let everywhere = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        let web = vec![("TCP", OTHER_PORT), ("UDP", OTHER_PORT)];
        let globex = Tenant {
            name: "globex".into(),
            subnets: vec![range("db-a", "10.42.0.0/24", &all), range("db-b", "fd00:42::/64", &all)],
            egress: vec![("internet".to_owned(), everywhere, web)],
            ..Tenant::default()
        };
        let labelled =
            NAMESPACES.iter().filter_map(|(name, tenant)| Some((String::from(*name), (*tenant)?.to_owned())));
        let objects = Config { tenants: vec![acme, globex], namespaces: labelled.collect(), ..Config::default() };
        Self { objects, unassigned: Unassigned::Isolate }
    }

    /// The tenant of this name.
    pub fn tenant(&mut self, name: &str) -> &mut Tenant {
        self.objects.tenant(name)
    }

    /// Whether a probe should be answered.
    pub fn allows(&self, world: &ClusterWorld, question: &Question) -> bool {
        match question.from {
            Side::Pod(pod) => self.pod_may(world, pod, question),
            Side::Outside(_) => self.outside_may(world, question),
            // Probes and exec come from nodes.
            _ => true,
        }
    }

    /// Whether the outcome is a matter of chance: at a node port kube-proxy picks one of the Service's pods. A pod on
    /// that node does not answer another tenant's data subnet. A pod on another node sees the node's address as the
    /// source.
    pub fn is_chance(&self, world: &ClusterWorld, question: &Question) -> bool {
        let Side::NodePort(_) = question.to else { return false };
        // A pod of the same node knows the tenant of packets that Audit or Allow let pass, whatever their source
        // address.
        if let Side::Pod(pod) = question.from {
            return match self.owner(&world.pods[pod].namespace) {
                Owner::Nobody => self.unassigned != Unassigned::Isolate,
                Owner::Tenant(tenant) => tenant.audit && tenant.name != "acme",
                Owner::Shared => false,
            };
        }
        let outside = matches!(question.from, Side::Outside(_));
        let address = question.from.address(world, question.family).filter(|_| outside);
        let owned = |address| {
            let others = self.objects.tenants.iter().filter(|tenant| tenant.name != "acme");
            others.flat_map(|tenant| &tenant.subnets).any(|(_, cidr, _)| covers(cidr, address))
        };
        address.is_some_and(|address| is_metadata(address) || owned(address))
    }

    fn owner(&self, namespace: &str) -> Owner<'_> {
        let label = self.objects.namespaces.iter().find(|(name, _)| name == namespace);
        let tenant = label.and_then(|(_, tenant)| self.objects.tenants.iter().find(|t| t.name == *tenant));
        match tenant {
            Some(tenant) => Owner::Tenant(tenant),
            None if namespace == SHARED => Owner::Shared,
            None => Owner::Nobody,
        }
    }

    fn pod_may(&self, world: &ClusterWorld, pod: usize, question: &Question) -> bool {
        let namespace = &world.pods[pod].namespace;
        let own = self.owner(namespace);
        match question.to {
            Side::Pod(to) => self.may_reach_pod(namespace, &world.pods[to].namespace),
            Side::Service(to) => self.may_reach_pod(namespace, &world.services[to].namespace),
            Side::Dns => self.may_reach_pod(namespace, SHARED),
            // The rule for node addresses comes before the rule for the Service behind them.
            Side::Node(_) | Side::NodePort(_) | Side::ApiService => self.may_reach_nodes(own, true),
            // The addresses come from its own Service, which is IPv4 here.
            Side::ApiServer => self.may_reach_nodes(own, question.family == Family::V4),
            Side::Outside(_) => question
                .to
                .address(world, question.family)
                .is_some_and(|address| self.may_leave(own, address, question)),
        }
    }

    /// Whether a pod may reach a node's address. Shared tenants may not reach an unknown address in the node range.
    fn may_reach_nodes(&self, own: Owner<'_>, named: bool) -> bool {
        match own {
            Owner::Shared => named,
            Owner::Tenant(tenant) => tenant.shared && named || tenant.audit,
            Owner::Nobody => self.unassigned != Unassigned::Isolate,
        }
    }

    fn may_reach_pod(&self, from: &str, to: &str) -> bool {
        from == to
            || match (self.owner(from), self.owner(to)) {
                (Owner::Shared, _) | (_, Owner::Shared) => true,
                (Owner::Tenant(one), Owner::Tenant(other)) => {
                    one.name == other.name || one.shared || other.shared || agreed(one, other)
                }
                (Owner::Nobody, Owner::Nobody) => self.unassigned != Unassigned::Isolate,
                // Pods of a tenant have no connections with unassigned pods, unless the tenant is Shared.
                (Owner::Tenant(tenant), Owner::Nobody) | (Owner::Nobody, Owner::Tenant(tenant)) => tenant.shared,
            }
    }

    fn may_leave(&self, own: Owner<'_>, address: IpAddr, question: &Question) -> bool {
        let others = |name: &str| {
            let mut subnets = self.objects.tenants.iter().filter(|t| t.name != name).flat_map(|t| &t.subnets);
            subnets.any(|(_, cidr, _)| covers(cidr, address))
        };
        match own {
            Owner::Shared => false,
            Owner::Nobody => match self.unassigned {
                Unassigned::Isolate => false,
                Unassigned::Audit => true,
                Unassigned::Allow => !is_metadata(address) && !others(""),
            },
            Owner::Tenant(tenant) => {
                let subnets =
                    tenant.subnets.iter().any(|(_, cidr, ports)| covers(cidr, address) && fits(ports, question));
                let ranges = tenant.egress.iter().filter(|(_, _, ports)| fits(ports, question));
                let egress = ranges.flat_map(|(_, cidrs, _)| cidrs).any(|cidr| covers(cidr, address));
                tenant.audit || !is_metadata(address) && (subnets || egress && !others(&tenant.name))
            }
        }
    }

    /// Whether a probe from outside gets an answer. Only packets from another tenant's data subnet are denied. A packet
    /// from a metadata address is denied too, because the pod's tenant does not list that address.
    fn outside_may(&self, world: &ClusterWorld, question: &Question) -> bool {
        // At a node's port kube-proxy puts the node's address instead of the sender's, and nodes may open connections.
        let Side::Pod(pod) = question.to else { return true };
        let Some(address) = question.from.address(world, question.family) else { return false };
        let owner = self.owner(&world.pods[pod].namespace);
        let reported = match owner {
            Owner::Shared => false,
            Owner::Tenant(tenant) => tenant.audit,
            Owner::Nobody => self.unassigned == Unassigned::Audit,
        };
        let is = |tenant: &Tenant| matches!(owner, Owner::Tenant(own) if own.name == tenant.name);
        let owns = |tenant: &&Tenant| tenant.subnets.iter().any(|(_, cidr, _)| covers(cidr, address));
        reported || !is_metadata(address) && self.objects.tenants.iter().filter(owns).all(is)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether both list each other, in the direction from the first to the second.
fn agreed(from: &Tenant, to: &Tenant) -> bool {
    let lists = |own: &Tenant, other: &Tenant, direction: &str| {
        own.peers.iter().any(|(tenant, d)| *tenant == other.name && (d == direction || d == "Both"))
    };
    lists(from, to, "Egress") && lists(to, from, "Ingress")
}

fn covers(cidr: &str, address: IpAddr) -> bool {
    cidr.parse::<IpNet>().is_ok_and(|net| net.contains(&address))
}

/// Whether a list of ports allows a probe. An empty list allows all ports and ICMP.
fn fits(ports: &[Port], question: &Question) -> bool {
    let protocol = match question.how {
        How::Echo(Transport::Tcp) | How::Connect => "TCP",
        How::Echo(Transport::Udp) => "UDP",
        How::Echo(Transport::Icmp) => "ICMP",
    };
    ports.is_empty() || ports.contains(&(protocol, question.port))
}

fn is_metadata(address: IpAddr) -> bool {
    address == IpAddr::from([169, 254, 169, 254])
}
