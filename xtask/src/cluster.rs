//! `cargo xtask cluster`: a real Kubernetes on this machine, by hand.
//!
//! Only reads the command line. The work is in the crate `cluster`.

use std::{os::unix::process::CommandExt, process};

use ::cluster::{Cluster, Cni, Id, Options, Parts, Source, cache};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

/// What to do with a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the Kubernetes parts from Go modules, once for each version.
    Parts,
    /// Start two nodes, a control plane, DNS and a database host.
    Up {
        #[command(flatten)]
        which: Which,
        /// How pods are connected to their node: ptp or bridge.
        #[arg(long, default_value_t = Cni::default())]
        cni: Cni,
        /// Start only the control plane.
        #[arg(long)]
        no_nodes: bool,
    },
    /// Stop a cluster and remove everything of it.
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Print the clusters of this machine and their daemons.
    Status,
    /// Run kubectl as the administrator of a cluster.
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// The arguments of the program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a program on node a or b, or in the network of cp, db or lan.
    Exec {
        #[command(flatten)]
        which: Which,
        /// Node a or b, or the host cp, db or lan.
        host: String,
        /// The program to run.
        program: String,
        /// The arguments of the program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Load an OCI archive into the containerd of both nodes.
    Import {
        #[command(flatten)]
        which: Which,
        /// The archive to load.
        archive: std::path::PathBuf,
    },
}

/// The cluster that a command is about.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Name of the cluster, 1 to 16 of a-z and 0-9; by default that of this checkout.
    #[arg(long, env = "BULKHEAD_CLUSTER")]
    id: Option<String>,
}

impl Which {
    fn cluster(&self) -> Result<Cluster> {
        self.id.as_deref().map_or_else(|| Cluster::of_checkout("dev"), |id| Ok(Cluster::named(Id::new(id)?)))
    }
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Parts => parts().map(drop),
        Command::Up { which, cni, no_nodes } => up(&which.cluster()?, Options { cni, nodes: !no_nodes }),
        Command::Down { which } => down(&which.cluster()?),
        Command::Status => status(),
        Command::Kubectl { which, args } => become_it(which.cluster()?.kubectl().command(args)),
        Command::Exec { which, host, program, args } => exec(&which.cluster()?, &host, &program, &args),
        Command::Import { which, archive } => which.cluster()?.import(&archive.canonicalize()?),
    }
}

fn parts() -> Result<Parts> {
    ::cluster::packages()?;
    Parts::ready(&cache())
}

fn up(cluster: &Cluster, options: Options) -> Result<()> {
    match Source::find() {
        Source::Parts => cluster.up(&parts()?, options)?,
        Source::Kubeconfig(path) => {
            bail!("KUBECONFIG names a cluster already: use that of {}, or unset KUBECONFIG", path.display())
        }
        Source::Missing(reason) => bail!("cannot start a cluster: {reason}"),
    }
    let id = cluster.id();
    println!("cluster {id} ({}) is up: cargo xtask cluster kubectl --id {id} get pods -A", options.cni);
    Ok(())
}

fn down(cluster: &Cluster) -> Result<()> {
    let removed = cluster.down()?;
    let result = if removed.anything() { format!("removed {removed}") } else { "did not exist".into() };
    println!("cluster {}: {result}", cluster.id());
    Ok(())
}

fn status() -> Result<()> {
    for id in Cluster::on_this_machine() {
        println!("cluster {id}");
        for (daemon, lives) in Cluster::named(id).status() {
            println!("  {daemon:<26}{}", if lives { "runs" } else { "does not run" });
        }
    }
    Ok(())
}

fn exec(cluster: &Cluster, host: &str, program: &str, args: &[String]) -> Result<()> {
    let mut command = match cluster.node(host) {
        Ok(node) => node.command(program)?,
        Err(_) => cluster.command(host, program),
    };
    command.args(args);
    become_it(command)
}

/// Replaces this process, so that signals, terminal and exit code are those of the program.
fn become_it(mut command: process::Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
