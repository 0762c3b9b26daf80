//! The connectivity matrix: probes between every pod, node and outside address, and connections by DNS name.

use anyhow::{Result, ensure};
use testbed::kube::Site;
use testbed::kube::question::Question;

/// Probes everything several times. The second time, neighbours and connections are known, and still nothing more
/// passes. The table contains both outcomes for every kind of sender.
pub(crate) fn matches_the_objects(site: &mut Site) -> Result<()> {
    let asked = site.asked();
    let (open, closed): (Vec<Question>, Vec<Question>) = asked.iter().partition(|q| site.policy.allows(&site.world, q));
    println!("{} probes, of which {} should get an answer", asked.len(), open.len());
    for pod in 0..site.world.pods.len() {
        let sends = |probes: &[Question]| probes.iter().any(|q| q.from == testbed::kube::question::Side::Pod(pod));
        ensure!(
            sends(&open) && sends(&closed),
            "the probes of {} have only one expected outcome",
            site.world.pods[pod].label()
        );
    }
    for _ in 0..2 {
        site.check()?;
    }
    let drops = |node| Ok::<_, anyhow::Error>(site.agent_metrics(node)?.sum("bulkhead_drop_packets_total", &[]));
    ensure!(drops("a")? > 0.0 && drops("b")? > 0.0, "no packet was dropped, although probes got no answer");
    Ok(())
}

/// Names give the same results: a process in the pod resolves a name through the cluster's DNS and connects to the
/// result, for a Service with a ClusterIP and for a headless one.
pub(crate) fn dns_names_give_the_same(site: &mut Site) -> Result<()> {
    let names = [
        ("shop.acme-web", 80, "acme"),
        ("shop-headless.acme-web", 5432, "acme"),
        ("store.globex-web", 80, "globex"),
        ("tool.kube-system", 80, "all"),
    ];
    let senders = [("shop", "a", "acme"), ("batch", "a", "acme"), ("store", "b", "globex"), ("ledger", "b", "globex")];
    std::thread::scope(|scope| {
        let all = senders.iter().flat_map(|prober| names.iter().map(move |name| (prober, name)));
        let site = &*site;
        let threads: Vec<_> = all.map(|(prober, name)| scope.spawn(move || by_name(site, prober, name))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a probe does not panic"))
    })
}

fn by_name(site: &Site, prober: &(&str, &str, &str), name: &(&str, u16, &str)) -> Result<()> {
    let (app, node, tenant) = *prober;
    let (name, port, owner) = *name;
    let pod = site.world.pod(app, node)?;
    let target = format!("{name}.svc.cluster.local:{port}");
    let result = site.kubectl().exec(&pod.namespace, &pod.name, &["/agnhost", "connect", "--timeout=1500ms", &target]);
    match result {
        Ok(_) => ensure!(owner == tenant || owner == "all", "{app} of {tenant} reached {target}"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(owner != tenant && owner != "all", "{app} of {tenant} did not reach {target}: {text}");
            // The name was resolved, and no answer came.
            ensure!(text.contains("TIMEOUT"), "{app} to {target} failed otherwise: {text}");
        }
    }
    Ok(())
}
