//! Namespaces: what is told of them, which objects select them, which pods they hold.
//!
//! Claims are kept up to date one object at a time, because asking every selector about every
//! namespace again after each edit would cost a second in a large cluster.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::input::{Namespace, Tenant};
use super::pod::Named;
use super::selector;
use super::word::Word;

/// One namespace.
#[derive(Clone, Debug)]
pub struct Space {
    /// Its name.
    pub name: Word,
    /// What was told of it; nothing yet while only its pods are known.
    pub object: Option<Namespace>,
    /// Creation and name of the tenants whose selectors match, oldest first: the first has it.
    pub claims: Vec<(i64, Word)>,
    /// Its pods.
    pub pods: HashSet<Named>,
    /// How many of them run here.
    pub locals: usize,
}

/// All namespaces that were told of or that hold pods.
#[derive(Clone, Debug, Default)]
pub struct Spaces {
    spaces: HashMap<Word, Space>,
}

impl Spaces {
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Space> {
        self.spaces.get(name)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Space> {
        self.spaces.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spaces.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    /// One of them, made if it is new: a pod can arrive before its namespace does.
    pub(super) fn entry(&mut self, name: &str) -> &mut Space {
        if !self.spaces.contains_key(name) {
            self.spaces.insert(Word::from(name), Space::new(name));
        }
        self.spaces.get_mut(name).expect("it was just inserted if it was missing")
    }

    /// Takes in what was told; says whether anything changed.
    pub(super) fn tell<'a>(
        &mut self,
        object: Namespace,
        tenants: impl Iterator<Item = (&'a Word, &'a Arc<Tenant>)>,
    ) -> bool {
        let space = self.entry(&object.name);
        if space.object.as_ref() == Some(&object) {
            return false;
        }
        space.object = Some(object);
        let claims = tenants.filter(|(_, tenant)| space.is_selected_by(tenant));
        space.claims = claims.map(|(name, tenant)| (tenant.age.created, name.clone())).collect();
        space.claims.sort();
        true
    }

    /// Forgets what was told; the pods stay. Says whether anything changed.
    pub(super) fn untell(&mut self, name: &str) -> bool {
        let Some(space) = self.spaces.get_mut(name) else { return false };
        let told = space.object.take().is_some();
        space.claims.clear();
        self.drop_if_empty(name);
        told
    }

    /// Notes that a tenant is new, different or gone.
    pub(super) fn reclaim(&mut self, name: &Word, now: Option<&Tenant>) {
        for space in self.spaces.values_mut() {
            space.claims.retain(|(_, claimant)| claimant != name);
            if let Some(tenant) = now.filter(|tenant| space.is_selected_by(tenant)) {
                let claim = (tenant.age.created, name.clone());
                let at = space.claims.partition_point(|known| *known < claim);
                space.claims.insert(at, claim);
            }
        }
    }

    /// Forgets a namespace that nothing is known of.
    pub(super) fn drop_if_empty(&mut self, name: &str) {
        if self.spaces.get(name).is_some_and(|space| space.object.is_none() && space.pods.is_empty()) {
            self.spaces.remove(name);
        }
    }

    /// Names of the namespaces that were told of.
    pub(super) fn told(&self) -> BTreeMap<Word, ()> {
        self.spaces.values().filter(|space| space.object.is_some()).map(|space| (space.name.clone(), ())).collect()
    }
}

impl Space {
    fn new(name: &str) -> Self {
        Self { name: Word::from(name), object: None, claims: Vec::new(), pods: HashSet::new(), locals: 0 }
    }

    fn is_selected_by(&self, tenant: &Tenant) -> bool {
        self.object.as_ref().is_some_and(|object| selector::matches(&tenant.namespaces, &object.labels))
    }
}
