//! Runs seeds 0 to 300 and prints the failures: a quick look, without `xtask`.

fn main() {
    for seed in 0..300 {
        if let Some(failure) = raft_sim::run_seed(seed).failure {
            println!("{failure}");
        }
    }
}
