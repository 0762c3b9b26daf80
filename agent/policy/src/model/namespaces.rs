//! Namespaces: the object of each, the tenants whose selectors match it, and its pods.
//!
//! Claims are updated for one object at a time. Matching every selector against every namespace after each edit would
//! take a second in a large cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::input::{Namespace, Tenant};
use super::name::Name;
use super::pod::PodByName;
use super::selector;

/// What is known of one namespace.
#[derive(Clone, Debug)]
pub struct NamespaceState {
    /// Its name.
    pub name: Name,
    /// Its object; `None` while only its pods are known.
    pub object: Option<Namespace>,
    /// Creation and name of the tenants whose selectors match, oldest first: the first owns the namespace.
    pub claims: Vec<(i64, Name)>,
    /// Its pods.
    pub pods: HashSet<PodByName>,
    /// How many of them run here.
    pub locals: usize,
}

/// All namespaces that have an object or hold pods.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    namespaces: HashMap<Name, NamespaceState>,
}

impl Namespaces {
    /// The namespace of that name.
    pub fn get(&self, name: &str) -> Option<&NamespaceState> {
        self.namespaces.get(name)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &NamespaceState> {
        self.namespaces.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.namespaces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// The namespace of that name, created if it is new: a pod can arrive before its namespace does.
    pub(super) fn entry(&mut self, name: &str) -> &mut NamespaceState {
        if !self.namespaces.contains_key(name) {
            self.namespaces.insert(Name::from(name), NamespaceState::new(name));
        }
        self.namespaces.get_mut(name).expect("it was just inserted if it was missing")
    }

    /// Stores a namespace's object. Returns whether anything changed.
    pub(super) fn update<'a>(
        &mut self,
        object: Namespace,
        tenants: impl Iterator<Item = (&'a Name, &'a Arc<Tenant>)>,
    ) -> bool {
        let namespace = self.entry(&object.name);
        if namespace.object.as_ref() == Some(&object) {
            return false;
        }
        namespace.object = Some(object);
        let claims = tenants.filter(|(_, tenant)| namespace.is_selected_by(tenant));
        namespace.claims = claims.map(|(name, tenant)| (tenant.age.created, name.clone())).collect();
        namespace.claims.sort();
        true
    }

    /// Removes a namespace's object; its pods stay. Returns whether anything changed.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        let Some(namespace) = self.namespaces.get_mut(name) else { return false };
        let had_object = namespace.object.take().is_some();
        namespace.claims.clear();
        self.drop_if_empty(name);
        had_object
    }

    /// Updates the claims of one tenant, which is new, different or, with `None`, gone.
    pub(super) fn reclaim(&mut self, name: &Name, now: Option<&Tenant>) {
        for namespace in self.namespaces.values_mut() {
            namespace.claims.retain(|(_, claimant)| claimant != name);
            if let Some(tenant) = now.filter(|tenant| namespace.is_selected_by(tenant)) {
                let claim = (tenant.age.created, name.clone());
                let at = namespace.claims.partition_point(|known| *known < claim);
                namespace.claims.insert(at, claim);
            }
        }
    }

    /// Drops a namespace that has neither an object nor pods.
    pub(super) fn drop_if_empty(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(|namespace| namespace.object.is_none() && namespace.pods.is_empty()) {
            self.namespaces.remove(name);
        }
    }

    /// Names of the namespaces that have an object.
    pub(super) fn with_object(&self) -> HashSet<Name> {
        let with_object = self.namespaces.values().filter(|namespace| namespace.object.is_some());
        with_object.map(|namespace| namespace.name.clone()).collect()
    }
}

impl NamespaceState {
    fn new(name: &str) -> Self {
        Self { name: Name::from(name), object: None, claims: Vec::new(), pods: HashSet::new(), locals: 0 }
    }

    fn is_selected_by(&self, tenant: &Tenant) -> bool {
        self.object.as_ref().is_some_and(|object| selector::matches(&tenant.namespaces, &object.labels))
    }
}
