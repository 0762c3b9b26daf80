//! The agent's configuration file as a value that tests edit, and its YAML.
//!
//! Knows the format from the documentation and uses no type of the agent.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::host::{BRIDGED_GATEWAYS, Host, ROUTED_GATEWAYS};

/// The label that assigns a namespace to a tenant.
pub const TENANT_LABEL: &str = "example.com/tenant";

/// All documents of the file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `NetworkTenant` documents.
    pub tenants: Vec<Tenant>,
    /// `Namespace` documents: name and tenant label.
    pub namespaces: Vec<(String, String)>,
    /// `Endpoint` documents.
    pub endpoints: Vec<Endpoint>,
    /// Further documents as text.
    pub raw: Vec<String>,
}

/// A `NetworkTenant`.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    /// Name, which is also the label value of its namespaces.
    pub name: String,
    /// `class: Shared`.
    pub shared: bool,
    /// `mode: Audit`.
    pub audit: bool,
    /// Own data subnets: name, CIDR, ports.
    pub subnets: Vec<(String, String, Vec<Port>)>,
    /// Further destinations: name, CIDRs, ports.
    pub egress: Vec<(String, Vec<String>, Vec<Port>)>,
    /// Peers: tenant and direction.
    pub peers: Vec<(String, String)>,
}

/// A protocol and a port.
pub type Port = (&'static str, u16);

/// An `Endpoint`.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Addresses.
    pub addresses: Vec<String>,
    /// `interface: NAME` or `netns: NAME`. A pod on another node has neither.
    pub attachment: Option<(&'static str, String)>,
    /// Gateways that are not addresses of the node.
    pub gateways: Vec<String>,
}

impl Config {
    /// The policy of the test network, without endpoints.
    pub fn two_tenants() -> Self {
        let subnet = |name: &str, cidr: &str, ports: &[Port]| (name.to_owned(), cidr.to_owned(), ports.to_vec());
        let postgres = [("TCP", 5432)];
        let acme = Tenant {
            name: "acme".into(),
            subnets: vec![subnet("db-a", "10.40.0.0/24", &postgres), subnet("db-a6", "fd00:40::/64", &postgres)],
            ..Tenant::default()
        };
        let globex = Tenant {
            name: "globex".into(),
            subnets: vec![subnet("db-a", "10.41.0.0/24", &[]), subnet("db-a6", "fd00:41::/64", &[])],
            ..Tenant::default()
        };
        // The widest possible range must allow neither a tenant's subnet nor the metadata service.
        let everywhere = ("upstream".to_owned(), vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()], Vec::new());
        let platform = Tenant { name: "platform".into(), shared: true, egress: vec![everywhere], ..Tenant::default() };
        let namespaces = [("acme-prod", "acme"), ("globex-prod", "globex"), ("platform-dns", "platform")];
        Self {
            tenants: vec![acme, globex, platform],
            namespaces: namespaces.map(|(name, tenant)| (name.to_owned(), tenant.to_owned())).to_vec(),
            ..Self::default()
        }
    }

    /// The tenant of this name.
    pub fn tenant(&mut self, name: &str) -> &mut Tenant {
        self.tenants.iter_mut().find(|tenant| tenant.name == name).expect("a tenant of this configuration")
    }

    /// The endpoint of this host.
    pub fn endpoint(&mut self, host: Host) -> &mut Endpoint {
        self.endpoints
            .iter_mut()
            .find(|endpoint| endpoint.name == host.name())
            .expect("an endpoint of this configuration")
    }

    /// Replaces a file atomically.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        fs::write(&beside, self.to_yaml())?;
        fs::rename(&beside, path)
    }

    /// All documents.
    pub fn to_yaml(&self) -> String {
        let mut documents: Vec<String> = self.tenants.iter().map(Tenant::to_yaml).collect();
        documents.extend(self.namespaces.iter().map(|(name, tenant)| {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{TENANT_LABEL}: {tenant}}}}}\n"
            )
        }));
        documents.extend(self.endpoints.iter().map(Endpoint::to_yaml));
        documents.extend(self.raw.iter().cloned());
        documents.join("---\n")
    }
}

impl Tenant {
    /// Its document.
    pub fn to_yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: bulkhead.dev/v1alpha1\nkind: NetworkTenant\nmetadata: {{name: {0}}}\nspec:\n  \
             namespaceSelector: {{matchLabels: {{{TENANT_LABEL}: {0}}}}}\n",
            self.name
        );
        if self.shared {
            text += "  class: Shared\n";
        }
        if self.audit {
            text += "  mode: Audit\n";
        }
        let subnets =
            self.subnets.iter().map(|(name, cidr, ports)| format!("name: {name}, cidr: {cidr:?}{}", list(ports)));
        section(&mut text, "subnets", subnets);
        let egress =
            self.egress.iter().map(|(name, cidrs, ports)| format!("name: {name}, cidrs: {cidrs:?}{}", list(ports)));
        section(&mut text, "egress", egress);
        let peers = self.peers.iter().map(|(tenant, direction)| format!("tenant: {tenant}, direction: {direction}"));
        section(&mut text, "peers", peers);
        text
    }
}

impl Endpoint {
    /// A pod on another node.
    pub fn far(host: Host) -> Self {
        Self {
            namespace: host.namespace().expect("a pod").to_owned(),
            name: host.name().to_owned(),
            addresses: vec![host.v4().to_string(), host.v6().to_string()],
            attachment: None,
            gateways: Vec::new(),
        }
    }

    /// A routed pod, with link-local gateways.
    pub fn routed(host: Host, attachment: (&'static str, String)) -> Self {
        let gateways = vec![ROUTED_GATEWAYS.0.to_string(), ROUTED_GATEWAYS.1.to_string()];
        Self { attachment: Some(attachment), gateways, ..Self::far(host) }
    }

    /// A pod on a bridge.
    pub fn bridged(host: Host, attachment: (&'static str, String)) -> Self {
        let gateways = vec![BRIDGED_GATEWAYS.0.to_string(), BRIDGED_GATEWAYS.1.to_string()];
        Self { attachment: Some(attachment), gateways, ..Self::far(host) }
    }

    fn to_yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: bulkhead.dev/v1alpha1\nkind: Endpoint\nmetadata: {{namespace: {}, name: {}}}\nspec:\n  addresses: {:?}\n",
            self.namespace, self.name, self.addresses
        );
        if let Some((key, value)) = &self.attachment {
            let _ = writeln!(text, "  {key}: {value}");
        }
        if !self.gateways.is_empty() {
            let _ = writeln!(text, "  gateways: {:?}", self.gateways);
        }
        text
    }
}

fn section(text: &mut String, key: &str, items: impl Iterator<Item = String>) {
    for (index, item) in items.enumerate() {
        if index == 0 {
            let _ = writeln!(text, "  {key}:");
        }
        let _ = writeln!(text, "  - {{{item}}}");
    }
}

fn list(ports: &[Port]) -> String {
    let items: Vec<_> =
        ports.iter().map(|(protocol, port)| format!("{{protocol: {protocol}, port: {port}}}")).collect();
    if items.is_empty() { String::new() } else { format!(", ports: [{}]", items.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_accepts_the_documents() {
        let mut config = Config::two_tenants();
        config.tenant("acme").audit = true;
        config.tenant("acme").peers.push(("globex".into(), "Egress".into()));
        config.endpoints = vec![
            Endpoint::far(Host::AcmeFar),
            Endpoint::routed(Host::AcmeWeb, ("interface", "bh-acme-web".into())),
            Endpoint::bridged(Host::GlobexWeb, ("netns", "bh-1-1-globex-web".into())),
        ];
        let loaded = bulkhead::load(Path::new("bulkhead.yaml"), config.to_yaml().as_bytes());
        let documents = loaded.expect("YAML");
        assert_eq!(documents.findings, Vec::new());
        assert_eq!(documents.documents.len(), 9);
    }
}
