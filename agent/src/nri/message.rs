//! The protobuf messages between a runtime and a plugin, with the names and field numbers of `nri/pkg/api/api.proto`
//! and `ttrpc/request.proto`.
//!
//! Each message holds only the fields that the agent uses. The decoder skips the others.

use bytes::Bytes;

/// The service that a runtime offers.
pub(super) const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// The service that a plugin offers.
pub(super) const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The event `RUN_POD_SANDBOX`: the sandbox has its network and no container yet.
pub(super) const RUN_POD_SANDBOX: i32 = 1;

/// A call, as ttrpc sends it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TtrpcRequest {
    /// Name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The method's encoded argument.
    #[prost(bytes = "bytes", tag = "3")]
    pub payload: Bytes,
    /// How long the caller waits. 0: the caller does not state it.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// The answer to a [`TtrpcRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TtrpcResponse {
    /// The failure, if the call failed.
    #[prost(message, optional, tag = "1")]
    pub status: Option<TtrpcStatus>,
    /// The method's encoded result.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

/// Why a call failed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TtrpcStatus {
    /// A status code of gRPC. 0: no failure.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// A description for people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The plugin's first call: it registers itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RegisterPluginRequest {
    /// Name of the plugin.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// Two digits. The runtime calls plugins in this order.
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
    /// Version of the protocol that the plugin implements.
    #[prost(string, tag = "3")]
    pub nri_version: String,
}

/// The runtime's first call: it introduces itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConfigureRequest {
    /// Name of the runtime.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Version of the runtime.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

/// The plugin's answer to [`ConfigureRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConfigureResponse {
    /// The events that the plugin subscribes to: bit n - 1 is event n. 0 would subscribe to all events.
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// The runtime's second call: it lists the sandboxes that exist.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SynchronizeRequest {
    /// Another message continues the list.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// The plugin's answer to [`SynchronizeRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SynchronizeResponse {
    /// The plugin accepts the next message of the list.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// The runtime asks whether a new sandbox may run.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RunPodSandboxRequest {
    /// The new sandbox.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
}

/// Something happened to a sandbox. Before NRI 0.12, new sandboxes were announced with it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StateChangeEvent {
    /// Number of the event.
    #[prost(int32, tag = "1")]
    pub event: i32,
    /// The sandbox.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<PodSandbox>,
}

/// A pod's sandbox. Its addresses are not decoded: the agent reads them from the runtime's CNI cache.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodSandbox {
    /// The runtime's identifier of the sandbox.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name of the pod.
    #[prost(string, tag = "2")]
    pub name: String,
    /// UID of the pod.
    #[prost(string, tag = "3")]
    pub uid: String,
    /// Namespace of the pod.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// The part that is specific to Linux.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandbox>,
}

/// The Linux part of a [`PodSandbox`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LinuxPodSandbox {
    /// The namespaces that the sandbox does not share with the node.
    #[prost(message, repeated, tag = "5")]
    pub namespaces: Vec<LinuxNamespace>,
}

/// A Linux namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LinuxNamespace {
    /// The kind of namespace, such as `network` or `pid`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The path that keeps the namespace alive.
    #[prost(string, tag = "2")]
    pub path: String,
}

impl PodSandbox {
    /// The path of its network namespace. `None`: the sandbox uses the node's network.
    pub(crate) fn network(&self) -> Option<&str> {
        let mut own = self.linux.iter().flat_map(|linux| &linux.namespaces);
        own.find(|namespace| namespace.kind == "network" && !namespace.path.is_empty())
            .map(|namespace| namespace.path.as_str())
    }
}
