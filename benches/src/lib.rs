//! What the benchmarks of the core share: three cores in one thread, in-memory logs, and an allocator that counts.
//! The benchmarks themselves are in `benches/`, what must hold of allocations in `tests/`.

pub mod counting;
pub mod trio;
