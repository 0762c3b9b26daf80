//! Flags that the agent and the controller share, under the same names and variables.
//!
//! One ConfigMap serves both. If the controller used other ranges, it would report conflicts that no node has.

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use policy::model::limits::Limits;
use policy::model::settings::{Settings, TenancyKey};

/// Flags that describe the cluster.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Pod address ranges of the cluster, such as 10.244.0.0/16. No subnet and no egress range of a tenant opens
    /// addresses in them. They are added to the ranges that Nodes and IP pools state. `none` says that pods have no range
    /// of their own. Give several separated by commas
    #[arg(long, env = "BULKHEAD_POD_CIDR", value_delimiter = ',', value_name = "CIDR|none", value_parser = pod_range)]
    pub pod_cidr: Vec<PodCidr>,
    /// Service address ranges of the cluster, such as 10.96.0.0/12. They are added to those of ServiceCIDR objects
    #[arg(long, env = "BULKHEAD_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Vec<IpNet>,
    /// Node address ranges of the cluster, such as 192.168.0.0/24. Addresses of Node objects are nodes in any case
    #[arg(long, env = "BULKHEAD_NODE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub node_cidr: Vec<IpNet>,
    /// Ranges inside the others whose addresses are not the cluster's, such as a load balancer's subnet in the pods' range.
    /// The longest range around an address says what it is
    #[arg(long, env = "BULKHEAD_OUTSIDE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub outside_cidr: Vec<IpNet>,
    /// Where a namespace names its tenant if no NetworkTenant selects it: label:KEY, annotation:KEY[=AFTER],
    /// label-suffix:KEY, or name. Of several, separated by commas, the first that applies is used
    #[arg(long, env = "BULKHEAD_TENANCY_KEY", value_delimiter = ',', value_name = "KEY", value_parser = tenancy_key)]
    pub tenancy_key: Vec<TenancyKey>,
    /// Namespaces that reach every tenant and that every tenant reaches, such as kube-system
    #[arg(long, env = "BULKHEAD_SHARED_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE")]
    pub shared_namespace: Vec<String>,
}

/// Flags of the log.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Level of the log on standard error, such as `info` or `bulkhead=debug,warn`
    #[arg(id = "log", long = "log", env = "BULKHEAD_LOG", default_value = "info", value_name = "FILTER")]
    pub filter: String,
    /// Format of the log on standard error
    #[arg(
        id = "log_format",
        long = "log-format",
        env = "BULKHEAD_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub format: LogFormat,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// A value of `--pod-cidr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodCidr {
    /// Pods have no range of their own.
    None,
    /// A range of pods.
    Net(IpNet),
}

impl ClusterArgs {
    /// Settings of the model with these flags, these limits, and defaults for everything else. `learn_ranges` says that
    /// objects of a cluster state ranges too.
    ///
    /// # Errors
    /// `none` beside a range of pods.
    pub fn settings(self, limits: Limits, learn_ranges: bool) -> Result<Settings, PodCidrError> {
        let net = |value: &PodCidr| match value {
            PodCidr::Net(net) => Some(*net),
            PodCidr::None => None,
        };
        let pod_cidrs: Vec<IpNet> = self.pod_cidr.iter().filter_map(net).collect();
        let no_pod_range = self.pod_cidr.contains(&PodCidr::None);
        if no_pod_range && !pod_cidrs.is_empty() {
            return Err(PodCidrError);
        }
        Ok(Settings {
            pod_cidrs,
            no_pod_range,
            learn_ranges,
            service_cidrs: self.service_cidr,
            node_cidrs: self.node_cidr,
            outside_cidrs: self.outside_cidr,
            keys: self.tenancy_key,
            shared_namespaces: self.shared_namespace.into_iter().collect(),
            limits,
            ..Settings::default()
        })
    }
}

/// `--pod-cidr none` beside a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--pod-cidr is `none` or ranges; `none` cannot be combined with ranges")]
pub struct PodCidrError;

fn pod_range(text: &str) -> Result<PodCidr, String> {
    if text == "none" {
        return Ok(PodCidr::None);
    }
    text.parse().map(PodCidr::Net).map_err(|_| "write a range such as 10.244.0.0/16, or none".to_owned())
}

fn tenancy_key(text: &str) -> Result<TenancyKey, String> {
    let form = "write label:KEY, annotation:KEY[=AFTER], label-suffix:KEY, or name";
    if text == "name" {
        return Ok(TenancyKey::NamespaceName);
    }
    let (kind, key) = text.split_once(':').ok_or(form)?;
    if key.is_empty() {
        return Err(format!("{kind}: has no key; {form}"));
    }
    match kind {
        "label" => Ok(TenancyKey::NamespaceLabel { key: key.into() }),
        "label-suffix" => Ok(TenancyKey::NamespaceLabelSuffix { key: key.into() }),
        "annotation" => {
            let (key, after) = match key.split_once('=') {
                Some((key, after)) => (key, Some(after.to_owned())),
                None => (key, None),
            };
            Ok(TenancyKey::NamespaceAnnotation { key: key.into(), after })
        }
        other => Err(format!("{other:?} is not a kind of tenancy key; {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenancy_keys_are_parsed_or_refused_with_the_syntax() {
        assert_eq!(tenancy_key("label:a/b"), Ok(TenancyKey::NamespaceLabel { key: "a/b".into() }));
        let annotation = TenancyKey::NamespaceAnnotation { key: "p/id".into(), after: Some(":".into()) };
        assert_eq!(tenancy_key("annotation:p/id=:"), Ok(annotation));
        assert_eq!(tenancy_key("name"), Ok(TenancyKey::NamespaceName));
        for bad in ["", "label", "label:", "pod:x"] {
            assert!(tenancy_key(bad).is_err_and(|text| text.contains("label:KEY")), "{bad}");
        }
    }
}
