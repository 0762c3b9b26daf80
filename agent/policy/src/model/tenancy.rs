//! Tenancy: which namespace belongs to which tenant.
//!
//! Knows no address and no tenant number. Objects come first, then the list of shared namespaces, then tenancy keys. A
//! namespace that none of them assigns is a tenant of its own. An implicit tenant never has the name of an object.
//! Otherwise a person who may write a label could put a namespace into a tenant that does not select it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::cluster::Cluster;
use super::input::{Age, Namespace, Tenant};
use super::name::Name;
use super::namespaces::NamespaceState;
use super::report::{Conflict, ConflictKind};
use super::settings::{Settings, TenancyKey, Unassigned};

/// Where a tenant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TenantOrigin {
    /// A `NetworkTenant`.
    Object,
    /// A tenancy key.
    Key,
    /// The list of shared namespaces.
    Shared,
    /// A namespace that nothing assigns to a tenant.
    Unassigned,
    /// A namespace whose object is not known yet. It is isolated, whatever the settings say of unassigned namespaces,
    /// because it may belong to any tenant.
    Unknown,
}

/// A tenant, which an object or a namespace defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it comes from.
    pub origin: TenantOrigin,
    /// Its object, if it has one.
    pub object: Option<Arc<Tenant>>,
    /// Whether it has a pod on this node.
    pub local: bool,
}

/// All tenants, and the tenant of each namespace with pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// Tenants by name.
    pub members: BTreeMap<Name, Member>,
    /// Tenant by namespace.
    pub of: HashMap<Name, Name>,
    /// Disputed namespaces.
    pub conflicts: Vec<Conflict>,
}

/// The outcome of [`Tenancy::admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The namespace's tenant is new, or new on this node: everything must be compiled again.
    Refused,
    /// The namespace is known already.
    Known,
    /// It is a further namespace of this tenant.
    New(Name),
}

impl Member {
    /// Whether it is Shared: it and every tenant may open connections to each other.
    pub fn is_shared(&self) -> bool {
        self.origin == TenantOrigin::Shared || self.object.as_ref().is_some_and(|object| object.shared)
    }

    /// Whether denied packets are only reported.
    pub fn is_audited(&self, settings: &Settings) -> bool {
        settings.audit
            || self.object.as_ref().is_some_and(|object| object.audit)
            || (self.origin == TenantOrigin::Unassigned && settings.unassigned == Unassigned::Audit)
    }

    /// Whether it may reach every destination, except metadata services and data subnets of tenants.
    pub(crate) fn is_open(&self, settings: &Settings) -> bool {
        self.origin == TenantOrigin::Unassigned && settings.unassigned == Unassigned::Allow
    }

    /// Whether it is the implicit tenant of a namespace that belongs to no other tenant.
    pub fn is_unassigned(&self) -> bool {
        matches!(self.origin, TenantOrigin::Unassigned | TenantOrigin::Unknown)
    }

    /// Its age. Implicit tenants have none.
    pub fn age(&self) -> Option<&Age> {
        self.object.as_ref().map(|object| &object.age)
    }
}

impl Tenancy {
    /// The tenants of all namespaces.
    pub fn new(cluster: &Cluster) -> Self {
        let mut tenancy = Self::default();
        tenancy.of.reserve(cluster.namespaces().len());
        for (name, object) in cluster.tenants() {
            let member = Member { origin: TenantOrigin::Object, object: Some(Arc::clone(object)), local: false };
            tenancy.members.insert(name.clone(), member);
        }
        cluster.namespaces().iter().for_each(|namespace| tenancy.settle(namespace, cluster));
        tenancy.conflicts.sort();
        tenancy
    }

    /// Namespaces whose pods a node must know: those of tenants with pods on it, of tenants that agreed with these, and
    /// of Shared tenants. Their number grows with the node's tenants, not with the cluster.
    pub fn wanted(cluster: &Cluster) -> BTreeSet<Name> {
        let mut scratch = Self::default();
        let namespaces: Vec<(&NamespaceState, TenantOrigin, Name)> = cluster
            .namespaces()
            .iter()
            .map(|namespace| {
                let (origin, name) = scratch.belongs(namespace, cluster);
                (namespace, origin, name)
            })
            .collect();
        let present: BTreeSet<&Name> =
            namespaces.iter().filter(|(namespace, ..)| namespace.locals > 0).map(|(.., name)| name).collect();
        let object = |name: &Name| cluster.tenants().get(name);
        let agreed = |name: &Name| {
            let Some(theirs) = object(name) else { return false };
            let lists = |tenant: &Tenant, other: &str| tenant.peers.iter().any(|peer| peer.tenant == other);
            let mut peers = theirs.peers.iter().filter_map(|peer| cluster.tenants().get(peer.tenant.as_str()));
            peers.any(|ours| present.contains(&Name::from(ours.age.name.as_str())) && lists(ours, name))
        };
        let is_wanted = |origin: TenantOrigin, name: &Name| {
            let shared = origin == TenantOrigin::Shared || object(name).is_some_and(|object| object.shared);
            shared || present.contains(name) || agreed(name)
        };
        namespaces
            .iter()
            .filter(|(_, origin, name)| is_wanted(*origin, name))
            .map(|(namespace, ..)| namespace.name.clone())
            .collect()
    }

    /// Adds a namespace that just got a pod, if that changes nothing for any tenant.
    pub fn admit(self: &mut Arc<Self>, namespace: &NamespaceState, cluster: &Cluster) -> Admission {
        let known = self.of.get(&namespace.name).cloned();
        let name = known.clone().unwrap_or_else(|| Self::default().belongs(namespace, cluster).1);
        match self.members.get(&name) {
            Some(member) if member.local || namespace.locals == 0 => {}
            _ => return Admission::Refused,
        }
        if known.is_some() {
            return Admission::Known;
        }
        Arc::make_mut(self).of.insert(namespace.name.clone(), name.clone());
        Admission::New(name)
    }

    /// The tenant of a namespace, also of one without pods. `None` if nothing assigns it to a tenant, or if its object is
    /// not known.
    pub fn assigned(cluster: &Cluster, namespace: &str) -> Option<(TenantOrigin, Name)> {
        let (origin, name) = Self::default().belongs(cluster.namespaces().get(namespace)?, cluster);
        (!matches!(origin, TenantOrigin::Unassigned | TenantOrigin::Unknown)).then_some((origin, name))
    }

    fn settle(&mut self, namespace: &NamespaceState, cluster: &Cluster) {
        self.report_rival_claims(namespace);
        let (origin, name) = self.belongs(namespace, cluster);
        if namespace.pods.is_empty() {
            return;
        }
        let local = namespace.locals > 0;
        match self.members.get_mut(&name) {
            Some(member) => member.local |= local,
            None => _ = self.members.insert(name.clone(), Member { origin, object: None, local }),
        }
        self.of.insert(namespace.name.clone(), name);
    }

    fn belongs(&mut self, namespace: &NamespaceState, cluster: &Cluster) -> (TenantOrigin, Name) {
        let settings = cluster.settings();
        let Some(object) = &namespace.object else { return (TenantOrigin::Unknown, own_tenant(namespace)) };
        if let Some((_, name)) = namespace.claims.first() {
            return (TenantOrigin::Object, name.clone());
        }
        if settings.shared_namespaces.contains(&object.name) {
            return (TenantOrigin::Shared, implicit_name("shared", cluster));
        }
        let mut values = settings.keys.iter().filter_map(|key| value_of(key, object));
        match values.next() {
            Some(value) => {
                if let Some(other) = values.find(|other| *other != value) {
                    self.report_mismatch(namespace, &value, &other);
                }
                (TenantOrigin::Key, self.named_by_key(&value, namespace, cluster))
            }
            None => (TenantOrigin::Unassigned, own_tenant(namespace)),
        }
    }

    fn named_by_key(&mut self, value: &str, namespace: &NamespaceState, cluster: &Cluster) -> Name {
        if cluster.tenants().contains_key(value) {
            self.report_not_selected(value, namespace);
        }
        // `shared` is reserved for the list of shared namespaces, even while none of them exists.
        if value == "shared" { Name::from("key/shared") } else { implicit_name(value, cluster) }
    }

    fn report_rival_claims(&mut self, namespace: &NamespaceState) {
        let Some(((_, winner), losers)) = namespace.claims.split_first() else { return };
        for (_, loser) in losers {
            let message = format!(
                "namespace {} is selected by tenant {} and by the older tenant {}, which keeps it; \
                 narrow one of the two namespaceSelectors",
                namespace.name, loser, winner
            );
            self.conflict(loser, ConflictKind::NamespaceClaimed, message);
        }
    }

    fn report_mismatch(&mut self, namespace: &NamespaceState, value: &str, other: &str) {
        let message = format!(
            "namespace {} belongs to tenant {value} by one tenancy key and to {other} by a later one; \
             the first key counts; make both keys agree",
            namespace.name
        );
        self.conflict(value, ConflictKind::KeyMismatch, message);
    }

    fn report_not_selected(&mut self, value: &str, namespace: &NamespaceState) {
        let message = format!(
            "namespace {} names tenant {value} by a tenancy key, but NetworkTenant {value} does not select it: \
             it belongs to the separate tenant key/{value}; widen the namespaceSelector or change the key's value",
            namespace.name
        );
        self.conflict(value, ConflictKind::KeyNotSelected, message);
    }

    fn conflict(&mut self, tenant: &str, kind: ConflictKind, message: String) {
        self.conflicts.push(Conflict { tenant: Name::from(tenant), kind, message });
    }
}

/// The implicit tenant of a namespace that belongs to no other tenant. Names of objects contain no slash.
fn own_tenant(namespace: &NamespaceState) -> Name {
    Name::from(format!("ns/{}", namespace.name))
}

/// `value`, or `key/` and `value` if an object has that name.
fn implicit_name(value: &str, cluster: &Cluster) -> Name {
    if cluster.tenants().contains_key(value) { Name::from(format!("key/{value}")) } else { Name::from(value) }
}

fn value_of(key: &TenancyKey, namespace: &Namespace) -> Option<String> {
    let value = match key {
        TenancyKey::NamespaceLabel { key } => namespace.labels.get(key).cloned(),
        TenancyKey::NamespaceAnnotation { key, after } => {
            let value = namespace.annotations.get(key)?;
            match after {
                Some(separator) => value.split_once(separator.as_str()).map(|(_, rest)| rest.to_owned()),
                None => Some(value.clone()),
            }
        }
        TenancyKey::NamespaceLabelSuffix { key } => farthest(key, namespace),
        TenancyKey::NamespaceName => Some(namespace.name.clone()),
    };
    value.filter(|value| !value.is_empty())
}

/// The prefix of the label with the greatest distance. Of two equal distances, the first prefix in the alphabet.
fn farthest(suffix: &str, namespace: &Namespace) -> Option<String> {
    let distances = namespace.labels.iter().filter_map(|(label, value)| {
        let ancestor = label.strip_suffix(suffix).filter(|ancestor| !ancestor.is_empty())?;
        Some((value.parse::<u32>().ok()?, std::cmp::Reverse(ancestor)))
    });
    distances.max().map(|(_, ancestor)| ancestor.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::Change;
    use crate::model::testing::{cluster, namespace, remote, tenant};

    fn settings(keys: Vec<TenancyKey>) -> Settings {
        Settings { keys, shared_namespaces: ["kube-system".to_owned()].into(), ..Settings::default() }
    }

    fn label(key: &str) -> TenancyKey {
        TenancyKey::NamespaceLabel { key: key.to_owned() }
    }

    /// Tenancy of one namespace with these labels and annotations, in a cluster with tenant `acme`.
    fn of(settings: Settings, name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> (Name, Tenancy) {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let namespace = Namespace { name: name.to_owned(), labels: map(labels), annotations: map(annotations) };
        let changes = vec![
            Change::Tenant(tenant("acme")),
            Change::Namespace(namespace),
            Change::Endpoint(remote(&format!("{name}/pod"), &["10.0.0.1"])),
        ];
        let tenancy = Tenancy::new(&cluster(settings, changes));
        (tenancy.of.get(name).expect("a tenant").clone(), tenancy)
    }

    #[test]
    fn objects_win_over_the_shared_list_and_that_over_keys() {
        let keys = || settings(vec![label("team"), TenancyKey::NamespaceName]);
        for (name, labels, expected, kind) in [
            ("web", vec![("t", "acme"), ("team", "red")], "acme", TenantOrigin::Object),
            ("kube-system", vec![("t", "acme")], "acme", TenantOrigin::Object),
            ("kube-system", vec![("team", "red")], "shared", TenantOrigin::Shared),
            ("web", vec![("team", "red")], "red", TenantOrigin::Key),
            ("web", vec![], "web", TenantOrigin::Key),
        ] {
            let (got, tenancy) = of(keys(), name, &labels, &[]);
            assert_eq!((&*got, tenancy.members[&got].origin), (expected, kind), "{name} {labels:?}");
        }
        let (got, tenancy) = of(settings(vec![label("team")]), "web", &[("team", "")], &[]);
        assert_eq!((&*got, tenancy.members[&got].origin), ("ns/web", TenantOrigin::Unassigned));
    }

    #[test]
    fn each_source_of_keys_yields_what_it_should() {
        let annotation = |after: Option<&str>| TenancyKey::NamespaceAnnotation {
            key: "project".to_owned(),
            after: after.map(str::to_owned),
        };
        let suffix = || TenancyKey::NamespaceLabelSuffix { key: ".tree/depth".to_owned() };
        let tree = [("root.tree/depth", "2"), ("web.tree/depth", "0"), ("mid.tree/depth", "1"), ("x.tree/depth", "y")];
        for (key, labels, annotations, expected) in [
            (annotation(None), &[][..], &[("project", "c:p")][..], "c:p"),
            (annotation(Some(":")), &[], &[("project", "c:p")], "p"),
            (annotation(Some(":")), &[], &[("project", "cp")], "ns/web"),
            (suffix(), &tree, &[], "root"),
            (suffix(), &[(".tree/depth", "5")], &[], "ns/web"),
        ] {
            assert_eq!(&*of(settings(vec![key.clone()]), "web", labels, annotations).0, expected, "{key:?}");
        }
    }

    #[test]
    fn a_key_never_assigns_a_namespace_to_an_object_that_does_not_select_it() {
        let (got, tenancy) = of(settings(vec![label("team")]), "web", &[("team", "acme")], &[]);
        assert_eq!(&*got, "key/acme");
        assert_eq!(tenancy.conflicts[0].kind, ConflictKind::KeyNotSelected);
        assert!(!tenancy.members["acme"].local && tenancy.members[&got].object.is_none());
        let (got, tenancy) = of(settings(vec![label("team")]), "web", &[("team", "shared")], &[]);
        assert_eq!(&*got, "key/shared");
        assert!(!tenancy.members[&got].is_shared());
    }

    #[test]
    fn keys_that_disagree_are_reported_and_the_first_counts() {
        let keys = || settings(vec![label("a"), label("b")]);
        let (got, tenancy) = of(keys(), "web", &[("a", "red"), ("b", "blue")], &[]);
        assert_eq!((&*got, tenancy.conflicts[0].kind), ("red", ConflictKind::KeyMismatch));
        let (_, tenancy) = of(keys(), "web", &[("a", "red"), ("b", "red")], &[]);
        assert!(tenancy.conflicts.is_empty());
    }

    #[test]
    fn the_younger_of_two_claims_loses_and_is_reported() {
        let mut young = Tenant { namespaces: tenant("acme").namespaces, ..tenant("young") };
        young.age.created = 5;
        let changes = vec![
            Change::Tenants(vec![young, tenant("acme")]),
            Change::Namespace(namespace("web", "acme")),
            Change::Endpoint(remote("web/pod", &["10.0.0.1"])),
        ];
        let tenancy = Tenancy::new(&cluster(Settings::default(), changes));
        assert_eq!(&*tenancy.of["web"], "acme");
        let [conflict] = tenancy.conflicts.as_slice() else { panic!("{:?}", tenancy.conflicts) };
        assert_eq!((&*conflict.tenant, conflict.kind), ("young", ConflictKind::NamespaceClaimed));
        assert!(conflict.message.contains("web") && conflict.message.contains("acme"));
    }

    #[test]
    fn the_setting_for_unassigned_namespaces_does_not_apply_to_unknown_ones() {
        for (unassigned, audited, open) in
            [(Unassigned::Isolate, false, false), (Unassigned::Audit, true, false), (Unassigned::Allow, false, true)]
        {
            let settings = Settings { unassigned, ..Settings::default() };
            let (got, tenancy) = of(settings.clone(), "web", &[], &[]);
            let member = &tenancy.members[&got];
            assert_eq!((member.is_audited(&settings), member.is_open(&settings)), (audited, open));
            let changes = vec![Change::Endpoint(remote("web/pod", &["10.0.0.1"]))];
            let tenancy = Tenancy::new(&cluster(settings.clone(), changes));
            let member = &tenancy.members["ns/web"];
            assert_eq!((member.origin, member.is_unassigned()), (TenantOrigin::Unknown, true));
            assert!(!member.is_audited(&settings) && !member.is_open(&settings));
        }
    }
}
