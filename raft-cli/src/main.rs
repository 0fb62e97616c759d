//! The binary `raft`: reads arguments and configuration, wires the crates together, prints. No decision of the protocol is taken here.

mod bench;
mod certs;
mod cli;
mod commands;
mod config;
mod connect;
mod data_folder;
mod demo;
mod dump_file;
mod exit;
mod init;
mod lines;
mod load;
mod outage;
mod output;
mod processes;
mod progress;
mod serve;
mod sidecar;
mod status;
mod text;
mod verdict;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use cli::{CertsCommand, Cli, Command};
use exit::{Code, OrFail as _, Outcome};

fn main() -> ExitCode {
    let cli = Cli::parse();
    quiet_guarded_panics();
    exit::report(run(cli.command))
}

fn run(command: Command) -> Outcome {
    start_logging(&command)?;
    match command {
        Command::Init(args) => init::run(&args),
        Command::Certs(CertsCommand::Issue(args)) => certs::issue(&args),
        Command::Serve(args) => {
            keep_private();
            let config = serve::configure(&args)?;
            block_on(config.process.workers, serve::run(config, &args))
        }
        Command::Found(args) => serve::found(&args),
        Command::Demo(args) => {
            keep_private();
            block_on(1, demo::run(args))
        }
        Command::Put(args) => block_on(1, commands::put(args)),
        Command::Get(args) => block_on(1, commands::get(args)),
        Command::Delete(args) => block_on(1, commands::delete(args)),
        Command::Cas(args) => block_on(1, commands::cas(args)),
        Command::Range(args) => block_on(1, commands::range(args)),
        Command::Dump(args) => block_on(1, commands::dump(args)),
        Command::Load(args) => block_on(1, load::run(args)),
        Command::Status(args) => block_on(1, status::run(args)),
        Command::Bench(args) => block_on(usize::from(args.workers), bench::run(args)),
    }
}

/// What a node writes is for its owner alone, whatever the umask was: its data, recordings, a demo's keys.
fn keep_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Runs a command on a runtime of its own, with this many threads.
fn block_on(workers: usize, command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .or_fail(Code::Failed, || "can not start the threads".to_owned())?;
    let outcome = runtime.block_on(command);
    // A read of stdin may never end; nothing else is left by now.
    runtime.shutdown_background();
    outcome
}

/// redb panics on some damaged pages. The crates that own its files catch that and say what is wrong in their own words; the panic's
/// would only stand in front of them. Every other panic is shown as usual.
fn quiet_guarded_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_redb = panic.location().is_some_and(|at| at.file().contains("/redb-"));
        if is_redb {
            tracing::debug!("{panic}");
        } else {
            usual(panic);
        }
    }));
}

/// Logs to stderr what `RAFT_LOG` asks for. A node tells of elections and of peers that come and go unless it is asked not to.
fn start_logging(command: &Command) -> Outcome {
    let usual = if matches!(command, Command::Serve(_)) { "info" } else { "warn" };
    let wanted = std::env::var("RAFT_LOG").unwrap_or_else(|_| usual.to_owned());
    let filter = EnvFilter::try_new(&wanted).or_fail(Code::Config, || {
        format!("RAFT_LOG is {wanted:?}; try `info`, or `raft_node=debug,warn`")
    })?;
    // Colours are for people: a log file holds plain text.
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
