//! What runtime and plugin say to each other: of each protobuf message only the fields that are needed
//! here, by their numbers in `nri/pkg/api/api.proto` and `ttrpc/request.proto`. Others are passed over.

use bytes::Bytes;

/// What a runtime offers.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// What a plugin offers.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The event `RUN_POD_SANDBOX`: its network is there, and none of its containers.
pub const RUN_POD_SANDBOX: i32 = 1;

/// ttrpc: a call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Of which service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Which of its methods.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The method's own message.
    #[prost(bytes = "bytes", tag = "3")]
    pub payload: Bytes,
    /// How long the caller waits, 0 if it does not say.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// ttrpc: its answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// What went wrong.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The method's own message.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

/// What went wrong.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A code of gRPC; 0 is none.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `RegisterPluginRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Register {
    /// Name of the plugin.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// Two digits; plugins are asked in this order.
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
    /// Version of the protocol that the plugin speaks.
    #[prost(string, tag = "3")]
    pub nri_version: String,
}

/// `ConfigureRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Configure {
    /// Name of the runtime.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

/// `ConfigureResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Subscription {
    /// What the plugin wants to hear of: bit n - 1 is event n. None would mean all.
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// `SynchronizeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synchronize {
    /// There is more than fits into a message.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// `SynchronizeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synchronized {
    /// The plugin waits for more, if there is.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// `RunPodSandboxRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RunPodSandbox {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
}

/// `StateChangeEvent`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateChange {
    /// What happened.
    #[prost(int32, tag = "1")]
    pub event: i32,
    /// To which sandbox.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<PodSandbox>,
}

/// A pod's sandbox. Its addresses are left out: the runtime's CNI library has written them down already.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    /// The runtime's name for it.
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
    /// What it is on Linux.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandbox>,
}

/// A sandbox on Linux.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxPodSandbox {
    /// Its own namespaces.
    #[prost(message, repeated, tag = "5")]
    pub namespaces: Vec<LinuxNamespace>,
}

/// A namespace of Linux.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxNamespace {
    /// `network`, `pid`, ….
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Where it is kept.
    #[prost(string, tag = "2")]
    pub path: String,
}

impl PodSandbox {
    /// Where its network namespace is kept; `None` if it has none of its own.
    pub fn network(&self) -> Option<&str> {
        let mut own = self.linux.iter().flat_map(|linux| &linux.namespaces);
        own.find(|space| space.kind == "network" && !space.path.is_empty()).map(|space| space.path.as_str())
    }
}
