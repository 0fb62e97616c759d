//! raft-cli
fn main() {}
