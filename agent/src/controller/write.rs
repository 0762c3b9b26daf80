//! The only file of the controller that changes objects of others: statuses, Events, and one taint.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use super::conditions::worth_an_event;
use super::{nodes, watch};
use crate::api::{API_VERSION, NetworkTenantStatus};

/// Owner of the fields we write, and author of our Events.
const NAME: &str = "bulkhead-controller";
/// For one request: a leader must not wait for long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What could not be written. It is tried again with the next look.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused or could not be asked.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server takes too long")]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// Writes for one replica.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    tenants: Api<DynamicObject>,
    nodes: Api<Node>,
    reporter: Reporter,
}

impl Writer {
    /// As the replica `identity`.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(identity.to_owned()) };
        Self { tenants: watch::tenants(client.clone()), nodes: Api::all(client.clone()), client, reporter }
    }

    /// Writes a status, then tells of what went wrong with the tenant since `current`; returns the object as it is now.
    pub async fn status(
        &self,
        name: &str,
        current: &NetworkTenantStatus,
        wanted: &NetworkTenantStatus,
    ) -> Result<DynamicObject, WriteError> {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": "NetworkTenant",
            "metadata": {"name": name},
            "status": wanted,
        });
        let params = PatchParams::apply(NAME).force();
        let written = timeout(PATIENCE, self.tenants.patch_status(name, &params, &Patch::Apply(&object))).await??;
        for condition in worth_an_event(current, wanted) {
            tracing::warn!(tenant = name, reason = condition.reason, "{}", condition.message);
            let event = Event {
                type_: EventType::Warning,
                reason: condition.reason.clone(),
                note: Some(condition.message.clone()),
                action: "Evaluate".to_owned(),
                secondary: None,
            };
            // A fresh recorder: one that remembers would count a new message as a repetition of the old.
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            let told = timeout(PATIENCE, recorder.publish(&event, &reference(name, &written))).await;
            // The status says the same and stays; an Event that is lost is not worth writing it again.
            if let Err(error) = told.map_err(WriteError::from).and_then(|told| told.map_err(WriteError::from)) {
                tracing::warn!(%error, tenant = name, "an Event is lost");
            }
        }
        Ok(written)
    }

    /// Takes the start-up taint from a node, if it still has it.
    pub async fn untaint(&self, name: &str) -> Result<(), WriteError> {
        let node = timeout(PATIENCE, self.nodes.get(name)).await??;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let Some(rest) = nodes::without_ours(&taints) else { return Ok(()) };
        // The version makes it a conflict if somebody else changed the node meanwhile: taints are replaced as a list.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": rest},
        });
        timeout(PATIENCE, self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await??;
        tracing::info!(node = name, "its agent enforces: the start-up taint is removed");
        Ok(())
    }
}

fn reference(name: &str, object: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some("NetworkTenant".to_owned()),
        name: Some(name.to_owned()),
        uid: object.metadata.uid.clone(),
        resource_version: object.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}
