//! Decides which cluster the tests can use, and why there may be none.

use std::{env, path::PathBuf};

use crate::{cache, parts::Parts};

/// The cluster that this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A test cluster can be made: call [`Parts::ready`], then [`crate::Cluster::up`].
    Parts,
    /// An existing cluster that `KUBECONFIG` names, for [`crate::Kubectl::existing`]. Its nodes cannot be entered.
    Kubeconfig(PathBuf),
    /// None, with the reason as text that a skipped tier prints.
    Missing(String),
}

impl Source {
    /// Finds a cluster without building anything.
    pub fn find() -> Self {
        let root = rustix::process::geteuid().is_root();
        let obstacle = if root { Parts::missing(&cache()) } else { Some("a test cluster needs root".into()) };
        choose(obstacle, env::var_os("KUBECONFIG").map(PathBuf::from))
    }
}

/// Prefers a test cluster, which a test may break on purpose.
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
    fn a_test_cluster_is_preferred() {
        assert_eq!(choose(None, Some("theirs".into())), Source::Parts);
    }

    #[test]
    fn an_existing_cluster_is_the_second_choice() {
        assert_eq!(choose(Some("no Go".into()), Some("theirs".into())), Source::Kubeconfig("theirs".into()));
    }

    #[test]
    fn a_missing_cluster_has_a_reason() {
        let Source::Missing(reason) = choose(Some("no Go".into()), None) else { panic!("there is a source") };
        assert!(reason.contains("no Go") && reason.contains("KUBECONFIG"));
    }
}
