//! Any text as a file of objects.
//!
//! - A document is accepted, or refused with a finding that names its object.
//! - An accepted tenant has the same meaning as a file, as the API server stores it, and written again as YAML.
//! - What is compiled of it grants nothing that the document does not say.

use std::collections::BTreeSet;

use agent_common::tenant::TenantId;
use bulkhead::fuzzing::{DocumentForms, documents};
use ipnet::IpNet;
use policy::model::desired::Desired;
use policy::model::input::{Age, Change, Namespace, Tenant};
use policy::model::settings::Settings;
use policy::model::testing::{cluster, compiled, link, local, namespace, peer, range, remote, tenant};

/// The longest text.
const LONGEST: usize = 4_096;
/// The other tenant, which lists every name that the corpus uses as a peer, but only for incoming connections.
const VICTIM: &str = "victim";
/// Its data subnet.
const VICTIMS: &str = "10.50.0.0/24";
/// A moment, in seconds since 1970.
const NOW: i64 = 1_800_000_000;

/// Checks one input.
pub fn check(input: &[u8]) {
    if input.len() > LONGEST {
        return;
    }
    for document in documents(input).unwrap_or_default() {
        answers(&document);
        if let Some(forms) = &document.tenant {
            assert_eq!(Ok(&forms.file), forms.api.as_ref(), "the API server's copy means something else");
            assert_eq!(Some(&forms.file), forms.yaml.as_ref(), "the copy in YAML means something else");
            compiles_to_what_it_says(&forms.file);
        }
    }
}

/// A document is accepted without a finding, or refused with one that names it.
fn answers(document: &DocumentForms) {
    assert_eq!(document.is_accepted, document.findings.is_empty(), "{:?}", document.findings);
    for named in &document.findings {
        assert_eq!(named, &document.object, "a finding names another object");
    }
}

/// Compiles the tenant beside another one on a node with a pod of each.
fn compiles_to_what_it_says(stated: &Tenant) {
    let name = stated.age.name.as_str();
    if name == VICTIM {
        return;
    }
    let mut other = tenant(VICTIM);
    other.subnets = vec![range(VICTIMS, &[])];
    other.peers = vec![peer(name, false, true, None)];
    let mut changes = vec![Change::Tenant(other), Change::Namespace(namespace("theirs", VICTIM))];
    changes.push(Change::Namespace(selected(stated)));
    changes.push(Change::Tenant(stated.clone()));
    changes.push(Change::Links(vec![link(7, "veth7")]));
    changes.push(Change::Endpoint(local("mine/a", &["10.244.1.5"], "veth7")));
    changes.push(Change::Endpoint(remote("theirs/b", &["10.244.2.7"])));
    let desired = compiled(&cluster(Settings::default(), changes), NOW);
    let Some(id) = desired.tenant_ids.of.get(name) else { return };
    prefixes_are_stated(&desired, *id, stated);
    grants_are_stated(&desired, *id, stated);
    owners_are_stated(&desired, *id, stated);
}

/// A namespace `mine` that the selector's equalities match.
fn selected(stated: &Tenant) -> Namespace {
    Namespace { name: "mine".to_owned(), labels: stated.namespaces.labels.clone(), ..Namespace::default() }
}

fn prefixes_are_stated(desired: &Desired, id: TenantId, stated: &Tenant) {
    let Some(policy) = desired.tenants.get(&id) else { return };
    let ranges: Vec<IpNet> = stated.subnets.iter().chain(&stated.egress).map(|range| range.cidr).collect();
    for prefix in policy.v4.iter().chain(&policy.v6) {
        assert!(ranges.contains(&prefix.net), "{} is granted and not stated", prefix.net);
    }
}

fn grants_are_stated(desired: &Desired, id: TenantId, stated: &Tenant) {
    for key in desired.grants.table.keys().filter(|key| key.from == id || key.to == id) {
        let opens = stated
            .peers
            .iter()
            .any(|peer| peer.tenant == VICTIM && peer.egress && peer.until.is_none_or(|until| until > NOW));
        assert!(key.from == id && opens, "{key:?} is granted, and only its own egress was agreed");
    }
}

fn owners_are_stated(desired: &Desired, id: TenantId, stated: &Tenant) {
    let subnets: BTreeSet<IpNet> = stated.subnets.iter().map(|range| range.cidr).collect();
    let victims: IpNet = VICTIMS.parse().expect("a range");
    for (net, owner) in desired.owners.iter().filter(|(_, owner)| *owner == id) {
        assert!(subnets.iter().any(|subnet| subnet.contains(net)), "{net} is owned by {owner:?} and not stated");
        assert!(stated.age < older() || !victims.contains(net), "{net} was taken from an older tenant");
    }
}

/// The age of the other tenant.
fn older() -> Age {
    Age { created: 0, name: VICTIM.to_owned() }
}
