//! The workspace's own automation: `cargo xtask ci`, `tidy`, `bless`, `sim`, `chaos`, `mutants`, `recall`, `coverage`,
//! `compare`, `trace`. It knows cargo, text and the simulator; it knows nothing of the service.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

mod bless;
mod chaos;
mod ci;
mod compare;
mod coverage;
mod mutants;
mod recall;
mod sim;
mod tidy;
mod trace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's own automation.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs everything that must pass before a merge.
    Ci,
    /// Checks the architecture's rules: layers, forbidden names, lengths, manifests, MSRV.
    Tidy,
    /// Writes what raft-core's golden scripts print now into them, and says which changed.
    Bless(bless::BlessArgs),
    /// Simulates whole clusters under faults; one seed is one run.
    Sim(sim::SimArgs),
    /// Runs real processes under kills, partitions and broken disks, and judges what clients saw.
    Chaos(chaos::ChaosArgs),
    /// Measures raft beside etcd, both durable, three nodes each on this machine.
    Compare(compare::CompareArgs),
    /// Measures which lines of raft-core its tests reach; needs cargo-tarpaulin.
    Coverage(coverage::CoverageArgs),
    /// Takes raft-core's guards out one at a time; its tests must notice each.
    Mutants(mutants::MutantsArgs),
    /// Looks for seeded bugs by simulation; it must find each, and says how soon.
    Recall(recall::RecallArgs),
    /// Writes a simulated run as a trace that etcd/raft's published TLA+ spec can read, or checks one.
    Trace(trace::TraceArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Ci => ci::run(&root()),
        Task::Tidy => tidy::run(&root()),
        Task::Bless(args) => bless::run(&root(), &args),
        Task::Sim(args) => sim::run(&args),
        Task::Chaos(args) => chaos::run(&root(), &args),
        Task::Coverage(args) => coverage::run(&root(), &args),
        Task::Mutants(args) => mutants::run(&root(), &args),
        Task::Recall(args) => recall::run(&root(), &args),
        Task::Trace(args) => trace::run(&args),
        Task::Compare(args) => compare::run(&root(), &args),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
