//! All valid objects of all files, each with its file and line, and the cluster that the model makes of them.
//!
//! Decides nothing about ownership or membership: the model does. Of two documents with one name, only the first
//! counts, as in the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::api::document::Object;
use crate::api::finding::{Code, Finding};
use crate::api::yaml::Node;
use crate::source::load::{Document, Documents};
use policy::model::cluster::Cluster;
use policy::model::input::{Age, Change, Endpoint, Namespace, Tenant};

/// An object, with its file and line.
pub(super) struct Placed<'a, T> {
    /// The object.
    pub object: &'a T,
    /// `Kind/name`.
    name: &'a str,
    file: &'a Path,
    node: &'a Node,
}

/// All objects, by name.
#[derive(Default)]
pub(super) struct World<'a> {
    /// Tenants.
    pub tenants: BTreeMap<&'a str, Placed<'a, Tenant>>,
    /// Namespaces.
    pub namespaces: BTreeMap<&'a str, Placed<'a, Namespace>>,
    /// Endpoints, in the order of their documents.
    pub endpoints: Vec<Placed<'a, Endpoint>>,
}

impl<'a> World<'a> {
    /// The objects of all valid documents.
    pub(super) fn of(loaded: &'a [(&'a Path, Documents)]) -> Self {
        let (mut world, mut seen) = (Self::default(), BTreeSet::new());
        for (file, documents) in loaded {
            for document in &documents.documents {
                let Document { key: Some(key), object: Some(object), node: Some(node), .. } = document else {
                    continue;
                };
                if seen.insert(key) {
                    world.add(object, &key.name, file, node);
                }
            }
        }
        world
    }

    /// The cluster that the model builds from these objects.
    pub(super) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for change in [
            Change::Tenants(self.tenants.values().map(|tenant| tenant.object.clone()).collect()),
            Change::Namespaces(self.namespaces.values().map(|namespace| namespace.object.clone()).collect()),
            Change::Endpoints(self.endpoints.iter().map(|endpoint| endpoint.object.clone()).collect()),
        ] {
            cluster.apply(change);
        }
        cluster
    }

    fn add(&mut self, object: &'a Object, name: &'a str, file: &'a Path, node: &'a Node) {
        match object {
            Object::Tenant(object) => drop(self.tenants.insert(name, Placed { object, name, file, node })),
            Object::Namespace(object) => drop(self.namespaces.insert(name, Placed { object, name, file, node })),
            Object::Endpoint(object) => self.endpoints.push(Placed { object, name, file, node }),
        }
    }
}

// A derived impl would require that `T` is `Copy` and `Clone`.
impl<T> Copy for Placed<'_, T> {}

impl<T> Clone for Placed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, T> Placed<'a, T> {
    /// Its name.
    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    /// `file:line` of the object.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.node.line)
    }

    /// A finding about one field of the object.
    pub(super) fn finding(&self, code: Code, field: &str, problem: String, remedy: &str) -> Finding {
        let kind = self.node.text("kind").unwrap_or_default();
        let namespace = self.node.get("metadata").and_then(|meta| meta.text("namespace"));
        let namespace = namespace.filter(|_| kind == "Endpoint").map(|ns| format!("{ns}/")).unwrap_or_default();
        Finding {
            file: self.file.to_owned(),
            line: self.node.line_of(field),
            object: Some(format!("{kind}/{namespace}{}", self.name)),
            field: field.to_owned(),
            code,
            problem,
            remedy: remedy.to_owned(),
        }
    }
}

/// Why the winner of a conflict precedes the loser, as the end of a message to the loser.
pub(super) fn because(winner: &Age, loser: &Age) -> &'static str {
    if winner.created == loser.created { "comes first by name" } else { "is older" }
}
