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
    /// addresses in them. Give several separated by commas
    #[arg(long, env = "BULKHEAD_POD_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub pod_cidr: Vec<IpNet>,
    /// Service address ranges of the cluster, such as 10.96.0.0/12
    #[arg(long, env = "BULKHEAD_SERVICE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Vec<IpNet>,
    /// Node address ranges of the cluster, such as 192.168.0.0/24
    #[arg(long, env = "BULKHEAD_NODE_CIDR", value_delimiter = ',', value_name = "CIDR")]
    pub node_cidr: Vec<IpNet>,
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

impl ClusterArgs {
    /// Settings of the model with these flags, these limits, and defaults for everything else.
    pub fn settings(self, limits: Limits) -> Settings {
        Settings {
            pod_cidrs: self.pod_cidr,
            service_cidrs: self.service_cidr,
            node_cidrs: self.node_cidr,
            keys: self.tenancy_key,
            shared_namespaces: self.shared_namespace.into_iter().collect(),
            limits,
            ..Settings::default()
        }
    }
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
