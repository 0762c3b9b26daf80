//! The addresses of all hosts. They are the same in every cluster, because each has network namespaces of its own.
//!
//! ```text
//!                     lan 198.18.0.0/24, fd00:198:18::/64
//!    ┌──────────┬──────────────┼──────────────┐
//!    cp .10     a .11          b .12          db .20   default route of all others,
//!    API server pods 10.244.1  pods 10.244.2           data subnets and the "internet"
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

/// One host of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its host name, node name, and the end of its namespace's name.
    pub name: &'static str,
    /// The last part of its addresses on the lan, in both families.
    pub number: u8,
    /// For a node: the number of its pod ranges.
    pub pods: Option<u8>,
}

/// The control plane: API server, etcd, controllers, scheduler.
pub const CONTROL: Host = Host { name: "cp", number: 10, pods: None };
/// The two nodes.
pub const NODES: [Host; 2] =
    [Host { name: "a", number: 11, pods: Some(1) }, Host { name: "b", number: 12, pods: Some(2) }];
/// The database host outside the cluster, which is also the gateway of the lan.
pub const DATABASE: Host = Host { name: "db", number: 20, pods: None };
/// Every host, in the order of creation.
pub const HOSTS: [Host; 4] = [CONTROL, NODES[0], NODES[1], DATABASE];
/// The namespace with the bridge to which all hosts are connected.
pub const LAN: &str = "lan";

/// Pods of all nodes, both families.
pub const POD_RANGES: &str = "10.244.0.0/16,fd00:10:244::/56";
/// Services, both families.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// The API server's own Service.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// CoreDNS.
pub const DNS_SERVICE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 96, 0, 10), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10));

/// Addresses on the database host: four data subnets, the internet, the metadata service of clouds.
pub const DATA: [&str; 11] = [
    "10.40.0.10/32",
    "10.41.0.10/32",
    "10.42.0.10/32",
    "10.50.0.10/32",
    "203.0.113.10/32",
    "169.254.169.254/32",
    "fd00:40::10/128",
    "fd00:41::10/128",
    "fd00:42::10/128",
    "fd00:50::10/128",
    "2001:db8:113::10/128",
];

impl Host {
    /// The node of that name.
    pub fn node(name: &str) -> Option<Self> {
        NODES.into_iter().find(|node| node.name == name)
    }

    /// Its address on the lan.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, self.number)
    }

    /// Its IPv6 address on the lan. It ends like the IPv4 address (`.11` and `::11`), which helps in captures.
    pub fn v6(&self) -> Ipv6Addr {
        let number = u16::from(self.number / 10) * 16 + u16::from(self.number % 10);
        Ipv6Addr::new(0xfd00, 0x198, 0x18, 0, 0, 0, 0, number)
    }

    /// A node's pod ranges, IPv4 first. Other hosts have none.
    pub fn pod_ranges(&self) -> Vec<String> {
        let ranges = |n: u8| vec![format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")];
        self.pods.map(ranges).unwrap_or_default()
    }

    /// Its routes: the pod ranges of other nodes by these nodes, everything else by the database host.
    pub fn routes(&self) -> Vec<(String, String)> {
        let others = NODES.iter().filter(|node| *node != self);
        let mut routes: Vec<_> = others.flat_map(|node| via(node.pod_ranges(), node)).collect();
        if *self != DATABASE {
            routes.extend(via(vec!["0.0.0.0/0".into(), "::/0".into()], &DATABASE));
        }
        routes
    }
}

/// Routes to an IPv4 and an IPv6 range, each by the gateway's address of its family.
fn via(ranges: Vec<String>, gateway: &Host) -> Vec<(String, String)> {
    let gateways = [gateway.v4().to_string(), gateway.v6().to_string()];
    ranges.into_iter().zip(gateways).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_host_end_alike() {
        assert_eq!(NODES[0].v4().to_string(), "198.18.0.11");
        assert_eq!(NODES[0].v6().to_string(), "fd00:198:18::11");
        assert_eq!(DATABASE.v6().to_string(), "fd00:198:18::20");
    }

    #[test]
    fn addresses_and_ranges_do_not_overlap() {
        let mut all: Vec<_> = HOSTS.iter().flat_map(|host| [host.v4().to_string(), host.v6().to_string()]).collect();
        all.extend(HOSTS.iter().flat_map(Host::pod_ranges));
        all.extend(DATA.map(String::from));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_node_has_routes_to_the_other_node_s_pods_and_to_everything_else() {
        let routes = NODES[0].routes();
        assert!(routes.contains(&("10.244.2.0/24".into(), "198.18.0.12".into())));
        assert!(routes.contains(&("fd00:10:244:2::/64".into(), "fd00:198:18::12".into())));
        assert!(routes.contains(&("::/0".into(), "fd00:198:18::20".into())));
        assert_eq!(routes.len(), 4);
    }

    #[test]
    fn the_database_host_has_routes_to_pods_and_no_default_route() {
        assert_eq!(DATABASE.routes().len(), 4);
        assert!(DATABASE.routes().iter().all(|(range, _)| !range.ends_with("/0")));
    }
}
