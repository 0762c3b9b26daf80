//! Where a cluster for the tests comes from, and why there may be none.

use std::{env, path::PathBuf};

use crate::{cache, parts::Parts};

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// We can make one: call [`Parts::ready`], then [`crate::Cluster::up`].
    Parts,
    /// Somebody else's, named by `KUBECONFIG`: good for [`crate::Kubectl::existing`], without nodes to enter.
    Kubeconfig(PathBuf),
    /// None; this says why, in words a skipped tier can print.
    Missing(String),
}

impl Source {
    /// Looks, and builds nothing.
    pub fn find() -> Self {
        let root = rustix::process::geteuid().is_root();
        let obstacle = if root { Parts::missing(&cache()) } else { Some("a cluster of our own needs root".into()) };
        choose(obstacle, env::var_os("KUBECONFIG").map(PathBuf::from))
    }
}

/// Our own is preferred: it may be broken on purpose.
fn choose(obstacle: Option<String>, kubeconfig: Option<PathBuf>) -> Source {
    match (obstacle, kubeconfig) {
        (None, _) => Source::Parts,
        (Some(_), Some(kubeconfig)) => Source::Kubeconfig(kubeconfig),
        (Some(reason), None) => Source::Missing(format!("{reason}; KUBECONFIG names no other cluster")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_our_own_comes_first() {
        assert_eq!(choose(None, Some("theirs".into())), Source::Parts);
    }

    #[test]
    fn somebody_elses_is_better_than_none() {
        assert_eq!(choose(Some("no Go".into()), Some("theirs".into())), Source::Kubeconfig("theirs".into()));
    }

    #[test]
    fn a_skipped_tier_can_say_why() {
        let Source::Missing(reason) = choose(Some("no Go".into()), None) else { panic!("there is a source") };
        assert!(reason.contains("no Go") && reason.contains("KUBECONFIG"));
    }
}
