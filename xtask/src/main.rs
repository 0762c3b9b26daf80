//! The front door: `cargo xtask <verb>`.
//!
//! A list of verbs and nothing else; each has its room. Progress goes to standard error, results to standard output, and
//! the exit code is that of the work that was done.

#![forbid(unsafe_code)]

mod cluster;
mod crds;
mod delegate;
mod docs;
mod ebpf;
mod host;
mod image;
mod kernels;
mod lint;
mod manifests;
mod setup;
mod step;
mod tally;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    ebpf::Variant,
    image::Profile,
    test::{Selection, long::Long},
};

/// Builds, shows, tests and measures Bulkhead.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build and load the kernel side; quick when nothing is.
    Setup,
    /// Build the kernel side into target/ebpf/bulkhead.o.
    Ebpf {
        /// Build a copy of the tree in another directory too, and compare.
        #[arg(long)]
        check_reproducible: bool,
        /// Build the variant with development log lines, target/ebpf/bulkhead-log.o.
        #[arg(long)]
        log: bool,
    },
    /// Two tenants on this machine: who reaches whom without the agent, with it, and after it was killed.
    Demo {
        /// Leave everything running to play with.
        #[arg(long)]
        keep: bool,
        /// End a demo that was kept.
        #[arg(value_parser = ["down"])]
        action: Option<String>,
    },
    /// Run the tiers of tests; all of them when none is named.
    #[command(args_conflicts_with_subcommands = true)]
    Test {
        /// The tiers to run; the cheapest runs first.
        tiers: Vec<Selection>,
        /// Print the tiers and what each needs, and run nothing.
        #[arg(long)]
        list: bool,
        #[command(subcommand)]
        long: Option<Long>,
    },
    /// Replay frames into the loaded programs: one JSON line each, then a summary.
    Frames {
        /// Lines of JSON, each with a frame and the verdict it should get.
        file: PathBuf,
    },
    /// Measure the loaded programs against an empty one, or what a start costs the API server.
    Bench {
        /// Write the figures to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Fewer repetitions or fewer pods, for a first look.
        #[arg(long)]
        quick: bool,
        /// Instead: requests, watches, bytes and memory of the agent's start on a real API server.
        #[arg(long)]
        api: bool,
    },
    /// Write the pages of docs/reference from the code.
    Docs {
        /// Compare only, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Write deploy/crd.yaml from the types.
    Crds {
        /// Only compare.
        #[arg(long)]
        check: bool,
    },
    /// Write deploy/bulkhead.yaml from the files beside it.
    Manifests {
        /// Only compare.
        #[arg(long)]
        check: bool,
    },
    /// Build the agent's image, target/image/bulkhead.tar: one static binary.
    Image {
        /// The debug build that the cluster tier uses, in seconds: target/image-quick/bulkhead.tar.
        #[arg(long)]
        quick: bool,
    },
    /// A real Kubernetes on this machine.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Check format, clippy, documentation and the licences and sources of dependencies.
    Lint,
    /// Check the rules on the tree: imports, circles, words, unsafe code, how files open.
    Tidy {
        /// Show the findings of rules that are not enforced yet, too.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    run(Arguments::parse().verb).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Setup => setup::run().map(done),
        Verb::Ebpf { check_reproducible, log } => {
            ebpf::run(if log { Variant::Log } else { Variant::Plain }, check_reproducible).map(done)
        }
        Verb::Demo { keep, action } => delegate::demo(keep, action.as_deref()),
        Verb::Test { list: true, .. } => Ok(test::list()),
        Verb::Test { long: Some(Long::Long(part)), .. } => test::long::run(&part),
        Verb::Test { tiers, .. } => test::run(&tiers),
        Verb::Frames { file } => delegate::frames(&file),
        Verb::Bench { json, quick, api } => delegate::bench(json.as_deref(), quick, api),
        Verb::Docs { check } => docs::run(check).map(done),
        Verb::Crds { check } => crds::run(check).map(done),
        Verb::Manifests { check } => manifests::run(check).map(done),
        Verb::Image { quick } => image::run(if quick { Profile::Quick } else { Profile::Release }).map(done),
        Verb::Cluster(command) => cluster::run(command).map(done),
        Verb::Lint => lint::run(),
        Verb::Tidy { all } => tidy::run(all),
    }
}
