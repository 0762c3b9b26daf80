//! The input guard's table as messages: its sets, its chains, and its rules.
//!
//! One list each, from which the table is written and with which it is compared. Does not talk to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::nft::{self, Attributes, CREATE, Compare, Load, Message, MessageKind, NftVerdict};
use policy::model::input_guard::{InputOpening, InputRules};

/// Name of the table, family inet.
pub(super) const TABLE: &str = "bulkhead";
/// Names of the counters: packets to the node, and packets to its tunnel devices.
pub(super) const COUNTERS: [&str; 2] = ["node", "tunnel"];
/// The chain at the hook, and the one that judges packets of pods.
const INPUT: &str = "input";
const JUDGE: &str = "judge";
/// Behind IPVS (98 and 99) and NAT (100) at the same hook, so addresses and ports are the final ones.
const PRIORITY: u32 = 200;
/// Elements of one message; 64 KiB of attributes hold 1,100 of the largest key.
const CHUNK: usize = 512;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// IPv4 in IP, IPv6 in IP, and GRE.
const TUNNEL_PROTOCOLS: [u8; 3] = [4, 41, 47];

/// Keys by the name of the set.
pub(super) type Contents = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;

/// A set: its name, the numbers by which `nft` prints its key, and the key's length in bytes.
struct SetSpec {
    name: &'static str,
    types: &'static [u32],
    length: u32,
}

/// Types of keys, as `nft` numbers them (`datatype.h`).
const IPV4: u32 = 7;
const IPV6: u32 = 8;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
const INTERFACE: u32 = 20;

const SETS: [SetSpec; 9] = [
    SetSpec { name: "interfaces", types: &[INTERFACE], length: 4 },
    SetSpec { name: "pods4", types: &[IPV4], length: 4 },
    SetSpec { name: "pods6", types: &[IPV6], length: 16 },
    SetSpec { name: "open4", types: &[IPV4], length: 4 },
    SetSpec { name: "open6", types: &[IPV6], length: 16 },
    // Each part of a key takes a multiple of four bytes.
    SetSpec { name: "exact4", types: &[IPV4, IPV4, PROTOCOL, SERVICE], length: 16 },
    SetSpec { name: "exact6", types: &[IPV6, IPV6, PROTOCOL, SERVICE], length: 40 },
    SetSpec { name: "tunnels", types: &[SERVICE], length: 2 },
    SetSpec { name: "own", types: &[INTERFACE], length: 4 },
];

/// The names of all sets.
pub(super) fn sets() -> impl Iterator<Item = &'static str> {
    SETS.iter().map(|set| set.name)
}

/// The keys of all sets. Leaves out entries that no packet can match, such as those with two families.
pub(super) fn contents(rules: &InputRules) -> Contents {
    let mut contents: Contents = sets().map(|name| (name, BTreeSet::new())).collect();
    let mut put = |name: &'static str, key: Vec<u8>| _ = contents.entry(name).or_default().insert(key);
    rules.interfaces.iter().for_each(|index| put("interfaces", index.to_ne_bytes().to_vec()));
    rules.own.iter().for_each(|index| put("own", index.to_ne_bytes().to_vec()));
    rules.tunnels.iter().for_each(|port| put("tunnels", port.to_be_bytes().to_vec()));
    for (four, six, addresses) in [("pods4", "pods6", &rules.pods), ("open4", "open6", &rules.open)] {
        for address in addresses {
            let key = octets(*address);
            put(if key.len() == 4 { four } else { six }, key);
        }
    }
    for exact in &rules.exact {
        match exact_key(exact) {
            key if key.len() == 16 => put("exact4", key),
            key if key.len() == 40 => put("exact6", key),
            _ => {}
        }
    }
    contents
}

/// The bytes of an address; four for an IPv4 address that is written as IPv6.
fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The registers that [`exact`] loads; 28 bytes if the families differ.
fn exact_key(exact: &InputOpening) -> Vec<u8> {
    let [high, low] = exact.port.to_be_bytes();
    let rest = [exact.protocol, 0, 0, 0, high, low, 0, 0];
    [&octets(exact.pod)[..], &octets(exact.to), &rest].concat()
}

/// A request about something in the table. Most kinds of objects name the table as attribute 1.
pub(super) fn request(kind: MessageKind, flags: u16, operation: &str, body: Attributes) -> Message {
    Message { operation: format!("{operation} in table {TABLE}"), kind, flags, body }
}

/// Attributes with the name of the table.
pub(super) fn in_table() -> Attributes {
    Attributes::new().text(1, TABLE)
}

/// The table itself. A table that somebody put to sleep differs.
pub(super) fn table() -> Attributes {
    in_table().number(2, 0)
}

/// The chains by name.
pub(super) fn chains() -> [(&'static str, Attributes); 2] {
    /// `NF_INET_LOCAL_IN`, and the policy `NF_ACCEPT`.
    const LOCAL_IN: u32 = 1;
    const ACCEPT: u32 = 1;
    let hook = Attributes::new().number(1, LOCAL_IN).number(2, PRIORITY);
    let input = in_table().text(3, INPUT).nest(4, &hook).number(5, ACCEPT).text(7, "filter");
    [(INPUT, input), (JUDGE, in_table().text(3, JUDGE))]
}

/// The attributes of each set that the kernel returns.
pub(super) fn set_specs() -> impl Iterator<Item = (&'static str, Attributes)> {
    SETS.iter().map(|set| {
        // Each type of a concatenation takes six bits.
        let key = set.types.iter().fold(0, |key, kind| key << 6 | kind);
        let spec = in_table().text(2, set.name).number(4, key).number(5, set.length);
        (set.name, if set.types == [INTERFACE] { spec.bytes(13, &HOST_ORDER) } else { spec })
    })
}

/// Tells `nft`, which prints the set, that its keys are in host byte order: type, length and value of
/// `NFTNL_UDATA_SET_KEYBYTEORDER`. The kernel only stores it.
const HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// The rules of a chain, each a list of expressions.
pub(super) fn rules(chain: &str) -> Vec<Vec<Attributes>> {
    match chain {
        INPUT => input_rules(),
        _ => judge_rules(),
    }
}

fn input_rules() -> Vec<Vec<Attributes>> {
    let judge = || nft::verdict(NftVerdict::Goto(JUDGE));
    vec![
        vec![nft::load(Load::InputInterface, 0), nft::lookup("interfaces"), judge()],
        [source(4, "pods4"), vec![judge()]].concat(),
        [source(6, "pods6"), vec![judge()]].concat(),
        vec![nft::load(Load::InputInterface, 0), nft::lookup("own"), nft::verdict(NftVerdict::Accept)],
    ]
    .into_iter()
    .chain(closed_tunnels())
    .collect()
}

/// Packets to tunnel devices are dropped.
fn closed_tunnels() -> Vec<Vec<Attributes>> {
    let drop = || nft::verdict(NftVerdict::Drop);
    let mut rules: Vec<_> =
        TUNNEL_PROTOCOLS.map(|number| [protocol(number), vec![nft::count("tunnel"), drop()]].concat()).into();
    let tunnel = vec![nft::load(Load::Transport(2, 2), 0), nft::lookup("tunnels"), nft::count("tunnel"), drop()];
    rules.push([protocol(UDP), tunnel].concat());
    rules
}

fn judge_rules() -> Vec<Vec<Attributes>> {
    let (accept, drop) = (|| nft::verdict(NftVerdict::Accept), || nft::verdict(NftVerdict::Drop));
    let mut rules = vec![[neighbor_discovery(), vec![accept()]].concat()];
    rules.extend(closed_tunnels());
    rules.push([answer(), vec![accept()]].concat());
    rules.push([source(4, "open4"), vec![accept()]].concat());
    rules.push([source(6, "open6"), vec![accept()]].concat());
    for (version, set) in [(4, "exact4"), (6, "exact6")] {
        rules.extend([TCP, UDP].map(|number| [exact(version, number, set), vec![accept()]].concat()));
    }
    rules.push(vec![nft::count("node"), drop()]);
    rules
}

/// Matches one version of IP.
fn family(version: u8) -> Vec<Attributes> {
    let number = if version == 4 { 2 } else { 10 };
    vec![nft::load(Load::Family, 0), nft::compare(Compare::Equal, &[number])]
}

fn protocol(number: u8) -> Vec<Attributes> {
    vec![nft::load(Load::Protocol, 0), nft::compare(Compare::Equal, &[number])]
}

/// Matches packets whose source is in a set.
fn source(version: u8, set: &str) -> Vec<Attributes> {
    let from = if version == 4 { Load::Network(12, 4) } else { Load::Network(8, 16) };
    [family(version), vec![nft::load(from, 0), nft::lookup(set)]].concat()
}

/// Matches solicitations and neighbours' advertisements (ICMPv6 133, 135, 136) that no router has forwarded (RFC 4861,
/// section 7.1). A pod announces no routes to the node.
fn neighbor_discovery() -> Vec<Attributes> {
    let kind = vec![
        nft::load(Load::Transport(0, 1), 0),
        nft::compare(Compare::AtLeast, &[133]),
        nft::compare(Compare::AtMost, &[136]),
        nft::compare(Compare::NotEqual, &[134]),
    ];
    let limit = vec![nft::load(Load::Network(7, 1), 0), nft::compare(Compare::Equal, &[255])];
    [family(6), protocol(ICMPV6), kind, limit].concat()
}

/// Matches answers to connections that the node opened, and errors about them.
fn answer() -> Vec<Attributes> {
    /// `IP_CT_DIR_REPLY`; bits of the states established and related.
    const REPLY: u8 = 1;
    const STATES: u32 = 1 << 1 | 1 << 2;
    vec![
        nft::load(Load::ConnDirection, 0),
        nft::compare(Compare::Equal, &[REPLY]),
        nft::load(Load::ConnState, 0),
        nft::mask(STATES),
        nft::compare(Compare::NotEqual, &[0; 4]),
    ]
}

/// Matches packets of one transport protocol by source, destination, protocol and port.
fn exact(version: u8, number: u8, set: &str) -> Vec<Attributes> {
    let (source, destination, words) = match version {
        4 => (Load::Network(12, 4), Load::Network(16, 4), 1),
        _ => (Load::Network(8, 16), Load::Network(24, 16), 4),
    };
    let key = vec![
        nft::load(source, 0),
        nft::load(destination, words),
        nft::load(Load::Protocol, 2 * words),
        nft::load(Load::Transport(2, 2), 2 * words + 1),
        nft::lookup(set),
    ];
    [protocol(number), family(version), key].concat()
}

fn add() -> Message {
    Message { operation: format!("add table {TABLE}"), kind: MessageKind::NewTable, flags: CREATE, body: table() }
}

/// The message that deletes the table with all that is in it.
pub(super) fn delete() -> Message {
    Message { operation: format!("delete table {TABLE}"), kind: MessageKind::DelTable, flags: 0, body: in_table() }
}

/// The batch that replaces the table, whatever is there.
pub(super) fn replace(contents: &Contents) -> Vec<Message> {
    // The first one makes the deletion succeed if there is no table.
    let mut batch = vec![add(), delete(), add()];
    batch.extend(COUNTERS.map(|name| {
        let body = in_table().text(2, name).number(3, nft::COUNTER).nest(4, &Attributes::new());
        request(MessageKind::NewObj, CREATE, &format!("add counter {name}"), body)
    }));
    batch.extend((1..).zip(set_specs()).map(|(id, (name, spec))| {
        request(MessageKind::NewSet, CREATE, &format!("add set {name}"), spec.number(10, id))
    }));
    let chains = chains();
    batch.extend(
        chains
            .iter()
            .map(|(name, chain)| request(MessageKind::NewChain, CREATE, &format!("add chain {name}"), chain.clone())),
    );
    batch.extend(chains.iter().flat_map(|(name, _)| new_rules(name)));
    batch.extend(elements(MessageKind::NewSetElem, contents));
    batch
}

fn new_rules(chain: &str) -> impl Iterator<Item = Message> {
    (1..).zip(rules(chain)).map(move |(number, rule)| {
        let body = in_table().text(2, chain).list(4, &rule);
        let flags = CREATE | nft::APPEND;
        request(MessageKind::NewRule, flags, &format!("add rule {number} of chain {chain}"), body)
    })
}

/// The batch that changes the elements of `old` to those of `new`.
pub(super) fn change(old: &Contents, new: &Contents) -> Vec<Message> {
    let (gone, added) = (difference(old, new), difference(new, old));
    elements(MessageKind::DelSetElem, &gone).chain(elements(MessageKind::NewSetElem, &added)).collect()
}

fn difference(these: &Contents, those: &Contents) -> Contents {
    let without = |name, keys: &BTreeSet<_>| those.get(name).map_or_else(|| keys.clone(), |other| keys - other);
    these.iter().map(|(name, keys)| (*name, without(name, keys))).collect()
}

fn elements(kind: MessageKind, contents: &Contents) -> impl Iterator<Item = Message> {
    let (flags, verb) = if kind == MessageKind::NewSetElem { (CREATE, "add") } else { (0, "delete") };
    contents.iter().flat_map(move |(name, keys)| {
        let keys: Vec<Attributes> =
            keys.iter().map(|key| Attributes::new().nest(1, &Attributes::new().bytes(1, key))).collect();
        let messages = keys.chunks(CHUNK).map(|keys| {
            request(kind, flags, &format!("{verb} elements of set {name}"), in_table().text(2, name).list(3, keys))
        });
        messages.collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests;
