//! Credentials of the components: a CA, the API server's certificate, tokens, kubeconfigs. Each run creates new ones.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    command::{command, run},
    plan::{API_SERVICE, CONTROL, NODES},
};

/// The components with a token and a kubeconfig: file name, user, groups.
const COMPONENTS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("controllers", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
];

/// The directory of the credentials.
#[derive(Clone, Debug)]
pub(crate) struct Keys(pub PathBuf);

impl Keys {
    /// The path of a file, such as `ca.crt`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The kubeconfig of `admin`, a component, or a node.
    pub(crate) fn kubeconfig(&self, who: &str) -> PathBuf {
        self.file(&format!("{who}.kubeconfig"))
    }

    /// Creates all credentials.
    pub(crate) fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.0)?;
        self.certificates().context("cannot make the certificates")?;
        let nodes = NODES.map(|node| (node.name, format!("system:node:{}", node.name)));
        let nodes = nodes.iter().map(|(name, user)| (*name, user.as_str(), "system:nodes"));
        let mut tokens = String::new();
        for (number, (name, user, group)) in COMPONENTS.into_iter().chain(nodes).enumerate() {
            let token = token()?;
            tokens += &format!("{token},{user},{number},{group}\n");
            fs::write(self.kubeconfig(name), kubeconfig(&self.file("ca.crt"), &token))?;
        }
        Ok(fs::write(self.file("tokens.csv"), tokens)?)
    }

    /// Creates certificates with elliptic curves, which take milliseconds. RSA would take a good part of a second.
    fn certificates(&self) -> Result<()> {
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        fs::write(self.file("names"), subject_names())?;
        self.openssl(&format!("req -x509 {new_key} -days 30 -subj /CN=bulkhead-test-ca -keyout ca.key -out ca.crt"))?;
        self.openssl(&format!("req {new_key} -subj /CN=kube-apiserver -keyout api.key -out api.csr"))?;
        self.openssl(
            "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out api.crt",
        )?;
        self.openssl("ecparam -name prime256v1 -genkey -noout -out accounts.key")
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        run(command("openssl", arguments.split(' ')).current_dir(&self.0))?;
        Ok(())
    }
}

fn subject_names() -> String {
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(|n| format!("DNS:{n}"));
    let addresses = [CONTROL.v4().to_string(), CONTROL.v6().to_string(), API_SERVICE.to_string(), "127.0.0.1".into()];
    let addresses = addresses.map(|address| format!("IP:{address}"));
    format!("subjectAltName={},{}\n", names.join(","), addresses.join(","))
}

fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn kubeconfig(ca: &Path, token: &str) -> String {
    let server = format!("https://{}:6443", CONTROL.v4());
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_and_node_gets_a_token_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys(directory.path().join("keys"));
        keys.make().unwrap();
        let tokens = fs::read_to_string(keys.file("tokens.csv")).unwrap();
        let distinct: std::collections::HashSet<_> = tokens.lines().filter_map(|line| line.split(',').next()).collect();
        assert_eq!(distinct.len(), COMPONENTS.len() + NODES.len());
        assert!(tokens.contains(",system:node:b,5,system:nodes\n"));
        assert!(keys.kubeconfig("a").exists());
    }

    #[test]
    fn the_certificate_has_all_addresses_of_the_api_server() {
        let names = subject_names();
        assert!(names.contains("IP:198.18.0.10,IP:fd00:198:18::10,IP:10.96.0.1"));
    }
}
