//! The cluster's DNS: two CoreDNS pods behind the usual Service, with the usual names and labels.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{images::COREDNS, kubectl::Kubectl, plan::DNS_SERVICE};

/// Answers only for the cluster's own names, because no other DNS server is reachable.
const COREFILE: &str = "\
.:53 {
    errors
    health :8080 {
        lameduck 1s
    }
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    reload
    loadbalance
}
";

/// Creates the objects. The pods start when there are nodes.
pub(crate) fn apply(kubectl: &Kubectl) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()});
    kubectl.apply(&list.to_string()).map(drop)
}

fn objects() -> Vec<Value> {
    let named = || json!({"name": "coredns", "namespace": "kube-system"});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named()}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        }),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": named(), "data": {"Corefile": COREFILE}}),
        service(),
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": named(),
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
                "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": pod()},
            },
        }),
    ]
}

fn service() -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "selector": {"k8s-app": "kube-dns"},
            "clusterIP": DNS_SERVICE.0,
            "clusterIPs": [DNS_SERVICE.0, DNS_SERVICE.1],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

/// A pod of CoreDNS. There is one on each node, so half of the queries of a pod go to the other node.
fn pod() -> Value {
    let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 1});
    json!({
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 2,
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }],
        "containers": [{
            "name": "coredns",
            "image": COREDNS,
            "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "ports": [
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            ],
            "readinessProbe": probe("/ready", 8181),
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_has_the_address_that_pods_use() {
        assert_eq!(service()["spec"]["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::a"]));
    }

    #[test]
    fn no_image_is_ever_pulled() {
        assert_eq!(pod()["containers"][0]["imagePullPolicy"], "Never");
    }
}
