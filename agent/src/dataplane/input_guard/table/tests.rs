//! Tests of the keys, rules and batches of the input guard's table, without a kernel.

use super::*;

fn exact(pod: &str, to: &str) -> InputOpening {
    InputOpening { pod: pod.parse().unwrap(), to: to.parse().unwrap(), protocol: TCP, port: 8080 }
}

#[test]
fn keys_have_the_length_of_their_set() {
    let rules = InputRules {
        interfaces: [7].into(),
        pods: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
        open: ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()].into(),
        exact: [exact("10.0.0.1", "10.0.0.9"), exact("fd00::1", "fd00::9")].into(),
        tunnels: [8472].into(),
        own: [2].into(),
    };
    let contents = contents(&rules);
    for set in SETS {
        let keys = &contents[set.name];
        assert_eq!(keys.len(), 1, "{}", set.name);
        assert!(keys.iter().all(|key| key.len() == set.length as usize), "{}", set.name);
    }
    assert_eq!(contents["exact4"].first().unwrap()[..], [10, 0, 0, 1, 10, 0, 0, 9, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
}

#[test]
fn an_entry_with_two_families_grants_nothing() {
    let rules = InputRules { exact: [exact("10.0.0.1", "fd00::9")].into(), ..InputRules::default() };
    assert!(contents(&rules).values().all(BTreeSet::is_empty));
}

#[test]
fn a_mapped_address_is_an_ipv4_address() {
    let rules = InputRules { pods: ["::ffff:10.0.0.1".parse().unwrap()].into(), ..InputRules::default() };
    assert_eq!(contents(&rules)["pods4"], [vec![10, 0, 0, 1]].into());
}

#[test]
fn a_change_writes_only_what_differs() {
    let pods = |list: &[&str]| InputRules {
        pods: list.iter().map(|pod| pod.parse().unwrap()).collect(),
        ..InputRules::default()
    };
    let (old, new) = (contents(&pods(&["10.0.0.1", "10.0.0.2"])), contents(&pods(&["10.0.0.2", "fd00::1"])));
    let batch = change(&old, &new);
    let operations: Vec<&str> = batch.iter().map(|message| message.operation.as_str()).collect();
    assert_eq!(
        operations,
        ["delete elements of set pods4 in table bulkhead", "add elements of set pods6 in table bulkhead"]
    );
    assert!(change(&new, &new).is_empty());
}

#[test]
fn many_elements_are_split_into_messages_below_64_kib() {
    let rules = InputRules {
        exact: (0..5000).map(|port| InputOpening { port, ..exact("fd00::1", "fd00::9") }).collect(),
        ..InputRules::default()
    };
    let batch = change(&contents(&InputRules::default()), &contents(&rules));
    assert_eq!(batch.len(), 10);
    assert!(batch.iter().all(|message| message.body.as_bytes().len() < 1 << 16));
}

#[test]
fn the_last_rule_drops_and_counts() {
    let last = judge_rules().pop().unwrap();
    assert_eq!(last, [nft::count("node"), nft::verdict(NftVerdict::Drop)]);
}
