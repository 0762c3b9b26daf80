//! kubectl with the administrator's rights, for a test cluster or an existing one.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    Cluster,
    command::{command, run, run_with_input, wait},
    network,
    plan::CONTROL,
};

/// Runs kubectl against one API server.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The command up to kubectl itself.
    prefix: Vec<PathBuf>,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// kubectl for a test cluster, whose API server answers only inside its namespaces.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let netns = format!("--net={}", network::path(&cluster.id, CONTROL.name).display());
        let prefix = vec!["nsenter".into(), netns.into(), cluster.program("kubectl")];
        Self { prefix, kubeconfig: cluster.keys().kubeconfig("admin") }
    }

    /// kubectl for an existing cluster, with the kubectl of this machine.
    pub fn existing(kubeconfig: &Path) -> Self {
        Self { prefix: vec!["kubectl".into()], kubeconfig: kubeconfig.into() }
    }

    /// kubectl with these arguments, not yet started.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut kubectl = command(&self.prefix[0], &self.prefix[1..]);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        kubectl
    }

    /// Runs kubectl and returns its output.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        run(&mut self.command(args))
    }

    /// Runs kubectl and parses its output as JSON.
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Value> {
        let text = run(self.command(args).arg("--output=json"))?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Applies objects from YAML or JSON text on the server side.
    pub fn apply(&self, text: &str) -> Result<String> {
        self.feed(["apply", "--server-side", "--force-conflicts", "-f", "-"], text)
    }

    /// Runs kubectl with text on its standard input and returns its output.
    pub fn feed<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, text: &str) -> Result<String> {
        run_with_input(&mut self.command(args), text)
    }

    /// Creates a namespace and waits for its `default` service account, without which no pod is admitted.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: Value = labels.iter().map(|(key, value)| (String::from(*key), json!(value))).collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.apply(&object.to_string())?;
        let account = || self.run(["get", "serviceaccount", "default", "-n", name]);
        wait("the service account", Duration::from_secs(30), account).map(drop)
    }

    /// Runs a command in a pod's first container.
    pub fn exec(&self, namespace: &str, pod: &str, args: &[&str]) -> Result<String> {
        self.run(["exec", "-n", namespace, pod, "--"].iter().chain(args))
    }
}
