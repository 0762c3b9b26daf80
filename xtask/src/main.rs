//! The commands of this repository: `cargo xtask <verb>`.
//!
//! Lists the verbs and nothing else; each has a module. Progress goes to standard error and results to standard output.
//! The exit code is that of the work.

#![forbid(unsafe_code)]

mod cluster;
mod crds;
mod delegate;
mod docs;
mod ebpf;
mod fuzz;
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

/// Build, show, test and measure Bulkhead.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the build and the tests of the kernel side need. Quick when nothing is missing.
    Setup,
    /// Build the kernel side into target/ebpf/bulkhead.o.
    Ebpf {
        /// Build a copy of the tree in another directory as well, and compare the bytes.
        #[arg(long)]
        check_reproducible: bool,
        /// Build the variant with development log lines, target/ebpf/bulkhead-log.o.
        #[arg(long)]
        log: bool,
    },
    /// Show two tenants on this machine: who reaches whom without the agent, with it, and after its death.
    Demo {
        /// Leave everything running afterwards.
        #[arg(long)]
        keep: bool,
        /// `down` ends a demo that was started with --keep.
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
    /// Replay frames into the loaded programs. Prints one JSON line for each, then a summary.
    Frames {
        /// A file with one JSON object a line: a frame and its expected verdict.
        file: PathBuf,
    },
    /// Measure the loaded programs against an empty program, or the load of a start on the API server.
    Bench {
        /// Write the figures to this file as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Measure with fewer repetitions or fewer pods, for a first impression.
        #[arg(long)]
        quick: bool,
        /// Measure requests, watches, bytes and memory of the agent's start on a real API server instead.
        #[arg(long)]
        api: bool,
    },
    /// Write the pages of docs/reference from the code.
    Docs {
        /// Compare only, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Write deploy/crd.yaml from the types of the agent.
    Crds {
        /// Compare only, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Write deploy/bulkhead.yaml from the other files of its directory.
    Manifests {
        /// Compare only, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Build the agent's image, target/image/bulkhead.tar, with one static binary.
    Image {
        /// Build the debug image of the tier cluster instead, target/image-quick/bulkhead.tar.
        #[arg(long)]
        quick: bool,
    },
    /// Run a real Kubernetes on this machine.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Check format, clippy, documentation and the licences and sources of dependencies.
    Lint,
    /// Check the rules on the tree: imports, circles, words, unsafe code, how files open.
    Tidy,
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
            ebpf::run(if log { Variant::Log } else { Variant::Shipped }, check_reproducible).map(done)
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
        Verb::Tidy => tidy::run(),
    }
}
