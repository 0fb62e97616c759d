//! Runs a range of seeds (300, or what the arguments say: how many, and the first) and prints the failures: a quick look, without `xtask`.

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let count: u64 = arguments.next().unwrap_or(300);
    let start: u64 = arguments.next().unwrap_or(0);
    for seed in start..start.saturating_add(count) {
        if let Some(failure) = raft_sim::run_seed(seed).failure {
            println!("{failure}");
        }
    }
}
