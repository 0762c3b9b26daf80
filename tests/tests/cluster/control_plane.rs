//! Tests of the manifests with a real API server, and of the controller.
//!
//! Every scenario needs a cluster where `deploy/bulkhead.yaml` is applied, uses names of its own (`cp-…`), and removes
//! them. Those that end in `controller` need a leading controller. None needs a node.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::{Kubectl, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const CONTROLLER: &str = "system:serviceaccount:bulkhead-system:bulkhead-controller";
const TAINT: &str = "bulkhead.dev/agent-not-ready";

/// A tenant that selects the namespaces labelled `cp-team=<team>`; `spec` adds to it.
fn tenant(name: &str, team: &str, spec: &Value) -> Value {
    let mut whole = json!({"namespaceSelector": {"matchLabels": {"cp-team": team}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "bulkhead.dev/v1alpha1", "kind": "NetworkTenant", "metadata": {"name": name}, "spec": whole})
}

/// The server enforces the structure and rules of the definition as the offline check does.
pub(crate) fn valid_tenants_are_accepted_and_invalid_ones_rejected(api: &Kubectl) -> Result<()> {
    let subnet = |cidr: &str| json!({"subnets": [{"name": "rds", "cidr": cidr}]});
    for good in [
        json!({}),
        json!({"class": "Shared", "mode": "Audit"}),
        json!({"subnets": [{"name": "rds", "cidr": "10.90.0.0/24", "ports": [{"protocol": "TCP", "port": 5432}]}]}),
        json!({"egress": [{"name": "all", "cidrs": ["0.0.0.0/0", "::/0"]}]}),
        json!({"peers": [{"tenant": "cp-other", "direction": "Egress", "until": "2037-01-31T00:00:00Z"}]}),
    ] {
        api.apply(&tenant("cp-good", "good", &good).to_string()).with_context(|| good.to_string())?;
    }
    for (bad, why) in [
        (json!({"namespaceSelector": {}}), "must not be empty"),
        (subnet("10.90.0.1/24"), "host bits"),
        (subnet("10.090.0.0/24"), "must be a network"),
        (subnet("0.0.0.0/0"), "wider than /8"),
        (subnet("169.254.169.0/24"), "ordinary unicast"),
        (json!({"class": "Shared", "peers": [{"tenant": "x", "direction": "Both"}]}), "remove peers"),
        (json!({"peers": [{"tenant": "cp-bad", "direction": "Both"}]}), "its own peer"),
        (json!({"egress": [{"name": "x", "cidrs": ["10.0.0.0/8"], "ports": []}]}), "at least 1 items"),
        (json!({"subnets": [{"name": "x", "cidr": "10.90.0.0/24", "prots": []}]}), "not declared in schema"),
        (json!({"mode": "Enfroce"}), "Unsupported value"),
    ] {
        refused(api.apply(&tenant("cp-bad", "bad", &bad).to_string()), why).with_context(|| bad.to_string())?;
    }
    let reserved = tenant("world", "bad", &json!({}));
    refused(api.apply(&reserved.to_string()), "reserved")?;
    delete(api, "networktenant", &["cp-good"])
}

/// The rights of a stolen service account: an agent only reads, and no account reads Secrets.
pub(crate) fn service_accounts_have_the_least_verbs(api: &Kubectl) -> Result<()> {
    let may = |account: &str, verb: &str, what: &str| {
        let user = format!("--as=system:serviceaccount:bulkhead-system:bulkhead-{account}");
        // kubectl exits with an error if the answer is "no", so only the output counts.
        let arguments = ["auth", "can-i", "-n", "bulkhead-system", &user, verb].into_iter().chain(what.split(' '));
        let output = api.command(arguments).output()?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).trim() == "yes")
    };
    for what in ["pods", "namespaces", "nodes", "services", "endpointslices.discovery.k8s.io", "networktenants"] {
        for verb in ["get", "list", "watch"] {
            ensure!(may("agent", verb, what)?, "an agent cannot {verb} {what}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            ensure!(!may("agent", verb, what)?, "an agent can {verb} {what}");
        }
    }
    for (verb, what) in
        [("patch", "networktenants --subresource=status"), ("patch", "nodes"), ("update", "leases/bulkhead-controller")]
    {
        ensure!(may("controller", verb, what)?, "the controller cannot {verb} {what}");
        ensure!(!may("agent", verb, what)?, "an agent can {verb} {what}");
    }
    for (verb, what) in [
        ("get", "secrets"),
        ("create", "pods"),
        ("patch", "networktenants"),
        ("assign", "networktenants"),
        ("patch", "namespaces"),
        ("update", "nodes"),
        ("delete", "nodes"),
        ("update", "leases/other"),
        ("create", "serviceaccounts --subresource=token"),
        ("impersonate", "users"),
    ] {
        for account in ["agent", "controller"] {
            ensure!(!may(account, verb, what)?, "bulkhead-{account} can {verb} {what}");
        }
    }
    Ok(())
}

/// A tenancy key can be changed only with the verb `assign` on both the old tenant and the new one.
pub(crate) fn a_tenancy_key_needs_the_verb_assign(api: &Kubectl) -> Result<()> {
    api.namespace("cp-keys", &[])?;
    let rules = |verbs: Value, names: Value| {
        json!([
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "create", "update", "patch"]},
            {"apiGroups": ["bulkhead.dev"], "resources": ["networktenants"], "verbs": verbs, "resourceNames": names},
        ])
    };
    let all = |user: &str, rules: Value| {
        let name = format!("cp-{user}");
        let (api_version, subject) = (
            "rbac.authorization.k8s.io/v1",
            json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}),
        );
        let role =
            json!({"apiVersion": api_version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        let binding = json!({"apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": reference, "subjects": [subject]});
        [role, binding].iter().try_for_each(|object| api.apply(&object.to_string()).map(drop))
    };
    all("nobody", rules(json!(["get"]), json!([])))?;
    all("operator", rules(json!(["assign"]), json!([])))?;
    all("of-acme", rules(json!(["assign"]), json!(["acme"])))?;
    let label = |user: &str, value: &str| {
        let change = format!("bulkhead.dev/tenant{value}");
        api.run(["label", "namespace", "cp-keys", "--overwrite", &change, &format!("--as=cp-{user}")])
    };
    let other = |user: &str| {
        api.run(["label", "namespace", "cp-keys", "--overwrite", "colour=blue", &format!("--as=cp-{user}")])
    };
    // A role is in force shortly after it is written.
    wait("the roles", PATIENCE, || label("of-acme", "=acme"))?;
    wait("the roles", PATIENCE, || other("nobody"))?;
    for (user, value) in [("nobody", "=globex"), ("nobody", "-"), ("of-acme", "=globex")] {
        refused(label(user, value), "verb assign").with_context(|| format!("{user} {value}"))?;
    }
    wait("the roles", PATIENCE, || label("operator", "=globex"))?;
    refused(label("of-acme", "=acme"), "globex").context("the namespace belongs to globex")?;
    refused(label("of-acme", "-"), "globex")?;
    let annotate = ["annotate", "namespace", "cp-keys", "bulkhead.dev/tenant=acme", "--as=cp-nobody"];
    refused(api.run(annotate), "verb assign")?;
    let marked = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "cp-born", "labels": {"bulkhead.dev/tenant": "acme"}}});
    let mut create = api.command(["create", "--as=cp-nobody", "-f", "-"]);
    refused(run_with_input(&mut create, &marked.to_string()), "verb assign")?;
    label("operator", "-")?;
    delete(api, "namespace", &["cp-keys"])?;
    delete(api, "clusterrolebinding", &["cp-nobody", "cp-operator", "cp-of-acme"])?;
    delete(api, "clusterrole", &["cp-nobody", "cp-operator", "cp-of-acme"])
}

/// `kubectl wait`, counts, and the newer object's condition and Event in a conflict, for a running controller.
pub(crate) fn tenants_become_ready_and_the_newer_one_reports_a_conflict_by_the_controller(api: &Kubectl) -> Result<()> {
    api.namespace("cp-web", &[("cp-team", "blue")])?;
    api.namespace("cp-jobs", &[("cp-team", "blue")])?;
    let subnet = |cidr: &str| json!({"subnets": [{"name": "rds", "cidr": cidr}]});
    api.apply(&tenant("cp-older", "blue", &subnet("10.91.0.0/24")).to_string())?;
    ready(api, "cp-older", "True")?;
    let older = api.json(["get", "nt", "cp-older"])?;
    ensure!(older["status"]["namespaceCount"] == 2, "{}", older["status"]);
    ensure!(older["status"]["namespaces"] == json!(["cp-jobs", "cp-web"]), "{}", older["status"]);
    ensure!(older["status"]["observedGeneration"] == older["metadata"]["generation"], "{older}");

    // Creation times have whole seconds. Within one second the name would decide.
    std::thread::sleep(Duration::from_millis(1100));
    api.apply(&tenant("cp-newer", "blue", &subnet("10.91.0.0/25")).to_string())?;
    ready(api, "cp-newer", "False")?;
    let newer = api.json(["get", "nt", "cp-newer"])?;
    let conflicted = condition(&newer, "Conflicted")?;
    ensure!(conflicted["status"] == "True" && conflicted["reason"] == "NamespaceClaimed", "{conflicted}");
    let message = conflicted["message"].as_str().unwrap_or_default();
    ensure!(message.contains("cp-older") && message.contains("10.91.0.0/25"), "{message}");
    ready(api, "cp-older", "True")?;
    wait("the Event", PATIENCE, || {
        let events = api.json(["get", "events.events.k8s.io", "-n", "default"])?;
        let about = |event: &&Value| event["regarding"]["name"] == "cp-newer" && event["type"] == "Warning";
        let found = events["items"].as_array().into_iter().flatten().find(about).map(|event| event["reason"].clone());
        ensure!(found == Some(json!("NamespaceClaimed")), "{found:?}");
        Ok(())
    })?;

    // One edit resolves the conflict, and the controller updates the status. Unchanged conditions keep their time.
    let since = |object: &Value| Ok::<_, anyhow::Error>(condition(object, "Accepted")?["lastTransitionTime"].clone());
    let before = since(&newer)?;
    api.apply(&tenant("cp-newer", "red", &subnet("10.92.0.0/25")).to_string())?;
    ready(api, "cp-newer", "True")?;
    ensure!(since(&api.json(["get", "nt", "cp-newer"])?)? == before, "an unchanged condition has a new time");
    is_written_once(api, "cp-newer")?;
    delete(api, "networktenant", &["cp-older", "cp-newer"])?;
    delete(api, "namespace", &["cp-web", "cp-jobs"])
}

/// The controller reports a one-sided peer until the other tenant lists it too.
pub(crate) fn a_peer_resolves_once_it_is_mutual_by_the_controller(api: &Kubectl) -> Result<()> {
    let peer = |other: &str, direction: &str| json!({"peers": [{"tenant": other, "direction": direction}]});
    api.apply(&tenant("cp-a", "a", &peer("cp-b", "Egress")).to_string())?;
    reason(api, "cp-a", "PeerNotFound")?;
    api.apply(&tenant("cp-b", "b", &json!({})).to_string())?;
    reason(api, "cp-a", "PeerNotMutual")?;
    api.apply(&tenant("cp-b", "b", &peer("cp-a", "Ingress")).to_string())?;
    ready(api, "cp-a", "True")?;
    ready(api, "cp-b", "True")?;
    delete(api, "networktenant", &["cp-a", "cp-b"])
}

/// The controller removes the taint, and only the taint, when the node's agent is ready. The node is a bare object, and
/// no kubelet runs its agent's pod.
pub(crate) fn a_node_is_freed_when_its_agent_is_ready_by_the_controller(api: &Kubectl) -> Result<()> {
    let other = json!({"key": "cp-other", "effect": "NoSchedule"});
    let taints = json!([{"key": TAINT, "effect": "NoSchedule"}, other.clone()]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-node",
        "labels": {"kubernetes.io/os": "linux"}}, "spec": {"taints": taints}});
    api.apply(&node.to_string())?;
    let allocatable = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}}).to_string();
    api.run(["patch", "node", "cp-node", "--subresource=status", "--type=merge", "-p", &allocatable])?;
    let agent = wait("the node's agent", PATIENCE, || agent_on(api, "cp-node"))?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(has_taint(api, TAINT)?, "the taint was removed although the agent is not ready");
    refused(patched(api, &json!({"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}})), "may only remove")?;

    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = status.to_string();
    api.run([
        "patch",
        "pod",
        &agent,
        "-n",
        "bulkhead-system",
        "--subresource=status",
        "--type=strategic",
        "-p",
        &patch,
    ])?;
    wait("the node without the taint", PATIENCE, || {
        ensure!(!has_taint(api, TAINT)?, "the node still has the taint");
        Ok(())
    })?;
    ensure!(has_taint(api, "cp-other")?, "another taint was removed, too");
    refused(patched(api, &json!({"spec": {"taints": []}})), "may only remove")?;
    refused(patched(api, &json!({"metadata": {"labels": {"x": "y"}}})), "nothing of a node but its taints")?;
    refused(patched(api, &json!({"spec": {"unschedulable": true}})), "nothing of a node but its taints")?;
    // The node is removed first, or the DaemonSet would create another pod.
    delete(api, "node", &["cp-node"])?;
    api.run(["delete", "pod", &agent, "-n", "bulkhead-system", "--force", "--grace-period=0", "--ignore-not-found"])
        .map(drop)
}

/// The pod that the DaemonSet made for a node and the scheduler bound to it.
fn agent_on(api: &Kubectl, node: &str) -> Result<String> {
    let (agents, here) = ("app.kubernetes.io/component=agent", format!("spec.nodeName={node}"));
    let pods = api.json(["get", "pods", "-n", "bulkhead-system", "-l", agents, "--field-selector", &here])?;
    let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pod = pods["items"].as_array().into_iter().flatten().find(living).context("no pod of the agent there")?;
    Ok(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

fn patched(api: &Kubectl, patch: &Value) -> Result<String> {
    api.run(["patch", "node", "cp-node", "--type=merge", "-p", &patch.to_string(), &format!("--as={CONTROLLER}")])
}

fn has_taint(api: &Kubectl, key: &str) -> Result<bool> {
    let node = api.json(["get", "node", "cp-node"])?;
    Ok(node["spec"]["taints"].as_array().into_iter().flatten().any(|taint| taint["key"] == key))
}

fn ready(api: &Kubectl, name: &str, status: &str) -> Result<()> {
    let condition = format!("--for=condition=Ready={status}");
    api.run(["wait", &condition, &format!("nt/{name}"), "--timeout=30s"]).map(drop)
}

fn reason(api: &Kubectl, name: &str, reason: &str) -> Result<()> {
    wait(reason, PATIENCE, || {
        let object = api.json(["get", "nt", name])?;
        let found = condition(&object, "Ready")?["reason"].clone();
        ensure!(found == reason, "{found}");
        Ok(())
    })
}

/// Checks that a status is not written again with the same content.
fn is_written_once(api: &Kubectl, name: &str) -> Result<()> {
    let version = || Ok::<_, anyhow::Error>(api.json(["get", "nt", name])?["metadata"]["resourceVersion"].clone());
    let before = version()?;
    std::thread::sleep(Duration::from_secs(3));
    let after = version()?;
    ensure!(before == after, "{before} became {after} although nothing changed");
    Ok(())
}

fn condition(object: &Value, kind: &str) -> Result<Value> {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).cloned().with_context(|| format!("no condition {kind}: {object}"))
}

/// Checks that the request is rejected for this reason.
fn refused(result: Result<String>, reason: &str) -> Result<()> {
    match result {
        Ok(answer) => bail!("the request was accepted: {answer}"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(reason), "refused for another reason: {text}");
            Ok(())
        }
    }
}

fn run_with_input(command: &mut std::process::Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn delete(api: &Kubectl, kind: &str, names: &[&str]) -> Result<()> {
    let args = ["delete", kind, "--wait=false", "--ignore-not-found"].into_iter().chain(names.iter().copied());
    api.run(args).map(drop)
}

/// A Service with an external IP, and a pod on the node's network in a tenant's namespace, are reported and not refused.
pub(crate) fn what_a_tenant_must_not_do_is_reported(api: &Kubectl) -> Result<()> {
    api.namespace("cp-warned", &[("bulkhead.dev/tenant", "acme")])?;
    api.namespace("cp-free", &[])?;
    let service = |name: &str, external: Option<&str>| {
        let ports = json!([{"port": 80}]);
        let spec = match external {
            Some(address) => json!({"externalIPs": [address], "ports": ports}),
            None => json!({"ports": ports}),
        };
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "cp-warned"}, "spec": spec})
    };
    let pod = |namespace: &str, name: &str, on_node: bool| {
        let containers = json!([{"name": "c", "image": "localhost/none", "imagePullPolicy": "Never"}]);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"hostNetwork": on_node, "nodeSelector": {"runs": "nowhere"}, "containers": containers}})
    };
    let warned = |object: &Value| {
        let mut create = api.command(["create", "-f", "-", "--warnings-as-errors"]);
        run_with_input(&mut create, &object.to_string())
    };
    let exists = |kind: &str, namespace: &str, name: &str| api.run(["get", kind, "-n", namespace, name]);
    // A policy is in force some time after it is written.
    let mut number = 0;
    wait("the policies", PATIENCE, || {
        number += 1;
        refused(warned(&service(&format!("taken-{number}"), Some("10.40.0.10"))), "no administrator has permitted")
    })?;
    exists("service", "cp-warned", &format!("taken-{number}")).context("a warning refuses nothing")?;
    warned(&service("plain", None)).context("the control, a Service without external IPs")?;
    wait("the policies", PATIENCE, || {
        number += 1;
        refused(warned(&pod("cp-warned", &format!("on-node-{number}"), true)), "uses the node's network")
    })?;
    exists("pod", "cp-warned", &format!("on-node-{number}")).context("a warning refuses nothing")?;
    warned(&pod("cp-warned", "plain", false)).context("the control, a pod with a network of its own")?;
    warned(&pod("cp-free", "on-node", true)).context("the control, a namespace of no tenant")?;
    for namespace in ["cp-warned", "cp-free"] {
        api.run(["delete", "namespace", namespace, "--timeout=60s"])?;
    }
    Ok(())
}
