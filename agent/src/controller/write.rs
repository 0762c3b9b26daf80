//! The only file of the controller that writes objects of other owners: statuses, Events, and one taint.
//!
//! Decides nothing: it writes what it is given. Every request has a time limit.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use super::conditions::event_conditions;
use super::{nodes, watches};
use crate::api::{API_VERSION, NetworkTenantStatus};

/// Field manager of the writes, and reporter of the Events.
const NAME: &str = "bulkhead-controller";
/// Time limit of one request. A leader must not wait for long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a write failed. The next pass tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The API server refused the request or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer within 5 seconds")]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// Writes on behalf of one replica.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    tenants: Api<DynamicObject>,
    nodes: Api<Node>,
    reporter: Reporter,
}

impl Writer {
    /// A writer for the replica `identity`.
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(identity.to_owned()) };
        Self { tenants: watches::tenants(client.clone()), nodes: Api::all(client.clone()), client, reporter }
    }

    /// Writes a status, and one Event for each condition that is bad and new since `current`. Returns the written object.
    pub(crate) async fn status(
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
        let written =
            timeout(REQUEST_TIMEOUT, self.tenants.patch_status(name, &params, &Patch::Apply(&object))).await??;
        for condition in event_conditions(current, wanted) {
            tracing::warn!(tenant = name, reason = condition.reason, "{}", condition.message);
            let event = Event {
                type_: EventType::Warning,
                reason: condition.reason.clone(),
                note: Some(condition.message.clone()),
                action: "Evaluate".to_owned(),
                secondary: None,
            };
            // A recorder counts a new message as a repetition of the old one, so each Event gets a new recorder.
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            let published = timeout(REQUEST_TIMEOUT, recorder.publish(&event, &reference(name, &written))).await;
            let published = published.map_err(WriteError::from).and_then(|done| done.map_err(WriteError::from));
            // The status says the same, so a lost Event is not written again.
            if let Err(error) = published {
                tracing::warn!(%error, tenant = name, "cannot write a Kubernetes Event; the status has the same message");
            }
        }
        Ok(written)
    }

    /// Removes the start-up taint from a node, if the node still has it.
    pub(crate) async fn untaint(&self, name: &str) -> Result<(), WriteError> {
        let node = timeout(REQUEST_TIMEOUT, self.nodes.get(name)).await??;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let Some(rest) = nodes::without_ours(&taints) else { return Ok(()) };
        // Taints are replaced as a list. The version turns a concurrent change of the node into a conflict.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": rest},
        });
        timeout(REQUEST_TIMEOUT, self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await??;
        tracing::info!(node = name, "removed the start-up taint: the agent of the node enforces");
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
