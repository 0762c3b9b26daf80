//! What each module of the agent may import, as one table.
//!
//! A module without a row may import nothing: whoever adds one says here what it depends on. The crates of the standard
//! library are free to all; `rules` restricts some modules further.

use super::{Finding, Rule, source::Source};

/// One row.
struct Allowed {
    /// The name of the module: `model` means `agent/src/model.rs` and everything below `agent/src/model`.
    module: &'static str,
    /// The other modules of the agent that it may name.
    modules: &'static [&'static str],
    /// The other crates that it may name.
    crates: &'static [&'static str],
}

const AGENT: &str = "agent/src/";
const FREE: [&str; 3] = ["std", "core", "alloc"];

const TABLE: &[Allowed] = &[
    Allowed {
        module: "api",
        modules: &[],
        crates: &[
            "agent_common",
            "ipnet",
            "jiff",
            "k8s_openapi",
            "kube",
            "policy",
            "schemars",
            "serde",
            "serde_json",
            "serde_saphyr",
            "strsim",
            "thiserror",
        ],
    },
    Allowed {
        module: "cli",
        modules: &[
            "api",
            "clock",
            "config",
            "controller",
            "dataplane",
            "events",
            "health",
            "lint",
            "metrics",
            "run",
            "socket",
            "source",
        ],
        crates: &[
            "agent_common",
            "anstyle",
            "clap",
            "clap_complete",
            "jiff",
            "policy",
            "prometheus_client",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing_subscriber",
        ],
    },
    Allowed { module: "clock", modules: &[], crates: &["rustix"] },
    Allowed {
        module: "config",
        modules: &["dataplane", "http", "socket"],
        crates: &["agent_common", "clap", "ipnet", "policy", "rustix", "thiserror"],
    },
    Allowed {
        module: "controller",
        modules: &["api", "config", "http", "kube_watch"],
        crates: &[
            "futures_util",
            "ipnet",
            "jiff",
            "k8s_openapi",
            "kube",
            "policy",
            "prometheus_client",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
        ],
    },
    Allowed {
        module: "dataplane",
        modules: &[],
        crates: &[
            "agent_common",
            "aya",
            "aya_log",
            "ipnet",
            "libc",
            "policy",
            "rtnetlink",
            "rustix",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
        ],
    },
    Allowed { module: "dir_watcher", modules: &[], crates: &["notify", "tokio", "tracing"] },
    Allowed { module: "errors", modules: &[], crates: &[] },
    Allowed {
        module: "events",
        modules: &["clock"],
        crates: &[
            "agent_common",
            "aya",
            "bytes",
            "community_id",
            "jiff",
            "policy",
            "schemars",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
            "uuid",
        ],
    },
    Allowed {
        module: "fuzzing",
        modules: &["api", "clock", "events", "source"],
        crates: &["agent_common", "policy", "serde_json", "serde_saphyr"],
    },
    Allowed { module: "health", modules: &[], crates: &["arc_swap", "jiff", "serde"] },
    Allowed { module: "http", modules: &["health", "metrics"], crates: &["axum", "jiff", "thiserror", "tokio"] },
    Allowed {
        module: "kube_watch",
        modules: &["api", "errors", "metrics"],
        crates: &[
            "futures_util",
            "http",
            "http_body_util",
            "ipnet",
            "jiff",
            "k8s_openapi",
            "kube",
            "policy",
            "serde",
            "serde_json",
            "tokio",
            "tower",
            "tracing",
        ],
    },
    Allowed { module: "lib", modules: &[], crates: &[] },
    Allowed {
        module: "links",
        modules: &[],
        crates: &["agent_common", "futures_util", "policy", "rtnetlink", "thiserror", "tokio", "tracing"],
    },
    Allowed { module: "lint", modules: &["api", "source"], crates: &["clap", "ipnet", "jiff", "policy", "serde_json"] },
    Allowed { module: "main", modules: &[], crates: &["clap"] },
    Allowed {
        module: "metrics",
        modules: &["events", "health"],
        crates: &["agent_common", "policy", "prometheus_client", "rustix", "tracing"],
    },
    Allowed {
        module: "nri",
        modules: &["health", "metrics", "reconcile"],
        crates: &["bytes", "policy", "prost", "thiserror", "tokio", "tracing"],
    },
    Allowed {
        module: "reconcile",
        modules: &["dataplane", "errors"],
        crates: &["agent_common", "policy", "tokio", "tracing"],
    },
    Allowed {
        module: "run",
        modules: &[
            "clock",
            "config",
            "dataplane",
            "events",
            "health",
            "http",
            "links",
            "metrics",
            "nri",
            "reconcile",
            "runtime",
            "socket",
            "source",
            "watch",
        ],
        crates: &["agent_common", "arc_swap", "aya", "jiff", "kube", "policy", "thiserror", "tokio", "tracing"],
    },
    Allowed {
        module: "runtime",
        modules: &["dir_watcher"],
        crates: &["ipnet", "policy", "rustix", "serde", "serde_json", "tokio"],
    },
    Allowed {
        module: "socket",
        modules: &["events", "health"],
        crates: &["jiff", "rustix", "serde", "serde_json", "thiserror", "tokio", "tracing"],
    },
    Allowed { module: "source", modules: &["api", "dir_watcher"], crates: &["policy", "tokio", "tracing"] },
    Allowed { module: "testing", modules: &[], crates: &[] },
    Allowed {
        module: "watch",
        modules: &["api", "kube_watch", "metrics", "runtime"],
        crates: &["k8s_openapi", "kube", "policy", "serde", "tokio", "tracing"],
    },
];

/// Every import that this file's module has not been allowed; `crates` are the names that mean another crate.
pub(super) fn check(source: &Source, crates: &[String]) -> Vec<Finding> {
    let Some(module) = module_of(&source.file) else {
        return Vec::new();
    };
    let row = TABLE.iter().find(|row| row.module == module);
    // After `use crate::http`, `http` is the module and no longer the crate of this name.
    let shadowed = |path: &str| {
        let first = path.split("::").next().unwrap_or(path);
        source.paths.iter().any(|named| named.path.strip_prefix("crate::").is_some_and(|module| module == first))
    };
    let refused = source.paths.iter().filter(|named| !shadowed(&named.path)).filter_map(|named| {
        let message = refusal(module, row, &named.path, crates)?;
        Some(Finding { file: source.file.clone(), line: named.line, message, rule: Rule::Modules })
    });
    refused.collect()
}

/// What a row allows although no file of its module imports it.
pub(super) fn unused(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for row in TABLE {
        let files: Vec<&Source> = sources.iter().filter(|source| module_of(&source.file) == Some(row.module)).collect();
        let imports = |start: &str| {
            files.iter().flat_map(|source| &source.paths).any(|named| {
                named.path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
        };
        let modules = row.modules.iter().filter(|module| !imports(&format!("crate::{module}")));
        let crates = row.crates.iter().filter(|name| !imports(name));
        findings.extend(modules.chain(crates).filter(|_| !files.is_empty()).map(|name| Finding {
            file: "xtask/src/tidy/modules.rs".to_owned(),
            line: 1,
            message: format!("{} does not import {name}: remove it from the row", row.module),
            rule: Rule::Modules,
        }));
    }
    findings
}

fn refusal(module: &str, row: Option<&Allowed>, path: &str, crates: &[String]) -> Option<String> {
    let mut parts = path.split("::");
    let (first, second) = (parts.next()?, parts.next());
    let (what, name) = match (first, second) {
        // What begins with a capital letter is defined at the top of the crate.
        ("crate", Some(name)) if name != module && !name.starts_with(|c: char| c.is_uppercase()) => ("modules", name),
        (name, _) if crates.iter().any(|known| known == name) && !FREE.contains(&name) => ("crates", name),
        _ => return None,
    };
    let allowed = row.is_some_and(|row| if what == "crates" { row.crates } else { row.modules }.contains(&name));
    (!allowed).then(|| format!("{module} may not import {name}; see its {what} in xtask/src/tidy/modules.rs"))
}

/// `model` for `agent/src/model.rs` and `agent/src/model/cluster.rs`.
fn module_of(file: &str) -> Option<&str> {
    let inside = file.strip_prefix(AGENT)?;
    inside.split('/').next().map(|first| first.trim_end_matches(".rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(row: Option<&Allowed>, path: &str) -> bool {
        refusal("new", row, path, &["std", "kube", "aya"].map(str::to_owned)).is_some()
    }

    #[test]
    fn a_module_without_a_row_may_import_nothing() {
        assert!(refused(None, "crate::model::Cluster"));
        assert!(refused(None, "kube::Client"));
        assert!(!refused(None, "crate::new::Own"));
        assert!(!refused(None, "std::fs::read"));
        assert!(!refused(None, "local::path"));
    }

    #[test]
    fn a_row_allows_what_it_names() {
        let row = Allowed { module: "new", modules: &["model"], crates: &["kube"] };
        assert!(!refused(Some(&row), "crate::model::Cluster"));
        assert!(refused(Some(&row), "crate::run::run"));
        assert!(!refused(Some(&row), "kube::Client"));
        assert!(refused(Some(&row), "aya::Ebpf"));
    }
}
