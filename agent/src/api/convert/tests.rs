//! The meaning of each field, and that no empty, null or malformed value permits more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_common::addr::Mac;
use proptest::prelude::*;

use super::*;
use crate::api::endpoint::{Endpoint, EndpointMeta, EndpointSpec, EndpointWorkload};
use crate::api::tenant::{
    Cidr, Class, Direction, EgressRule, LabelOperator, LabelRequirement, NamespaceSelector, NetworkTenant,
    NetworkTenantSpec, Peer, PortProtocol, PortRule, Subnet,
};
use policy::model::input::{Attachment, HostPort};

fn spec() -> NetworkTenantSpec {
    let match_labels = BTreeMap::from([("team".to_owned(), "acme".to_owned())]);
    NetworkTenantSpec {
        namespace_selector: NamespaceSelector { match_labels, match_expressions: Vec::new() },
        ..NetworkTenantSpec::default()
    }
}

fn of(spec: NetworkTenantSpec) -> Result<input::Tenant, ConvertError> {
    tenant(&NetworkTenant::new("acme", spec))
}

fn refused(spec: NetworkTenantSpec) -> (String, Problem) {
    of(spec).map_err(|error| (error.field, error.problem)).expect_err("refused")
}

fn port(protocol: PortProtocol, port: Option<u16>, end_port: Option<u16>) -> PortRule {
    PortRule { protocol, port, end_port }
}

fn with_ports(ports: Option<Vec<PortRule>>) -> NetworkTenantSpec {
    NetworkTenantSpec { subnets: vec![Subnet { name: "a".into(), cidr: "10.0.0.0/24".into(), ports }], ..spec() }
}

fn with_peer(tenant: &str, until: Option<&str>) -> NetworkTenantSpec {
    let peer = Peer { tenant: tenant.into(), direction: Direction::Egress, until: until.map(Into::into), reason: None };
    NetworkTenantSpec { peers: vec![peer], ..spec() }
}

#[test]
fn a_minimal_tenant_grants_nothing_but_itself() {
    let tenant = of(spec()).expect("good");
    assert!(!tenant.shared && !tenant.audit);
    assert!(tenant.subnets.is_empty() && tenant.egress.is_empty() && tenant.peers.is_empty());
    assert_eq!(tenant.age, input::Age { created: 0, name: "acme".into() });
}

#[test]
fn the_zero_value_of_the_written_types_is_refused() {
    assert!(tenant(&NetworkTenant::default()).is_err());
    assert_eq!(refused(NetworkTenantSpec::default()), ("spec.namespaceSelector".into(), Problem::SelectsAll));
    assert!(namespace(&v1::Namespace::default(), |_| true).is_err());
    let zero = Endpoint {
        api_version: String::new(),
        kind: String::new(),
        metadata: EndpointMeta::default(),
        spec: EndpointSpec::default(),
    };
    assert!(endpoint(&zero).is_err());
}

#[test]
fn an_egress_entry_becomes_one_range_per_network() {
    let ports = Some(vec![port(PortProtocol::Tcp, Some(80), Some(90)), port(PortProtocol::Icmp, None, None)]);
    let cidrs = vec![Cidr::from("192.0.2.0/24"), Cidr::from("2001:db8::/32")];
    let egress = vec![EgressRule { name: "saas".into(), cidrs, ports }];
    let ranges = of(NetworkTenantSpec { egress, ..spec() }).expect("good").egress;
    assert_eq!(
        ranges.iter().map(|range| range.cidr.to_string()).collect::<Vec<_>>(),
        ["192.0.2.0/24", "2001:db8::/32"]
    );
    let tcp = input::PortRule { protocol: input::Protocol::Tcp, low: 80, high: 90 };
    let icmp = input::PortRule { protocol: input::Protocol::Icmp, low: 0, high: u16::MAX };
    assert!(ranges.iter().all(|range| range.name == "saas" && range.ports == [tcp, icmp]));
}

#[test]
fn absent_ports_mean_all_and_an_empty_list_of_ports_is_refused() {
    assert!(of(with_ports(None)).expect("good").subnets[0].ports.is_empty());
    assert_eq!(refused(with_ports(Some(Vec::new()))), ("spec.subnets[0].ports".into(), Problem::Empty));
}

#[test]
fn an_empty_list_of_networks_is_refused() {
    let egress = vec![EgressRule { name: "a".into(), ..EgressRule::default() }];
    assert_eq!(refused(NetworkTenantSpec { egress, ..spec() }), ("spec.egress[0].cidrs".into(), Problem::Empty));
}

#[test]
fn null_and_empty_stay_refused_after_serialising_and_reading_back() {
    let text = serde_json::to_string(&NetworkTenant::new("acme", with_ports(Some(Vec::new())))).expect("serialises");
    let back: NetworkTenant = serde_json::from_str(&text).expect("reads");
    assert!(tenant(&back).is_err(), "{text}");
    let null = text.replace("\"ports\":[]", "\"ports\":null");
    assert!(null != text && serde_json::from_str::<NetworkTenant>(&null).is_err(), "{null}");
}

#[test]
fn an_unknown_field_is_refused_from_the_api_server_too() {
    let text = serde_json::to_string(&NetworkTenant::new("acme", with_ports(None))).expect("serialises");
    let newer = text.replace("\"cidr\":", "\"except\":[],\"cidr\":");
    assert!(newer != text && serde_json::from_str::<NetworkTenant>(&newer).is_err());
}

#[test]
fn ports_that_mean_nothing_are_refused() {
    for bad in [
        port(PortProtocol::Icmp, Some(8), None),
        port(PortProtocol::Tcp, None, Some(8)),
        port(PortProtocol::Tcp, Some(9), Some(8)),
        port(PortProtocol::Udp, Some(0), None),
        port(PortProtocol::Udp, Some(0), Some(0)),
    ] {
        assert_eq!(
            refused(with_ports(Some(vec![bad.clone()]))),
            ("spec.subnets[0].ports[0]".into(), Problem::Port),
            "{bad:?}"
        );
    }
}

#[test]
fn directions_are_seen_from_the_tenant_that_lists_the_peer() {
    let both = |direction| {
        let mut spec = with_peer("globex", Some("2027-01-31T00:00:00Z"));
        spec.peers[0].direction = direction;
        let peer = of(spec).expect("good").peers.remove(0);
        assert_eq!(peer.until, Some(1_801_353_600));
        (peer.egress, peer.ingress)
    };
    assert_eq!(both(Direction::Egress), (true, false));
    assert_eq!(both(Direction::Ingress), (false, true));
    assert_eq!(both(Direction::Both), (true, true));
}

#[test]
fn a_peer_is_another_tenant_with_a_valid_name_and_time() {
    assert_eq!(refused(with_peer("acme", None)), ("spec.peers[0].tenant".into(), Problem::PeerItself));
    assert_eq!(refused(with_peer("world", None)).1, Problem::Reserved("world".into()));
    assert_eq!(refused(with_peer("", None)).1, Problem::Name(String::new()));
    assert_eq!(refused(with_peer("b", Some("soon"))), ("spec.peers[0].until".into(), Problem::Until("soon".into())));
    let shared = NetworkTenantSpec { class: Class::Shared, ..with_peer("b", None) };
    assert_eq!(refused(shared), ("spec.peers".into(), Problem::PeersOfShared));
}

#[test]
fn a_network_error_names_object_field_and_remedy() {
    let subnets = vec![Subnet { name: "a".into(), cidr: "10.10.5.1/16".into(), ports: None }];
    let error = of(NetworkTenantSpec { subnets, ..spec() }).expect_err("host bits");
    assert_eq!(
        error.to_string(),
        "NetworkTenant/acme: spec.subnets[0].cidr: \"10.10.5.1/16\" has host bits set: write 10.10.0.0/16"
    );
}

#[test]
fn selectors_are_converted_one_to_one() {
    let one = |operator, values: &[&str]| {
        let values = values.iter().map(ToString::to_string).collect();
        let match_expressions = vec![LabelRequirement { key: "k".into(), operator, values }];
        let namespace_selector = NamespaceSelector { match_labels: BTreeMap::new(), match_expressions };
        of(NetworkTenantSpec { namespace_selector, ..spec() }).map(|tenant| tenant.namespaces.expressions)
    };
    let in_x = input::Requirement::In("k".into(), vec!["x".into()]);
    assert_eq!(one(LabelOperator::In, &["x"]), Ok(vec![in_x]));
    assert_eq!(one(LabelOperator::DoesNotExist, &[]), Ok(vec![input::Requirement::DoesNotExist("k".into())]));
    assert!(one(LabelOperator::NotIn, &[]).is_err() && one(LabelOperator::Exists, &["x"]).is_err());
    assert!(one(LabelOperator::In, &["no spaces"]).is_err());
}

#[test]
fn a_namespace_cannot_claim_another_name_by_label() {
    let labels = BTreeMap::from([(NAME_LABEL.to_owned(), "kube-system".to_owned())]);
    let annotations = BTreeMap::from([("keep".to_owned(), "1".to_owned()), ("drop".to_owned(), "2".to_owned())]);
    let metadata = ObjectMeta {
        name: Some("web".into()),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    let taken = namespace(&v1::Namespace { metadata, ..v1::Namespace::default() }, |key| key == "keep").expect("good");
    assert_eq!(taken.labels[NAME_LABEL], "web");
    assert_eq!(taken.annotations.into_keys().collect::<Vec<_>>(), ["keep"]);
}

fn pod(spec: EndpointSpec) -> Result<input::Endpoint, (String, Problem)> {
    let metadata = EndpointMeta { namespace: "web".into(), name: "shop-0".into(), uid: "u1".into() };
    let whole = Endpoint { api_version: String::new(), kind: String::new(), metadata, spec };
    endpoint(&whole).map_err(|error| (error.field, error.problem))
}

fn at(addresses: &[&str]) -> EndpointSpec {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    EndpointSpec { addresses, interface: Some("veth0".into()), ..EndpointSpec::default() }
}

#[test]
fn an_endpoint_has_every_field_of_the_file() {
    let spec = EndpointSpec {
        mac: Some("02:00:00:00:00:0A".into()),
        gateways: vec!["169.254.1.1".into(), "fe80::1".into()],
        workload: Some(EndpointWorkload { kind: "Deployment".into(), name: "shop".into() }),
        ..at(&["10.244.1.2", "fd00::2", "fe80::2"])
    };
    let endpoint = pod(spec).expect("good");
    assert_eq!(endpoint.addresses.len(), 3);
    let gateways: Vec<IpAddr> = ["169.254.1.1", "fe80::1"].map(|a| a.parse().expect("address")).into();
    let port = HostPort::Interface("veth0".into());
    let mac = Some(Mac::new([2, 0, 0, 0, 0, 10]));
    assert_eq!(endpoint.local, Some(Attachment { port, mac, gateways, ..Attachment::default() }));
}

#[test]
fn a_remote_endpoint_has_no_attachment() {
    let remote = EndpointSpec { interface: None, ..at(&["10.244.1.2"]) };
    assert_eq!(pod(remote.clone()).expect("good").local, None);
    let remote_with_mac = EndpointSpec { mac: Some("02:00:00:00:00:01".into()), ..remote };
    assert_eq!(pod(remote_with_mac), Err(("spec.mac".into(), Problem::NotLocal)));
    let both = EndpointSpec { netns: Some("a".into()), ..at(&["10.244.1.2"]) };
    assert_eq!(pod(both), Err(("spec.netns".into(), Problem::TwoPorts)));
}

#[test]
fn an_endpoint_has_at_most_one_address_of_each_sort() {
    assert_eq!(pod(at(&[])), Err(("spec.addresses".into(), Problem::Empty)));
    assert_eq!(pod(at(&["10.0.0.1", "10.0.0.2"])), Err(("spec.addresses[1]".into(), Problem::Addresses("IPv4"))));
    assert!(pod(at(&["fd00::1", "fd00::2"])).is_err() && pod(at(&["fe80::1", "fe80::2"])).is_err());
    for text in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.169.254",
        "::",
        "::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "10.0.0.1/32",
        "010.0.0.1",
        " 10.0.0.1",
        "fe80::1%eth0",
        "",
    ] {
        assert!(pod(at(&[text])).is_err(), "{text:?}");
    }
}

#[test]
fn hardware_addresses_and_interface_names_are_those_the_kernel_takes() {
    let mac = |text: &str| pod(EndpointSpec { mac: Some(text.into()), ..at(&["10.0.0.1"]) });
    assert!(mac("02:00:00:00:00:01").is_ok());
    for bad in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "2:0:0:0:0:1",
        "0x:00:00:00:00:01",
    ] {
        assert!(mac(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "a/b", "..", "a b", "sixteen-letters-"] {
        assert!(pod(EndpointSpec { interface: Some(bad.into()), ..at(&["10.0.0.1"]) }).is_err(), "{bad:?}");
    }
    let netns = EndpointSpec { interface: None, netns: Some("../../proc/1/ns/net".into()), ..at(&["10.0.0.1"]) };
    assert!(pod(netns).is_err());
}

proptest! {
    #[test]
    fn no_text_in_any_field_panics(a in "\\PC{0,70}", b in "[0-9a-f:./%TZ+-]{0,45}", c in "\\PC{0,20}", low: u16, high: u16) {
        let match_labels = BTreeMap::from([(a.clone(), b.clone())]);
        let requirement = LabelRequirement { key: c.clone(), operator: LabelOperator::NotIn, values: vec![a.clone()] };
        let ports = Some(vec![port(PortProtocol::Tcp, Some(low), Some(high))]);
        let spec = NetworkTenantSpec {
            namespace_selector: NamespaceSelector { match_labels, match_expressions: vec![requirement] },
            subnets: vec![Subnet { name: "a".into(), cidr: Cidr(b.clone()), ports: ports.clone() }],
            egress: vec![EgressRule { name: c.clone(), cidrs: vec![Cidr(a.clone())], ports }],
            ..with_peer(&c, Some(&b))
        };
        if let Ok(tenant) = tenant(&NetworkTenant::new(&a, spec)) {
            prop_assert!(tenant.subnets.iter().chain(&tenant.egress).all(|range| range.cidr == range.cidr.trunc()));
        }
        let _ = of(with_peer("globex", Some(&b)));
        let _ = pod(EndpointSpec { mac: Some(b.clone()), netns: Some(c.clone()), interface: None, gateways: vec![b.clone()], ..at(&[&b]) });
        let _ = namespace(&v1::Namespace { metadata: ObjectMeta { name: Some(a), ..ObjectMeta::default() }, ..v1::Namespace::default() }, |_| true);
    }

    #[test]
    fn the_end_of_a_permission_is_read_back_as_written(at in 0i64..4_000_000_000) {
        let text = jiff::Timestamp::from_second(at).expect("in range").to_string();
        prop_assert_eq!(seconds(&text), Some(at));
    }
}

#[test]
fn a_time_with_other_characters_is_refused() {
    for text in ["2027-01-31T0044.2.\u{feff}mon:,:::::G-1234", "2027-01-31T00:00:0\u{e9}Z", "\u{feff}"] {
        assert!(!super::is_rfc3339(text), "{text:?}");
    }
    assert!(super::is_rfc3339("2027-01-31T00:00:00Z"), "the control");
}
