//! Ranges that objects other than Nodes state: ServiceCIDRs, and the IP pools of network plugins.
//!
//! The kinds may be absent, because not every cluster has them, and the objects change rarely. So they are listed
//! periodically and not watched, and at once when pods are seen outside the known ranges. What could not be read changes
//! nothing. Refuses to know what a range means for the policy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use kube::Client;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::errors::with_causes;
use policy::model::ranges::LearntRanges;

/// How often the objects are listed. Two thousand nodes then make about ten requests a second.
const PERIOD: Duration = Duration::from_secs(600);
/// The shortest time between two lists, and the time until a failed one is repeated.
const RETRY: Duration = Duration::from_secs(15);
/// The longest time that one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Most objects of a kind that are read.
const MOST: usize = 1000;

/// What the objects state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatedRanges {
    /// Ranges of Services.
    pub services: BTreeSet<IpNet>,
    /// Ranges of pods, for all nodes.
    pub pools: BTreeSet<IpNet>,
    /// A kind of IP pool could not be read yet, so pods may have further ranges.
    pub lacks_pools: bool,
}

impl StatedRanges {
    /// All learnt ranges: these, those of each node, and those of the networks of this node's pods.
    pub(crate) fn learnt<'a>(
        &self,
        of_nodes: impl Iterator<Item = &'a Vec<IpNet>> + Clone,
        of_results: impl Iterator<Item = &'a IpNet>,
    ) -> LearntRanges {
        let has_nodes = of_nodes.clone().next().is_some();
        let has_all_nodes = has_nodes && of_nodes.clone().all(|ranges| !ranges.is_empty());
        let mut pods = self.pools.clone();
        pods.extend(of_nodes.flatten().chain(of_results));
        LearntRanges {
            pods: pods.into_iter().collect(),
            services: self.services.iter().copied().collect(),
            covers_every_node: (has_all_nodes || !self.pools.is_empty()) && !self.lacks_pools,
        }
    }
}

/// A kind of object, and where it states ranges.
struct RangeSource {
    path: &'static str,
    pointers: &'static [&'static str],
    states_services: bool,
}

const SOURCES: [RangeSource; 4] = [
    // Since Kubernetes 1.33, and 1.31 as beta.
    RangeSource { path: "/apis/networking.k8s.io/v1/servicecidrs", pointers: &["/spec/cidrs"], states_services: true },
    RangeSource {
        path: "/apis/networking.k8s.io/v1beta1/servicecidrs",
        pointers: &["/spec/cidrs"],
        states_services: true,
    },
    RangeSource { path: "/apis/crd.projectcalico.org/v1/ippools", pointers: &["/spec/cidr"], states_services: false },
    RangeSource {
        path: "/apis/cilium.io/v2alpha1/ciliumpodippools",
        pointers: &["/spec/ipv4/cidrs", "/spec/ipv6/cidrs"],
        states_services: false,
    },
];

/// Lists the objects until the receiver of `events` is gone. What was read at first, and each difference from it, is
/// sent. `urgent` asks for a list now; the more often it is in vain, the longer it waits.
pub(crate) async fn follow<V>(
    client: Client,
    urgent: Arc<Notify>,
    event: impl Fn(StatedRanges) -> V,
    events: mpsc::Sender<V>,
) {
    let mut lister = RangeLister { client, read: SOURCES.map(|_| None), reported: BTreeSet::new() };
    let mut sent: Option<StatedRanges> = None;
    let mut pause = RETRY;
    loop {
        let is_complete = lister.list().await;
        let stated = lister.stated();
        pause = if sent.as_ref() == Some(&stated) { (pause * 2).min(PERIOD) } else { RETRY };
        if sent.as_ref() != Some(&stated) {
            sent = Some(stated.clone());
            if events.send(event(stated)).await.is_err() {
                return;
            }
        }
        sleep(pause).await;
        if is_complete {
            tokio::select! {
                () = sleep(PERIOD + spread()) => {}
                () = urgent.notified() => {}
                () = events.closed() => return,
            }
        }
    }
}

/// Up to two minutes, so that agents that start together do not list together for ever.
fn spread() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(u64::from(now.subsec_nanos()) % 120_000)
}

/// What was last read from each source.
struct RangeLister {
    client: Client,
    read: [Option<Vec<IpNet>>; SOURCES.len()],
    /// Sources whose failure was logged.
    reported: BTreeSet<&'static str>,
}

impl RangeLister {
    /// Lists every source. Returns whether all could be read; of the others the last good list stays.
    async fn list(&mut self) -> bool {
        let mut is_complete = true;
        for (source, read) in SOURCES.iter().zip(&mut self.read) {
            match list_one(&self.client, source).await {
                Ok(ranges) => {
                    *read = Some(ranges);
                    self.reported.remove(source.path);
                }
                Err(error) => {
                    is_complete = false;
                    if self.reported.insert(source.path) {
                        let path = source.path;
                        tracing::warn!(
                            path,
                            error,
                            "cannot list objects that state ranges; known ranges stay in force"
                        );
                    }
                }
            }
        }
        is_complete
    }

    fn stated(&self) -> StatedRanges {
        let mut stated = StatedRanges::default();
        for (source, read) in SOURCES.iter().zip(&self.read) {
            let all = if source.states_services { &mut stated.services } else { &mut stated.pools };
            all.extend(read.iter().flatten());
            stated.lacks_pools |= read.is_none() && !source.states_services;
        }
        stated
    }
}

/// The ranges that one kind of object states; none where the cluster does not have the kind. What may not be read is not
/// absent.
async fn list_one(client: &Client, source: &RangeSource) -> Result<Vec<IpNet>, String> {
    let path = format!("{}?limit={MOST}", source.path);
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    match timeout(LIMIT, client.request::<Value>(request)).await {
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        Ok(Ok(list)) => Ok(ranges(&list, source)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Vec::new()),
        Ok(Err(error)) => Err(with_causes(&error)),
    }
}

/// The ranges in a list. A value that is no range is skipped.
fn ranges(list: &Value, source: &RangeSource) -> Vec<IpNet> {
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten().take(MOST);
    let values = items.flat_map(|item| source.pointers.iter().filter_map(|pointer| item.pointer(pointer)));
    let texts = values.flat_map(|value| match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => Vec::new(),
    });
    texts.filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::kube_watch::fake_api::{FakeResponse, client};

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    #[test]
    fn every_node_is_covered_if_each_states_its_ranges_or_a_pool_does() {
        let net = |text: &str| text.parse::<IpNet>().expect("a range");
        let (a, b, silent) = (vec![net("10.244.0.0/24")], vec![net("10.244.1.0/24")], Vec::new());
        let pools = StatedRanges { pools: nets(&["10.0.0.0/16"]), ..StatedRanges::default() };
        let none = StatedRanges::default();
        let covers = |stated: &StatedRanges, nodes: &[&Vec<IpNet>]| {
            stated.learnt(nodes.iter().copied(), std::iter::empty()).covers_every_node
        };
        assert!(covers(&none, &[&a, &b]) && covers(&pools, &[&a, &silent]));
        assert!(!covers(&none, &[&a, &silent]) && !covers(&none, &[]));
        let result = net("10.88.0.0/16");
        let learnt = pools.learnt([&a, &a].into_iter(), std::iter::once(&result));
        assert_eq!(learnt.pods, [net("10.0.0.0/16"), net("10.88.0.0/16"), net("10.244.0.0/24")]);
    }

    fn list_of(spec: &Value) -> FakeResponse {
        FakeResponse::Ended(200, vec![json!({"items": [{"metadata": {"name": "x"}, "spec": spec}]})])
    }

    fn missing(code: u16) -> FakeResponse {
        FakeResponse::Ended(code, vec![json!({"kind": "Status", "code": code, "message": "", "reason": ""})])
    }

    async fn list(client: Client) -> (bool, StatedRanges) {
        let mut lister = RangeLister { client, read: SOURCES.map(|_| None), reported: BTreeSet::new() };
        (lister.list().await, lister.stated())
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_states_its_ranges_and_an_absent_kind_states_none() {
        let client = client(|path, _| match path {
            "/apis/networking.k8s.io/v1/servicecidrs" => list_of(&json!({"cidrs": ["10.96.0.0/12", "fd00:96::/112"]})),
            "/apis/crd.projectcalico.org/v1/ippools" => list_of(&json!({"cidr": "192.168.0.0/16"})),
            "/apis/cilium.io/v2alpha1/ciliumpodippools" => {
                list_of(&json!({"ipv4": {"cidrs": ["10.10.0.7/16", "no"]}, "ipv6": {"cidrs": ["fd01::/48"]}}))
            }
            _ => missing(404),
        });
        let (is_complete, stated) = list(client).await;
        assert_eq!(stated.services, nets(&["10.96.0.0/12", "fd00:96::/112"]));
        assert_eq!(stated.pools, nets(&["192.168.0.0/16", "10.10.0.0/16", "fd01::/48"]));
        assert!(is_complete && !stated.lacks_pools);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_may_not_be_read_or_is_broken_is_not_absent_and_keeps_no_other_from_counting() {
        for code in [403, 500] {
            let client = client(move |path, _| match path {
                "/apis/crd.projectcalico.org/v1/ippools" => missing(code),
                "/apis/networking.k8s.io/v1/servicecidrs" => list_of(&json!({"cidrs": ["10.96.0.0/12"]})),
                _ => missing(404),
            });
            let (is_complete, stated) = list(client).await;
            assert!(!is_complete && stated.lacks_pools, "{code}");
            assert_eq!(stated.services, nets(&["10.96.0.0/12"]));
            let node = vec!["10.244.0.0/24".parse::<IpNet>().expect("a range")];
            assert!(!stated.learnt(std::iter::once(&node), std::iter::empty()).covers_every_node);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_any_more_changes_nothing_and_what_changed_is_sent_when_asked_for() {
        let answers = Arc::new(Mutex::new("10.0.0.0/16"));
        let current = Arc::clone(&answers);
        let client = client(move |path, _| match (path, *current.lock().expect("a lock")) {
            (_, "") => FakeResponse::Silent,
            ("/apis/crd.projectcalico.org/v1/ippools", "forbidden") => missing(403),
            ("/apis/crd.projectcalico.org/v1/ippools", cidr) => list_of(&json!({"cidr": cidr})),
            _ => missing(404),
        });
        let (sender, mut received) = mpsc::channel(4);
        let urgent = Arc::<Notify>::default();
        let running = tokio::spawn(follow(client, Arc::clone(&urgent), |stated| stated.pools, sender));
        assert_eq!(received.recv().await, Some(nets(&["10.0.0.0/16"])));
        for unreadable in ["", "forbidden"] {
            *answers.lock().expect("a lock") = unreadable;
            urgent.notify_one();
            assert!(timeout(PERIOD, received.recv()).await.is_err(), "{unreadable:?} is no change");
        }
        *answers.lock().expect("a lock") = "10.1.0.0/16";
        urgent.notify_one();
        assert_eq!(timeout(2 * PERIOD, received.recv()).await, Ok(Some(nets(&["10.1.0.0/16"]))));
        drop(received);
        timeout(2 * PERIOD, running).await.expect("it ends with its receiver").expect("no panic");
    }
}
