//! The workspace's own automation: `cargo xtask ci`, `tidy`, `sim`. It knows cargo, text and the simulator; it knows nothing of the
//! service.

use clap::{Parser, Subcommand};

mod sim;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's own automation.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Simulates whole clusters under faults; one seed is one run.
    Sim(sim::SimArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Sim(args) => sim::run(&args),
    }
}
