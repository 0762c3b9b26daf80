//! Which namespace belongs to which tenant.
//!
//! Objects win over the shared list, that over keys, and what is left is a tenant of its own. Names
//! of implicit tenants never coincide with an object's: whoever may write a label must not thereby
//! step into an object that does not select the namespace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cluster::Cluster;
use super::input::{Age, Namespace, Tenant};
use super::report::{Conflict, ConflictKind};
use super::settings::{Settings, TenancyKey, Unassigned};
use super::spaces::Space;
use super::word::Word;

/// Where a tenant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A `NetworkTenant`.
    Object,
    /// A tenancy key.
    Key,
    /// The list of shared namespaces.
    Shared,
    /// A namespace that nobody claims.
    Unassigned,
    /// A namespace of which only pods are known yet: isolated, whatever the settings grant to
    /// unassigned ones, since it may turn out to be anybody's.
    Unknown,
}

/// A tenant that exists, by object or by namespace.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where it comes from.
    pub kind: Kind,
    /// Its object, if it has one.
    pub object: Option<Arc<Tenant>>,
    /// Whether it has a pod on this node.
    pub local: bool,
}

/// All tenants, and the tenant of each namespace with pods.
#[derive(Clone, Debug, Default)]
pub struct Tenancy {
    /// Tenants by name.
    pub members: BTreeMap<Word, Member>,
    /// Tenant by namespace.
    pub of: HashMap<Word, Word>,
    /// Disputed namespaces.
    pub conflicts: Vec<Conflict>,
}

impl Member {
    /// Whether every tenant reaches it and it reaches every tenant.
    pub fn is_shared(&self) -> bool {
        self.kind == Kind::Shared || self.object.as_ref().is_some_and(|object| object.shared)
    }

    /// Whether what would be dropped is only reported.
    pub fn is_audited(&self, settings: &Settings) -> bool {
        settings.audit
            || self.object.as_ref().is_some_and(|object| object.audit)
            || (self.kind == Kind::Unassigned && settings.unassigned == Unassigned::Audit)
    }

    /// Whether its destinations are not judged.
    pub fn is_open(&self, settings: &Settings) -> bool {
        self.kind == Kind::Unassigned && settings.unassigned == Unassigned::Allow
    }

    /// Whether it stands for a namespace in no tenant.
    pub fn is_unassigned(&self) -> bool {
        matches!(self.kind, Kind::Unassigned | Kind::Unknown)
    }

    /// Older tenants first, implicit ones last.
    pub fn age(&self) -> Option<&Age> {
        self.object.as_ref().map(|object| &object.age)
    }
}

impl Tenancy {
    /// Who belongs to whom.
    pub fn new(cluster: &Cluster) -> Self {
        let mut tenancy = Self::default();
        for (name, object) in cluster.tenants() {
            let member = Member { kind: Kind::Object, object: Some(Arc::clone(object)), local: false };
            tenancy.members.insert(name.clone(), member);
        }
        cluster.spaces().iter().for_each(|space| tenancy.settle(space, cluster));
        tenancy.conflicts.sort();
        tenancy
    }

    fn settle(&mut self, space: &Space, cluster: &Cluster) {
        self.report_rival_claims(space);
        let (kind, name) = self.belongs(space, cluster);
        if space.pods.is_empty() {
            return;
        }
        let member = self.members.entry(name.clone()).or_insert(Member { kind, object: None, local: false });
        member.local |= space.locals > 0;
        self.of.insert(space.name.clone(), name);
    }

    fn belongs(&mut self, space: &Space, cluster: &Cluster) -> (Kind, Word) {
        let settings = cluster.settings();
        let Some(object) = &space.object else { return (Kind::Unknown, own_tenant(space)) };
        if let Some((name, _)) = space.claims.first().and_then(|age| cluster.tenants().get_key_value(&*age.name)) {
            return (Kind::Object, name.clone());
        }
        if settings.shared_namespaces.contains(&object.name) {
            return (Kind::Shared, implicit_name("shared", cluster));
        }
        let mut values = settings.keys.iter().filter_map(|key| value_of(key, object));
        match values.next() {
            Some(value) => {
                if let Some(other) = values.find(|other| *other != value) {
                    self.report_mismatch(space, &value, &other);
                }
                (Kind::Key, self.named_by_key(&value, space, cluster))
            }
            None => (Kind::Unassigned, own_tenant(space)),
        }
    }

    fn named_by_key(&mut self, value: &str, space: &Space, cluster: &Cluster) -> Word {
        if cluster.tenants().contains_key(value) {
            self.report_not_selected(value, space);
        }
        // `shared` is taken by the shared list even while no namespace of the list exists.
        if value == "shared" { Word::from("key/shared") } else { implicit_name(value, cluster) }
    }

    fn report_rival_claims(&mut self, space: &Space) {
        let Some((winner, losers)) = space.claims.split_first() else { return };
        for loser in losers {
            let message = format!(
                "namespace {} is selected by tenant {} and by the older tenant {}, which keeps it; \
                 narrow one of the two namespaceSelectors",
                space.name, loser.name, winner.name
            );
            self.conflict(&loser.name, ConflictKind::NamespaceClaimed, message);
        }
    }

    fn report_mismatch(&mut self, space: &Space, value: &str, other: &str) {
        let message = format!(
            "namespace {} is marked for tenant {value} by one key and for {other} by a later one; \
             the first counts: make them agree",
            space.name
        );
        self.conflict(value, ConflictKind::KeyMismatch, message);
    }

    fn report_not_selected(&mut self, value: &str, space: &Space) {
        let message = format!(
            "namespace {} is marked for tenant {value} by a key, but NetworkTenant {value} does not select it: \
             it is kept apart as key/{value}; widen the namespaceSelector or remove the mark",
            space.name
        );
        self.conflict(value, ConflictKind::KeyNotSelected, message);
    }

    fn conflict(&mut self, tenant: &str, kind: ConflictKind, message: String) {
        self.conflicts.push(Conflict { tenant: Word::from(tenant), kind, message });
    }
}

/// The tenant that a namespace in no tenant is for itself. Object names have no slash.
fn own_tenant(space: &Space) -> Word {
    Word::from(format!("ns/{}", space.name))
}

/// `value`, unless an object has that name.
fn implicit_name(value: &str, cluster: &Cluster) -> Word {
    if cluster.tenants().contains_key(value) { Word::from(format!("key/{value}")) } else { Word::from(value) }
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

/// The label's prefix with the greatest distance; of two the first in the alphabet.
fn farthest(suffix: &str, namespace: &Namespace) -> Option<String> {
    let distances = namespace.labels.iter().filter_map(|(label, value)| {
        let ancestor = label.strip_suffix(suffix).filter(|ancestor| !ancestor.is_empty())?;
        Some((value.parse::<u32>().ok()?, std::cmp::Reverse(ancestor)))
    });
    distances.max().map(|(_, ancestor)| ancestor.0.to_owned())
}
