//! Flags of `bulkhead controller`, and what they mean.
//!
//! Ranges, keys and shared namespaces have the agent's names, so that one ConfigMap serves both: a controller that
//! knew other ranges would call conflicts by which no node goes.

use std::net::SocketAddr;

use clap::Args;
use ipnet::IpNet;

use super::{LogFormat, host_name, limits, tenancy_key};
use crate::dataplane::object;
use policy::model::settings::{Settings, TenancyKey};

/// Where the controller's pages are unless told otherwise.
const LISTEN: &str = "127.0.0.1:9482";

/// Flags of `bulkhead controller`.
#[derive(Args, Clone, Debug)]
pub struct ControllerArgs {
    /// Namespace of the agents, of the Lease, and of the controller itself
    #[arg(long, env = "BULKHEAD_NAMESPACE", default_value = "bulkhead-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Name of this replica among others; the host's name if not given
    #[arg(long, env = "BULKHEAD_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env = "BULKHEAD_CONTROLLER_LISTEN", default_value = LISTEN, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Ranges of pod addresses: a tenant's subnet that overlaps one is refused
    #[arg(long, env = "BULKHEAD_POD_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub pod_cidr: Vec<IpNet>,
    /// Ranges of Service addresses
    #[arg(long, env = "BULKHEAD_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Vec<IpNet>,
    /// Ranges of node addresses
    #[arg(long, env = "BULKHEAD_NODE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub node_cidr: Vec<IpNet>,
    /// Where a namespace names its tenant without an object, in order: label:KEY,
    /// annotation:KEY[=AFTER], label-suffix:KEY, or name
    #[arg(long, env = "BULKHEAD_TENANCY_KEY", value_delimiter = ',', value_name = "KEY", value_parser = tenancy_key)]
    pub tenancy_key: Vec<TenancyKey>,
    /// Namespaces that every tenant reaches and that reach every tenant
    #[arg(long, env = "BULKHEAD_SHARED_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE")]
    pub shared_namespace: Vec<String>,
    /// Detail of the log, as `info` or `bulkhead=debug,warn`
    #[arg(long, env = "BULKHEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Form of the log, which goes to stderr
    #[arg(long, env = "BULKHEAD_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Namespace of the agents and of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// Address of the pages.
    pub listen: SocketAddr,
    /// Settings of the model.
    pub settings: Settings,
}

impl ControllerArgs {
    /// What was typed, understood.
    pub fn config(self) -> ControllerConfig {
        let settings = Settings {
            pod_cidrs: self.pod_cidr,
            service_cidrs: self.service_cidr,
            node_cidrs: self.node_cidr,
            keys: self.tenancy_key,
            shared_namespaces: self.shared_namespace.into_iter().collect(),
            limits: limits(&object::MapLimits::default()),
            ..Settings::default()
        };
        ControllerConfig {
            namespace: self.namespace,
            identity: self.identity.unwrap_or_else(host_name),
            listen: self.listen,
            settings,
        }
    }
}
