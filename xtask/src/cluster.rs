//! `cargo xtask cluster`: a real Kubernetes on this machine, by hand. The work is in the crate `cluster`.

use std::{os::unix::process::CommandExt, process};

use ::cluster::{Cluster, Cni, Id, Options, Parts, Source, cache};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

/// What to do with a cluster.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds the Kubernetes parts from Go modules, once per version.
    Parts,
    /// Brings up two nodes, a control plane, DNS and a database host.
    Up {
        #[command(flatten)]
        which: Which,
        /// How pods are connected: ptp or bridge.
        #[arg(long, default_value_t = Cni::default())]
        cni: Cni,
        /// Only the control plane.
        #[arg(long)]
        no_nodes: bool,
    },
    /// Ends it and leaves nothing.
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Says what is there.
    Status,
    /// kubectl as the cluster's administrator.
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs a command on node a or b, or with the network of cp, db or lan.
    Exec {
        #[command(flatten)]
        which: Which,
        /// The host.
        host: String,
        /// The program.
        program: String,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Loads an OCI archive into both nodes' containerd.
    Import {
        #[command(flatten)]
        which: Which,
        /// The archive.
        archive: std::path::PathBuf,
    },
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub struct Which {
    /// Its name, 1 to 16 of a-z and 0-9; by default this checkout's own.
    #[arg(long, env = "BULKHEAD_CLUSTER")]
    id: Option<String>,
}

impl Which {
    fn cluster(&self) -> Result<Cluster> {
        self.id.as_deref().map_or_else(|| Cluster::of_checkout("dev"), |id| Ok(Cluster::named(Id::new(id)?)))
    }
}

/// Does it.
pub fn run(command: Command) -> Result<()> {
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
        Source::Kubeconfig(path) => bail!("no cluster of our own here; use the one of {}", path.display()),
        Source::Missing(reason) => bail!("no cluster: {reason}"),
    }
    let id = cluster.id();
    println!("cluster {id} ({}) is up: cargo xtask cluster kubectl --id {id} get pods -A", options.cni);
    Ok(())
}

fn down(cluster: &Cluster) -> Result<()> {
    let removed = cluster.down()?;
    let said = if removed.anything() { format!("removed {removed}") } else { "was not there".into() };
    println!("cluster {}: {said}", cluster.id());
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

/// In place of this process, so that signals, terminal and exit code are the program's own.
fn become_it(mut command: process::Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
}
