//! An allocator that counts: for tests that hold a bound on allocations, and for bytes per group.

#![allow(unsafe_code)] // the only place: an allocator can not be written without; see the proof at the impl

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with counters. Declare it `#[global_allocator]` in a test or an example.
#[derive(Debug)]
pub struct Counting;

/// What was counted so far, by all threads.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// How often memory was asked for; growing in place or by moving counts as one.
    pub calls: u64,
    /// The bytes that are allocated and not freed, as asked for: what the system's allocator rounds up is not in it.
    pub live_bytes: u64,
}

/// The counters now. All zero unless [`Counting`] is the global allocator.
pub fn count() -> Count {
    Count { calls: CALLS.load(Relaxed), live_bytes: LIVE_BYTES.load(Relaxed) }
}

// SAFETY: every method hands its arguments unchanged to `System` and returns what `System` returns, so each contract that the
// caller keeps with us is kept with `System`, and each that `System` keeps with us is kept with the caller. The counters
// are atomics: touching them allocates nothing, can not unwind (they wrap), and so can not re-enter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's promise (a layout of non-zero size) is `System`'s precondition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: `pointer` came from `alloc` or `realloc` here, so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(new_size as u64, Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: as in `dealloc`; the caller promises that `new_size` is not zero and does not overflow.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
