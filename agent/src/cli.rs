//! The commands of `bulkhead`.
//!
//! Parses arguments, starts what a command needs, and returns an exit code. stdout carries results only; everything
//! else goes to stderr.

use std::error::Error;
use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::RunArgs;
use crate::config::cluster::LogFormat;
use crate::config::controller::ControllerArgs;
use crate::dataplane::object;
use crate::{api, controller, events, lint, run};

pub(crate) mod cleanup;
pub(crate) mod explain;
pub(crate) mod observe;
pub(crate) mod output;
mod reference;
pub(crate) mod status;

/// Keeps the tenants of a shared cluster apart, in the kernel of each node.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, max_term_width = 100)]
pub struct Cli {
    /// Command to run
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    Run(Box<RunArgs>),
    /// Run the controller, which writes statuses and Events and removes start-up taints; only the leading replica acts
    Controller(Box<ControllerArgs>),
    /// Show the state of this node
    Status(status::StatusArgs),
    /// Show violations and other events
    Observe(observe::ObserveArgs),
    /// Show whether a connection would be allowed, and which rule decides
    Explain(explain::ExplainArgs),
    /// Check objects before they are applied
    Lint(lint::Args),
    /// Remove all programs, maps and pins of Bulkhead from this node
    Cleanup(cleanup::CleanupArgs),
    /// Print the JSON Schema of events
    Schema,
    /// Print the CustomResourceDefinition of NetworkTenant
    Crd,
    /// Print the facts from which `cargo xtask docs` generates pages
    #[command(hide = true)]
    Reference,
    /// Print the versions of the agent, of its eBPF object and of the map layouts
    Version,
    /// Print a shell completion script
    Completion {
        /// Name of the shell
        shell: Shell,
    },
}

impl Command {
    /// Runs the command. The exit codes are those of [`output::Exit`]; an error is 1, and wrong usage is 2.
    ///
    /// # Errors
    /// The command failed. The error is to be shown with its causes.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Self::Run(args) => return agent(*args),
            Self::Controller(args) => return control(*args),
            Self::Status(args) => return Ok(block_on(status::run(&args))??.into()),
            Self::Observe(args) => return Ok(block_on(observe::run(&args))??.into()),
            Self::Explain(args) => return Ok(explain::run(&args)?.into()),
            Self::Lint(args) => return Ok(lint::run(&args)),
            Self::Cleanup(args) => return clean_up(&args),
            Self::Schema => println!("{}", serde_json::to_string_pretty(&events::schema::json_schema())?),
            Self::Reference => println!("{:#}", reference::facts()),
            Self::Crd => print!("{}", api::crd_yaml()),
            Self::Version => version(),
            Self::Completion { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "bulkhead", &mut std::io::stdout());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn version() {
    println!("bulkhead {} ({})", env!("CARGO_PKG_VERSION"), env!("BULKHEAD_REVISION"));
    match object::OBJECT {
        [] => println!("eBPF object: none in this build"),
        bytes => println!("eBPF object: sha256 {}, {} bytes", env!("BULKHEAD_BPF_SHA256"), bytes.len()),
    }
    println!("map layouts: {}", agent_common::ABI_VERSION);
}

fn clean_up(args: &cleanup::CleanupArgs) -> Result<ExitCode, Box<dyn Error>> {
    let exit = cleanup::run(args)?;
    if args.stay && exit == output::Exit::Fine {
        block_on(async {
            ended()?.await;
            Ok::<_, std::io::Error>(())
        })??;
    }
    Ok(exit.into())
}

fn agent(args: RunArgs) -> Result<ExitCode, Box<dyn Error>> {
    start_log(&args.log.filter, args.log.format)?;
    // Two threads suffice for the reconcile loop and the event path. More would take CPU time from pods.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = ended()?;
        run::run(args.config()?, shutdown).await?;
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn control(args: ControllerArgs) -> Result<ExitCode, Box<dyn Error>> {
    start_log(&args.log.filter, args.log.format)?;
    block_on(async {
        let shutdown = ended()?;
        controller::run(args.config()?, shutdown).await?;
        Ok::<_, Box<dyn Error>>(())
    })??;
    Ok(ExitCode::SUCCESS)
}

fn start_log(filter: &str, format: LogFormat) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter:?}: {error}"))?;
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Completes when the process receives SIGTERM or SIGINT.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
