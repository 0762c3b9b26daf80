//! Tests of edits of the policy while the agent runs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use testbed::agent::Agent;
use testbed::config::Tenant;
use testbed::host::{Family, Host};
use testbed::matrix::{Cell, allowed, assert_matrix, probe_in};
use testbed::probe::{Outcome, Transport};
use testbed::stream::EchoConnection;
use testbed::world::{Layout, World};

use crate::traffic::{SOON, assert_cut, pause};

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_revoked_subnet_ends_its_connections() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let revoked = Family::ALL
        .map(|family| EchoConnection::start(&world, Host::AcmeWeb, Host::AcmeDb, family).expect("a connection"));
    let bystander = EchoConnection::start(&world, Host::GlobexWeb, Host::GlobexDb, Family::V4).expect("a connection");
    pause();
    let mut config = world.config();
    config.tenant("acme").subnets.clear();
    config.write(&world.config_path()).expect("an edit");
    let moment = Instant::now();
    thread::sleep(SOON + Duration::from_secs(1));
    revoked.into_iter().for_each(|connection| assert_cut(connection, moment));
    let bystander = bystander.stop();
    assert_eq!(bystander.error, None);
    assert!(bystander.longest_gap() < Duration::from_millis(150), "{:?}", bystander.longest_gap());
    drop(agent);
}

/// Adds a grant from acme to globex: the entry of either tenant, or of both.
fn agree(acme: Option<&mut Tenant>, globex: Option<&mut Tenant>) {
    acme.into_iter().for_each(|tenant| tenant.peers.push(("globex".into(), "Egress".into())));
    globex.into_iter().for_each(|tenant| tenant.peers.push(("acme".into(), "Ingress".into())));
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_grant_needs_both_tenants_and_has_a_direction() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let mut config = world.config();
    agree(Some(config.tenant("acme")), None);
    config.write(&world.config_path()).expect("an edit");
    thread::sleep(SOON);
    assert_matrix(&world, allowed);

    agree(None, Some(config.tenant("globex")));
    config.write(&world.config_path()).expect("an edit");
    let probe = Cell { from: Host::AcmeWeb, to: Host::GlobexWeb, family: Family::V4, transport: Transport::Tcp };
    agent.wait(SOON * 2, "granted", || probe_in(&world, probe) == Outcome::Answered).expect("both agree now");
    let acme = [Host::AcmeWeb, Host::AcmeApi, Host::AcmeFar];
    let globex = [Host::GlobexWeb, Host::GlobexApi, Host::GlobexFar];
    assert_matrix(&world, |cell| allowed(cell) || (acme.contains(&cell.from) && globex.contains(&cell.to)));

    config.tenant("globex").peers.clear();
    config.write(&world.config_path()).expect("an edit");
    agent
        .wait(SOON * 2, "revoked", || probe_in(&world, probe) == Outcome::Silence)
        .expect("globex does not agree any more");
    assert_matrix(&world, allowed);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn an_invalid_document_is_reported_and_its_last_good_version_stays_in_force() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let good = world.config();
    let mut bad = good.clone();
    bad.tenant("acme").subnets[0].1 = "10.40.0.0/33".into();
    bad.write(&world.config_path()).expect("an edit");
    let line = agent.wait_log(SOON, "spec.subnets[0].cidr");
    let line = line.unwrap_or_else(|| panic!("nothing was logged:\n{}", agent.log().join("\n")));
    for expected in ["NetworkTenant/acme", "bulkhead.yaml", "line", "such as 10.40.0.0/24"] {
        assert!(line.contains(expected), "no {expected} in: {line}");
    }
    assert!(!line.contains('\u{1b}'), "colours in a pipe: {line:?}");
    assert_matrix(&world, allowed);
    // Edits of other documents in the same file still take effect.
    bad.tenant("globex").egress.push(("web".into(), vec!["198.51.100.0/24".into()], vec![]));
    bad.write(&world.config_path()).expect("an edit");
    let probe = Cell { from: Host::GlobexWeb, to: Host::Internet, family: Family::V4, transport: Transport::Tcp };
    agent
        .wait(SOON * 2, "granted", || probe_in(&world, probe) == Outcome::Answered)
        .expect("the valid document is in force");
    let asked = Cell { from: Host::AcmeWeb, to: Host::AcmeDb, ..probe };
    assert_eq!(probe_in(&world, asked), Outcome::Answered, "the last good version of the invalid document is in force");
    // Invalid YAML.
    fs::write(world.config_path(), "kind: [NetworkTenant\n  - {").expect("an edit");
    thread::sleep(SOON);
    assert_eq!(probe_in(&world, asked), Outcome::Answered);
    assert_eq!(probe_in(&world, Cell { to: Host::GlobexWeb, ..asked }), Outcome::Silence);
    good.write(&world.config_path()).expect("an edit");
    agent
        .wait(SOON * 2, "as before", || probe_in(&world, probe) == Outcome::Silence)
        .expect("the file is in force again");
    assert_matrix(&world, allowed);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn a_namespace_that_changes_its_tenant_moves_its_pods() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let outcome = |from, to| probe_in(&world, Cell { from, to, family: Family::V4, transport: Transport::Tcp });
    assert_eq!(outcome(Host::AcmeWeb, Host::AcmeDb), Outcome::Answered);
    let mut config = world.config();
    config.namespaces[0].1 = "globex".into();
    config.write(&world.config_path()).expect("an edit");
    let moved = || outcome(Host::AcmeWeb, Host::GlobexWeb) == Outcome::Answered;
    agent.wait(SOON * 2, "moved", moved).expect("the pod belongs to globex now");
    assert_eq!(outcome(Host::AcmeWeb, Host::GlobexDb), Outcome::Answered);
    assert_eq!(outcome(Host::AcmeWeb, Host::AcmeDb), Outcome::Silence);
}

#[test]
#[ignore = "needs root and the agent: cargo xtask test netns"]
fn pods_of_a_deleted_tenant_or_namespace_reach_nobody() {
    let world = World::new(Layout::Routed).expect("a world");
    let agent = Agent::ready(&world).expect("an agent");
    let good = world.config();
    let outcome =
        |to| probe_in(&world, Cell { from: Host::AcmeWeb, to, family: Family::V4, transport: Transport::Tcp });
    for what in ["tenant", "namespace"] {
        let mut config = good.clone();
        match what {
            "tenant" => drop(config.tenants.remove(0)),
            _ => drop(config.namespaces.remove(0)),
        }
        config.write(&world.config_path()).expect("an edit");
        let cut = || outcome(Host::AcmeDb) == Outcome::Silence;
        agent.wait(SOON * 2, "cut off", cut).unwrap_or_else(|error| panic!("no {what}: {error:#}"));
        // Pods of the same namespace are excluded: they always belong to the same tenant.
        for to in [Host::GlobexWeb, Host::GlobexFar, Host::GlobexDb, Host::Internet, Host::Metadata] {
            assert_eq!(outcome(to), Outcome::Silence, "no {what}: {to:?}");
        }
        good.write(&world.config_path()).expect("an edit");
        let back = || outcome(Host::AcmeDb) == Outcome::Answered;
        agent.wait(SOON * 2, "restored", back).expect("the permission is restored");
    }
}
