//! Objects are edited while pods communicate: how long the kernel takes to follow, and that revocation ends open
//! connections.
//!
//! A datagram stream watches each edit, one datagram per millisecond, from a pod to a destination that the edit opens
//! or closes. A TCP connection is open when it closes. Afterwards the whole matrix is probed.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testbed::config::TENANT_LABEL;
use testbed::host::Family;
use testbed::kube::Site;
use testbed::kube::world::{ClusterWorld, PORT, Pod, of_family, outside};
use testbed::netns::Netns;
use testbed::stream::{DatagramRecord, DatagramStream, EchoConnection, EchoRecord};

/// The destination port of datagrams, which no other test uses.
const DATAGRAM_PORT: u16 = 7100;
/// The time within which an edit must be in force, on a busy machine.
const SOON: Duration = Duration::from_secs(2);
/// Answers that may be in flight when the permission ends.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// A path that an edit opens or closes.
struct Way<'a> {
    from: &'a Pod,
    to: &'a Netns,
    address: SocketAddr,
}

impl<'a> Way<'a> {
    fn to_pod(world: &'a ClusterWorld, from: (&str, &str), to: (&str, &str), family: Family) -> Result<Self> {
        let (from, to) = (world.pod(from.0, from.1)?, world.pod(to.0, to.1)?);
        Ok(Self { from, to: &to.netns, address: SocketAddr::new(to.address(family)?, PORT) })
    }

    fn outside(world: &'a ClusterWorld, from: (&str, &str), to: &str) -> Result<Self> {
        let from = world.pod(from.0, from.1)?;
        Ok(Self { from, to: &world.outside, address: SocketAddr::new(outside(to)?, PORT) })
    }

    fn stream(&self) -> Result<DatagramStream> {
        let source = self.source()?;
        DatagramStream::between(&self.from.netns, source, self.to, SocketAddr::new(self.address.ip(), DATAGRAM_PORT))
    }

    fn source(&self) -> Result<IpAddr> {
        let family = if self.address.is_ipv4() { Family::V4 } else { Family::V6 };
        of_family(&self.from.addresses, family).context("an address")
    }

    fn connection(&self) -> Result<EchoConnection> {
        EchoConnection::between(&self.from.netns, Some(self.source()?), self.address)
    }
}

/// The start time of kubectl for an edit, and its duration.
struct Edited {
    at: Instant,
    kubectl: Duration,
}

/// Makes an edit under traffic and waits until it is in force.
fn under_traffic(edit: impl FnOnce() -> Result<()>) -> Result<Edited> {
    thread::sleep(Duration::from_millis(200));
    let at = Instant::now();
    edit()?;
    let kubectl = at.elapsed();
    thread::sleep(SOON);
    Ok(Edited { at, kubectl })
}

impl Edited {
    fn print(&self, what: &str, took: Duration) {
        println!(
            "{what} {} ms after kubectl was started, which took {} ms",
            took.as_millis(),
            self.kubectl.as_millis()
        );
    }

    /// Checks that no datagram arrived before the edit, and that the first one arrived soon after it.
    fn opened(&self, what: &str, record: &DatagramRecord) -> Result<()> {
        let early = record.arrived.iter().filter(|at| **at < self.at).count();
        ensure!(early == 0, "{what}: {early} of {} datagrams arrived before they were allowed", record.sent);
        let Some(took) = record.first_after(self.at) else {
            bail!("{what}: none of {} datagrams arrived", record.sent)
        };
        self.print(&format!("{what}: open"), took);
        Ok(())
    }

    /// Checks that datagrams stopped soon after the edit, and that the connection ended with them.
    fn closed(&self, what: &str, record: &DatagramRecord, connection: &EchoRecord) -> Result<()> {
        ensure!(record.arrived.iter().any(|at| *at < self.at), "{what}: no datagram arrived before the edit");
        let took = record.last_after(self.at).unwrap_or_default();
        ensure!(took < SOON - Duration::from_millis(100), "{what}: datagrams still arrive");
        ensure!(connection.answers.iter().any(|at| *at < self.at), "{what}: the connection was not used");
        let lived = connection.answers_after(self.at + took + UNDER_WAY);
        ensure!(lived == 0, "{what}: the connection got {lived} answers after the last datagram");
        self.print(&format!("{what}: closed"), took);
        Ok(())
    }
}

fn opens(what: &str, way: &Way<'_>, edit: impl FnOnce() -> Result<()>) -> Result<()> {
    let stream = way.stream()?;
    let edited = under_traffic(edit)?;
    edited.opened(what, &stream.stop())
}

fn closes(what: &str, way: &Way<'_>, edit: impl FnOnce() -> Result<()>) -> Result<()> {
    let (stream, connection) =
        (way.stream()?, way.connection().with_context(|| format!("{what}: a connection before"))?);
    let edited = under_traffic(edit)?;
    edited.closed(what, &stream.stop(), &connection.stop())
}

/// A tenant gets a data subnet, and loses it again.
pub(crate) fn a_subnet(site: &mut Site) -> Result<()> {
    let old = site.policy.clone();
    let mut new = old.clone();
    new.tenant("acme").subnets.push(("extra".into(), "10.50.0.0/24".into(), Vec::new()));
    site.policy = new;
    let way = Way::outside(&site.world, ("shop", "a"), "nobodys")?;
    opens("subnet added", &way, || site.apply_policy())?;
    site.settle()?;
    site.check()?;
    site.policy = old;
    let way = Way::outside(&site.world, ("shop", "a"), "nobodys")?;
    closes("subnet removed", &way, || site.apply_policy())?;
    site.check()
}

/// Two tenants agree on one direction. The entry of one tenant alone allows nothing.
pub(crate) fn peers(site: &mut Site) -> Result<()> {
    let old = site.policy.clone();
    site.policy.tenant("acme").peers.push(("globex".into(), "Egress".into()));
    site.apply_policy()?;
    thread::sleep(Duration::from_secs(1));
    site.check().context("an entry of one tenant alone is no permission")?;
    let half = site.policy.clone();
    site.policy.tenant("globex").peers.push(("acme".into(), "Ingress".into()));
    let way = Way::to_pod(&site.world, ("shop", "a"), ("store", "b"), Family::V6)?;
    opens("peer agreed", &way, || site.apply_policy())?;
    site.settle()?;
    site.check()?;
    site.policy = half;
    let way = Way::to_pod(&site.world, ("shop", "a"), ("store", "b"), Family::V6)?;
    closes("peer withdrawn", &way, || site.apply_policy())?;
    site.check()?;
    site.policy = old;
    site.apply_policy()
}

/// A namespace moves to another tenant: its pods reach the new tenant and no longer the old one.
pub(crate) fn a_namespace(site: &mut Site) -> Result<()> {
    for (name, owner) in &mut site.policy.objects.namespaces {
        if name == "acme-jobs" {
            *owner = "globex".to_owned();
        }
    }
    let old = Way::to_pod(&site.world, ("batch", "a"), ("shop", "b"), Family::V4)?;
    let new = Way::to_pod(&site.world, ("batch", "a"), ("store", "b"), Family::V4)?;
    let (leaving, connection, joining) = (old.stream()?, old.connection()?, new.stream()?);
    let edited = under_traffic(|| site.apply_policy())?;
    edited.closed("namespace left its tenant", &leaving.stop(), &connection.stop())?;
    edited.opened("namespace joined another", &joining.stop())?;
    site.settle()?;
    site.check()
}

/// A namespace loses its label and thereby every permission.
pub(crate) fn a_label(site: &mut Site) -> Result<()> {
    site.policy.objects.namespaces.retain(|(name, _)| name != "acme-jobs");
    let way = Way::to_pod(&site.world, ("batch", "a"), ("shop", "a"), Family::V4)?;
    let label = format!("{TENANT_LABEL}-");
    closes("label removed", &way, || site.kubectl().run(["label", "namespace", "acme-jobs", &label]).map(drop))?;
    site.settle()?;
    site.check()
}

/// A tenant is in Audit mode for a while: its own packets pass, and other tenants' pods still refuse them.
pub(crate) fn a_mode(site: &mut Site) -> Result<()> {
    site.policy.tenant("acme").audit = true;
    let way = Way::outside(&site.world, ("shop", "b"), "nobodys")?;
    opens("mode Audit", &way, || site.apply_policy())?;
    site.settle()?;
    site.check()?;
    site.policy.tenant("acme").audit = false;
    let way = Way::outside(&site.world, ("shop", "b"), "nobodys")?;
    closes("mode Enforce", &way, || site.apply_policy())?;
    site.check()
}
