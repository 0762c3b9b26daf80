//! The control plane: etcd, API server, controllers and scheduler, all in the namespace of one host.
//!
//! Arguments follow from the cluster's directories alone, so a test may stop a part and a later process may start it
//! again.

use std::{fs, iter, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    Cluster,
    command::wait,
    plan::{CONTROL, POD_RANGES, SERVICE_RANGES},
};

const ETCD: &str = "http://127.0.0.1:2379";

/// Starts the control plane and waits until the API server is ready.
pub(crate) fn up(cluster: &Cluster) -> Result<()> {
    fs::create_dir_all(cluster.directory("etcd"))?;
    fs::write(cluster.directory("audit-policy.json"), audit_policy())?;
    start(cluster, "etcd")?;
    start(cluster, "kube-apiserver")?;
    ready(cluster)?;
    start(cluster, "kube-controller-manager")?;
    start(cluster, "kube-scheduler")
}

/// Starts one of the parts.
pub(crate) fn start(cluster: &Cluster, part: &str) -> Result<()> {
    let arguments = arguments(cluster, part);
    let words: Vec<_> = iter::once(part).chain(arguments.iter().map(String::as_str)).collect();
    cluster.start(CONTROL.name, part, &words)
}

/// Waits until the API server reports that it is ready.
pub(crate) fn ready(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let answer = wait("the API server", Duration::from_secs(60), || kubectl.run(["get", "--raw", "/readyz"]));
    answer.with_context(|| cluster.daemons().last_words("kube-apiserver"))?;
    Ok(())
}

fn arguments(cluster: &Cluster, part: &str) -> Vec<String> {
    let common = |who: &str| {
        let config = cluster.keys().kubeconfig(who).display().to_string();
        let flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
        flags.map(|flag| format!("--{flag}={config}")).into_iter().chain(["--leader-elect=false".into()])
    };
    match part {
        "etcd" => etcd(cluster),
        "kube-apiserver" => api_server(cluster),
        "kube-controller-manager" => common("controllers").chain(controllers(cluster)).collect(),
        _ => common("scheduler").collect(),
    }
}

/// etcd does not wait for the disk, because no data of a test cluster must survive a power cut.
fn etcd(cluster: &Cluster) -> Vec<String> {
    vec![
        format!("--data-dir={}", cluster.directory("etcd").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--unsafe-no-fsync".into(),
        "--quota-backend-bytes=2147483648".into(),
    ]
}

/// The audit log does not rotate, because a test reads one file from its beginning.
fn api_server(cluster: &Cluster) -> Vec<String> {
    let keys = cluster.keys();
    let key = |flag: &str, file: &str| format!("--{flag}={}", keys.file(file).display());
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={}", CONTROL.v4()),
        format!("--service-cluster-ip-range={SERVICE_RANGES}"),
        "--secure-port=6443".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        key("tls-cert-file", "api.crt"),
        key("tls-private-key-file", "api.key"),
        key("token-auth-file", "tokens.csv"),
        key("service-account-key-file", "accounts.key"),
        key("service-account-signing-key-file", "accounts.key"),
        format!("--audit-policy-file={}", cluster.directory("audit-policy.json").display()),
        format!("--audit-log-path={}", cluster.audit_log().display()),
        "--audit-log-maxsize=10000".into(),
    ]
}

/// The limits of requests per second are raised: each namespace takes several writes, and tests create thousands.
fn controllers(cluster: &Cluster) -> Vec<String> {
    let keys = cluster.keys();
    vec![
        format!("--root-ca-file={}", keys.file("ca.crt").display()),
        format!("--service-account-private-key-file={}", keys.file("accounts.key").display()),
        "--use-service-account-credentials=true".into(),
        format!("--cluster-cidr={POD_RANGES}"),
        "--allocate-node-cidrs=false".into(),
        "--kube-api-qps=200".into(),
        "--kube-api-burst=400".into(),
    ]
}

/// Logs the user, the object and the result of each request, and once more when a watch ends.
fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn arguments_of(part: &str) -> String {
        let cluster = Cluster::new(crate::Id::new("x").unwrap(), Path::new("/state"));
        arguments(&cluster, part).join(" ")
    }

    #[test]
    fn services_have_both_families() {
        assert!(arguments_of("kube-apiserver").contains("--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"));
    }

    #[test]
    fn the_audit_log_has_the_path_of_the_cluster() {
        assert!(arguments_of("kube-apiserver").contains("--audit-log-path=/state/x/log/audit.jsonl"));
    }

    #[test]
    fn components_do_not_wait_for_a_lease() {
        assert!(arguments_of("kube-scheduler").contains("/state/x/keys/scheduler.kubeconfig"));
        assert!(arguments_of("kube-controller-manager").contains("--leader-elect=false"));
    }
}
