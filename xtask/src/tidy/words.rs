//! Words that are not used here, and what is said instead: the data of `identifiers` and `prose`.
//!
//! Each was a word of our own for a thing that has a name elsewhere, or one word for several things. Ordinary English
//! stays allowed where it means what it says.

/// A word that no identifier may have among its parts, be it of code, a map, a flag, a variable or a metric.
pub(super) struct Banned {
    /// The part, in lower case.
    pub part: &'static str,
    /// Which identifiers are meant.
    pub scope: Scope,
    /// What to write instead.
    pub instead: &'static str,
    /// Whole identifiers that have this part and another meaning.
    pub except: &'static [&'static str],
}

/// Which identifiers a word is banned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All.
    Everywhere,
    /// The names of types and of their variants.
    Types,
}

const fn everywhere(part: &'static str, instead: &'static str) -> Banned {
    Banned { part, scope: Scope::Everywhere, instead, except: &[] }
}

const fn in_types(part: &'static str, instead: &'static str) -> Banned {
    Banned { part, scope: Scope::Types, instead, except: &[] }
}

impl Banned {
    const fn except(self, except: &'static [&'static str]) -> Self {
        Self { except, ..self }
    }
}

/// Identifiers that are the standard library's or a crate's, and mean a mutex or a lock file.
const MUTEXES: &[&str] = &["lock", "try_lock", "LazyLock", "OnceLock", "RwLock", "flock"];

/// The list.
pub(super) const IDENTIFIERS: &[Banned] = &[
    everywhere("asker", "config"),
    everywhere("blame", "attribute"),
    everywhere("book", "index"),
    everywhere("doors", "interfaces"),
    everywhere("eyes", "watch"),
    everywhere("fold", "aggregate").except(&["fold", "try_fold"]),
    everywhere("folder", "directory, or aggregator"),
    everywhere("intake", "aggregate"),
    everywhere("lock", "guard").except(MUTEXES),
    everywhere("locks", "guards"),
    everywhere("odd", "slow path"),
    everywhere("passage", "mark kind"),
    everywhere("recall", "lookup of a reply"),
    everywhere("relay", "post nat"),
    everywhere("room", "module, namespace or capacity"),
    everywhere("rooms", "modules"),
    everywhere("seat", "interface"),
    everywhere("seats", "interfaces"),
    everywhere("sighting", "summary, or first seen"),
    everywhere("sightings", "summaries, or first seen"),
    everywhere("spaces", "namespaces"),
    everywhere("standing", "remote identity, status or active"),
    everywhere("territory", "ownership"),
    everywhere("told", "reported, received or update"),
    everywhere("untold", "unreported"),
    everywhere("waist", "global function"),
    in_types("ask", "query"),
    in_types("heard", "sync state"),
    in_types("memory", "the kind of table or state"),
    in_types("note", "mark, record or pin"),
    in_types("notes", "marks, records or pins"),
    in_types("party", "local tenant, or flow endpoint"),
    in_types("place", "host, bucket or location"),
    in_types("places", "paths"),
    in_types("plain", "fast path"),
    in_types("reach", "access"),
    in_types("word", "name, or label"),
    in_types("words", "names, or labels").except(&["Ipv4Words"]),
];

/// A coined sense that prose does not have: a phrase in lower case, matched at the limits of words.
pub(super) struct Coined {
    /// The phrase.
    pub phrase: &'static str,
    /// What to write instead.
    pub instead: &'static str,
    /// Longer phrases that are ordinary English.
    pub except: &'static [&'static str],
}

const fn coined(phrase: &'static str, instead: &'static str) -> Coined {
    Coined { phrase, instead, except: &[] }
}

/// The list.
pub(super) const PROSE: &[Coined] = &[
    coined("waist", "query boundary, or global functions"),
    Coined { phrase: "odd", instead: "slow path", except: &["odd number", "odd length", "odd byte"] },
    coined("plain packet", "packet on the fast path"),
    coined("plain packets", "packets on the fast path"),
    coined("told", "reported, received or given"),
    coined("tells of", "reports"),
    coined("tell of", "report"),
    Coined { phrase: "room", instead: "module, or capacity", except: &["make room", "makes room", "made room"] },
    coined("rooms", "modules"),
    Coined { phrase: "standing", instead: "remote identity, or status", except: &["long-standing"] },
    coined("the house", "the project"),
    coined("front door", "entry point"),
    coined("rise from", "leave"),
    coined("rises from", "leaves"),
    coined("territory", "ownership"),
    coined("blame", "attribution"),
    coined("seat", "interface"),
    coined("seats", "interfaces"),
    coined("sighting", "packet summary"),
    coined("intake", "aggregation"),
    coined("folded", "aggregated"),
    coined("fold table", "aggregation table"),
    coined("second lock", "second guard"),
    coined("the lock", "the guard"),
    coined("the locks", "the guards"),
    coined("no lock", "no guard"),
    coined("uplink lock", "uplink guard"),
    coined("cgroup lock", "cgroup guard"),
    coined("bridge lock", "bridge guard"),
    coined("locks on", "guards on"),
    coined("lock on", "guard on"),
    coined("locks", "guards"),
    coined("passage", "mark kind"),
    coined("one story", "one flow"),
    coined("whole story", "whole output"),
];

/// Files that have to name what is forbidden: the rules and their tests, and the list of renamed things.
pub(super) fn names_the_banned(file: &str) -> bool {
    file.starts_with("xtask/src/tidy") || file == "CHANGELOG.md"
}
