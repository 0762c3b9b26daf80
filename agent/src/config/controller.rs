//! Flags and environment variables of the controller: as typed ([`ControllerArgs`]), then as configuration.
//!
//! Flags that describe the cluster are shared with the agent, in `cluster`. Knows no object.

use std::net::SocketAddr;

use clap::Args;

use super::cluster::{ClusterArgs, LogArgs};
use super::{ConfigError, host_name, limits};
use crate::dataplane::object;
use policy::model::settings::Settings;

/// Default of `--listen`.
const LISTEN: &str = "127.0.0.1:9482";

/// Flags of `bulkhead controller`.
#[derive(Args, Clone, Debug)]
pub struct ControllerArgs {
    /// Namespace of the agents and of the Lease by which replicas elect a leader
    #[arg(long, env = "BULKHEAD_NAMESPACE", default_value = "bulkhead-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Name of this replica in the Lease. The default is the host name
    #[arg(long, env = "BULKHEAD_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, env = "BULKHEAD_CONTROLLER_LISTEN", default_value = LISTEN, value_name = "ADDR")]
    pub listen: SocketAddr,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    #[allow(clippy::missing_docs_in_private_items, reason = "documented at its type")]
    pub log: LogArgs,
}

/// The configuration of the controller.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Namespace of the agents and of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// Address of metrics and health.
    pub listen: SocketAddr,
    /// Settings of the model.
    pub settings: Settings,
}

impl ControllerArgs {
    /// The configuration that the flags describe.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn config(self) -> Result<ControllerConfig, ConfigError> {
        Ok(ControllerConfig {
            namespace: self.namespace,
            identity: self.identity.unwrap_or_else(host_name),
            listen: self.listen,
            settings: self.cluster.settings(limits(&object::MapLimits::default()), true)?,
        })
    }
}
