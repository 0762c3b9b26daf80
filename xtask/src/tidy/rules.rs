//! Restrictions on some modules and crates: what they must not name, where `unsafe` may live, who reads the environment.
//!
//! The table of `modules` says what each module of the agent may import; this one adds finer limits, such as clocks.

use super::{
    Finding, Rule,
    source::{Named, Source},
};

/// Some files and what they may name.
struct ModuleRule {
    /// The subject of a finding's message.
    name: &'static str,
    /// `agent/src/model` means that file and everything below.
    files: &'static [&'static str],
    /// Files below them that the rule leaves out.
    except: &'static [&'static str],
    /// The other crates it may name.
    crates: Crates,
    /// Paths it must not name: other modules, clocks, sockets.
    never: &'static [&'static str],
    /// Paths below those that it may name.
    but: &'static [&'static str],
}

/// The other crates that a module may name.
enum Crates {
    /// These and no more.
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

const KUBERNETES: [&str; 2] = ["kube", "k8s_openapi"];

const RULES: [ModuleRule; 10] = [
    ModuleRule {
        name: "agent-common",
        files: &["agent-common/src"],
        except: &["agent-common/src/mem_tables.rs", "agent-common/src/pod.rs"],
        crates: Crates::Only(&["core", "zerocopy"]),
        never: &[],
        but: &[],
    },
    ModuleRule {
        name: "the tables in memory",
        files: &["agent-common/src/mem_tables.rs"],
        except: &[],
        crates: Crates::Only(&["core", "std"]),
        never: &[],
        but: &[],
    },
    ModuleRule {
        name: "the Pod promises",
        files: &["agent-common/src/pod.rs"],
        except: &[],
        crates: Crates::Only(&["core", "zerocopy", "aya"]),
        never: &[],
        but: &[],
    },
    ModuleRule {
        name: "agent-ebpf",
        files: &["agent-ebpf/src"],
        except: &[],
        crates: Crates::Only(&["core", "agent_common", "aya_ebpf", "aya_log_ebpf"]),
        never: &[],
        but: &[],
    },
    ModuleRule {
        name: "the pure core",
        files: &["agent/policy/src"],
        except: &[],
        // uuid parses and keeps a pod's UID in sixteen bytes; it is never asked for a new one.
        crates: Crates::Only(&["std", "core", "ipnet", "uuid", "agent_common"]),
        never: &[
            "std::env",
            "std::fs",
            "std::io",
            "std::net",
            "std::os",
            "std::process",
            "std::thread",
            "std::time",
            "crate::config",
            "crate::dataplane",
            "crate::events",
            "crate::metrics",
            "crate::reconcile",
            "crate::run",
            "crate::watch",
        ],
        but: &[
            "std::net::AddrParseError",
            "std::net::IpAddr",
            "std::net::Ipv4Addr",
            "std::net::Ipv6Addr",
            "std::time::Duration",
        ],
    },
    ModuleRule {
        name: "the watch",
        files: &["agent/src/kube_watch", "agent/src/watch"],
        except: &[],
        crates: Crates::AllBut(&["aya", "libc", "rtnetlink"]),
        never: &["crate::dataplane", "policy::plan", "crate::reconcile"],
        but: &[],
    },
    ModuleRule {
        name: "the controller",
        files: &["agent/src/controller"],
        except: &[],
        crates: Crates::AllBut(&["aya", "libc", "rtnetlink"]),
        never: &["crate::dataplane", "crate::events", "policy::plan", "crate::reconcile", "crate::run"],
        but: &[],
    },
    ModuleRule {
        name: "the data plane",
        files: &["agent/src/dataplane"],
        except: &[],
        crates: Crates::AllBut(&KUBERNETES),
        never: &["crate::config", "crate::reconcile", "crate::run", "crate::watch"],
        but: &[],
    },
    ModuleRule {
        name: "the hold of new sandboxes",
        files: &["agent/src/nri"],
        except: &[],
        crates: Crates::AllBut(&["aya", "kube", "k8s_openapi", "libc", "rtnetlink"]),
        never: &[
            "crate::config",
            "crate::dataplane",
            "crate::events",
            "policy::plan",
            "crate::run",
            "crate::sandboxes",
            "crate::watch",
        ],
        but: &[],
    },
    ModuleRule {
        name: "the reconcile loop",
        files: &["agent/src/reconcile"],
        except: &[],
        crates: Crates::AllBut(&["aya", "kube", "k8s_openapi", "libc", "rtnetlink"]),
        never: &["crate::config", "crate::run", "crate::watch"],
        but: &[],
    },
];

/// The only files with `unsafe` code. A comment at each block says why it is sound.
const UNSAFE: [&str; 12] = [
    "agent-common/src/pod.rs",
    "agent-ebpf/src/guard.rs",
    "agent-ebpf/src/kernel_fields.rs",
    "agent-ebpf/src/loss.rs",
    "agent-ebpf/src/main.rs",
    "agent-ebpf/src/packet.rs",
    "agent-ebpf/src/report.rs",
    "agent-ebpf/src/tables.rs",
    "agent-ebpf/src/global_fns.rs",
    "agent/src/dataplane/sys.rs",
    "tests/src/measure/sys.rs",
    "tests/src/raw.rs",
];

/// The only files of the agent that read the environment; the output reads `NO_COLOR`.
const READS_ENVIRONMENT: [&str; 3] = ["agent/src/config", "agent/src/main.rs", "agent/src/cli/output.rs"];

/// Everything in this file that a rule forbids; `crates` are the names that mean another crate.
pub(super) fn check(source: &Source, crates: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for named in &source.paths {
        let broken = RULES.iter().filter(|rule| rule.holds(&source.file)).find_map(|rule| rule.refuses(named, crates));
        let message = broken.or_else(|| reads_environment(&source.file, named));
        findings.extend(message.map(|message| finding(source, named.line, message)));
    }
    if !UNSAFE.contains(&source.file.as_str()) {
        let refused = || "unsafe code is not allowed in this file; see UNSAFE in xtask/src/tidy/rules.rs".to_owned();
        findings.extend(source.unsafe_lines.iter().map(|line| finding(source, *line, refused())));
    }
    findings
}

fn finding(source: &Source, line: usize, message: String) -> Finding {
    Finding { file: source.file.clone(), line, message, rule: Rule::Imports }
}

fn reads_environment(file: &str, named: &Named) -> Option<String> {
    let forbidden = file.starts_with("agent/src/")
        && !READS_ENVIRONMENT.iter().any(|reader| is_in(file, reader))
        && (is_under(&named.path, "std::env::var") || is_under(&named.path, "std::env::var_os"));
    forbidden.then(|| format!("only the module config reads the environment; {} does here", named.path))
}

impl ModuleRule {
    fn holds(&self, file: &str) -> bool {
        self.files.iter().any(|prefix| is_in(file, prefix)) && !self.except.contains(&file)
    }

    /// Why these files must not name this path.
    fn refuses(&self, named: &Named, crates: &[String]) -> Option<String> {
        let path = named.path.as_str();
        let first = path.split("::").next().unwrap_or(path);
        if crates.iter().any(|known| known == first) && !self.may_name(first) {
            return Some(format!("{} must not name the crate {first} ({path})", self.name));
        }
        let forbidden = self.never.iter().any(|never| is_under(path, never));
        let allowed = self.but.iter().any(|but| is_under(path, but));
        (forbidden && !allowed).then(|| format!("{} must not name {path}", self.name))
    }

    fn may_name(&self, other: &str) -> bool {
        match self.crates {
            Crates::Only(allowed) => allowed.contains(&other),
            Crates::AllBut(refused) => !refused.contains(&other),
        }
    }
}

/// True for `agent/src/model.rs` and `agent/src/model/cluster.rs` in `agent/src/model`.
pub(super) fn is_in(file: &str, prefix: &str) -> bool {
    file.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
}

/// True for `std::time` and `std::time::Instant` under `std::time`.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages for a file with this content, in a crate with these dependencies.
    fn messages(file: &str, text: &str) -> Vec<String> {
        let crates = ["std", "core", "alloc", "kube", "aya", "tokio", "ipnet", "agent_common", "aya_ebpf"];
        let source = Source::parse(file, text).expect("valid tokens");
        check(&source, &crates.map(str::to_owned)).into_iter().map(|finding| finding.message).collect()
    }

    fn is_clean(file: &str, text: &str) -> bool {
        messages(file, text).is_empty()
    }

    #[test]
    fn the_pure_core_takes_values_only() {
        let model = "agent/policy/src/model/cluster.rs";
        assert!(is_clean(model, "use std::{collections::BTreeMap, net::IpAddr, time::Duration}; use ipnet::IpNet;"));
        assert!(is_clean(model, "use crate::plan::Op; use super::grants::Grant; use agent_common::TenantId;"));
        for stranger in [
            "use kube::Client;",
            "use aya::maps::HashMap;",
            "use tokio::sync::mpsc;",
            "use std::time::Instant;",
            "use std::{collections::BTreeMap, env};",
            "use std::net::{IpAddr, TcpStream};",
            "use std::time::*;",
            "fn f() { std::fs::read(x); }",
            "fn f() -> kube::Result<()> {}",
        ] {
            assert_eq!(messages(model, stranger).len(), 1, "{stranger}");
            assert_eq!(messages("agent/policy/src/plan.rs", stranger).len(), 1, "{stranger}");
        }
    }

    #[test]
    fn climbing_out_of_the_module_is_found() {
        assert!(!is_clean("agent/src/watch/convert.rs", "use super::super::dataplane::Op;"));
        assert!(!is_clean("agent/src/dataplane/maps.rs", "use super::super::watch::View;"));
        assert!(is_clean("agent/policy/src/plan.rs", "use super::model::Desired;"));
    }

    #[test]
    fn the_shared_crate_has_no_std_outside_tests() {
        let file = "agent-common/src/verdict.rs";
        assert!(is_clean(file, "use core::fmt; #[cfg(test)] mod tests { use std::vec::Vec; extern crate alloc; }"));
        assert!(!is_clean(file, "use std::vec::Vec;"));
        assert!(!is_clean(file, "extern crate alloc;"));
        assert!(!is_clean(file, "use aya::Pod;"));
        assert!(is_clean("agent-common/src/pod.rs", "use aya::Pod;"));
    }

    #[test]
    fn each_outer_module_has_its_limits() {
        assert!(!is_clean("agent-ebpf/src/tables.rs", "use aya::Ebpf;"));
        assert!(is_clean("agent-ebpf/src/tables.rs", "use aya_ebpf::macros::map;"));
        assert!(!is_clean("agent/src/watch/convert.rs", "use policy::plan::Plan;"));
        assert!(!is_clean("agent/src/dataplane/maps.rs", "use kube::Client;"));
        assert!(is_clean("agent/src/dataplane/maps.rs", "use aya::Ebpf;"));
        assert!(!is_clean("agent/src/reconcile.rs", "use aya::Ebpf;"));
        assert!(is_clean("agent/src/reconcile.rs", "use tokio::sync::mpsc;"));
        assert!(!is_clean("agent/src/nri/hold.rs", "use crate::dataplane::Dataplane;"));
        assert!(is_clean("agent/src/nri/hold.rs", "use crate::reconcile::Snapshot;"));
    }

    #[test]
    fn only_config_reads_the_environment() {
        assert!(!is_clean("agent/src/events/sink.rs", "fn f() { std::env::var(NAME); }"));
        assert!(is_clean("agent/src/config.rs", "fn f() { std::env::var(NAME); }"));
    }

    #[test]
    fn unsafe_lives_in_the_listed_files_only() {
        assert!(is_clean("agent-ebpf/src/packet.rs", "fn f() { unsafe { g() } }"));
        assert_eq!(messages("agent/src/run.rs", "fn f() { unsafe { g() } }").len(), 1);
        assert_eq!(messages("xtask/src/main.rs", "#[cfg(test)] mod t { fn f() { unsafe { g() } } }").len(), 1);
    }
}
