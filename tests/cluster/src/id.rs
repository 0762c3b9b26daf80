//! A cluster's id, and every name on the machine that follows from it.
//!
//! Namespaces, cgroups and directories contain the id. Clusters therefore never collide, and what a crashed run left is
//! found by name. This module does not touch the machine.

use std::{fmt, path::Path};

use anyhow::{Result, ensure};

/// The prefix of every name that a cluster has on the machine.
pub(crate) const PREFIX: &str = "bulkhead-";

/// A cluster's name. It is short, lower case, and safe in a path and in a namespace's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// Accepts 1 to 16 lower-case letters and digits.
    ///
    /// A hyphen is not allowed, because it ends the id in every name. So no cluster has a name of another one.
    pub fn new(name: &str) -> Result<Self> {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(
            plain && (1..=16).contains(&name.len()),
            "cluster name {name:?} is invalid: use 1 to 16 of a-z and 0-9"
        );
        Ok(Self(name.into()))
    }

    /// The id for a purpose and a checkout, so that two checkouts on one machine do not share a cluster by accident.
    ///
    /// It is the same in each run, so that the next run finds what a crashed one left.
    pub fn of_checkout(purpose: &str, checkout: &Path) -> Result<Self> {
        let mark = fnv(checkout.as_os_str().as_encoded_bytes());
        Self::new(&format!("{purpose}{:06x}", mark & 0xff_ffff))
    }

    /// The network namespace of one of the cluster's hosts.
    pub fn netns(&self, host: &str) -> String {
        format!("{PREFIX}{self}-{host}")
    }

    /// The cgroup, in every hierarchy, that holds all the cluster's processes.
    pub fn cgroup(&self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The id in the name of a cluster's network namespace.
    pub fn from_netns(netns: &str) -> Option<Self> {
        let (id, _host) = netns.strip_prefix(PREFIX)?.split_once('-')?;
        Self::new(id).ok()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a. The standard library guarantees no hash that is equal in all releases.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "a-b", "seventeen00000000", "ä"] {
            assert!(Id::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_name_contains_the_id_of_its_cluster() {
        let id = Id::new("dev").unwrap();
        assert_eq!(Id::from_netns(&id.netns("a")), Some(id));
        assert_eq!(Id::from_netns("somebody-elses"), None);
        assert_eq!(Id::from_netns("bulkhead-"), None);
    }

    #[test]
    fn no_cluster_owns_names_of_another() {
        let (short, long) = (Id::new("dev").unwrap(), Id::new("dev1").unwrap());
        assert_eq!(Id::from_netns(&long.netns("a")), Some(long.clone()));
        assert_ne!(short.cgroup(), long.cgroup());
    }

    #[test]
    fn each_checkout_has_its_own_cluster_and_keeps_it() {
        let of = |path: &str| Id::of_checkout("dev", Path::new(path)).unwrap();
        assert_eq!(of("/src/one"), of("/src/one"));
        assert_ne!(of("/src/one"), of("/src/two"));
    }
}
