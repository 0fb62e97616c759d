//! Runs seeds until one fails, a line each: `cargo xtask recall` runs this once per seeded bug, in a build with `--cfg raft_mutants`.
//!
//! `recall FIRST COUNT` prints `held SEED MICROSECONDS` for each seed that holds, and ends with `failed SEED MICROSECONDS RULE` at the first that does not.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: recall FIRST COUNT");
        return ExitCode::from(2);
    };
    // Panics are findings like any other: they are told on the line of their seed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut out = std::io::stdout().lock();
    for seed in first..first.saturating_add(count) {
        let outcome = raft_sim::run_seed(seed);
        let time = outcome.simulated_us;
        let written = match &outcome.failure {
            None => writeln!(out, "held {seed} {time}"),
            Some(failure) => writeln!(out, "failed {seed} {time} {}", failure.violation.rule),
        };
        if written.and_then(|()| out.flush()).is_err() || outcome.failure.is_some() {
            break;
        }
    }
    ExitCode::SUCCESS
}
