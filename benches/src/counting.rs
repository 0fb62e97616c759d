//! An allocator that counts: for tests that hold a bound on allocations, and for bytes per group.

#![allow(unsafe_code)] // the only place: an allocator can not be written without; see the proof at the impl

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Each thread has its own, so that what a test counts does not depend on what the test harness does meanwhile.
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with counters. Declare it `#[global_allocator]` in a test or an example.
#[derive(Debug)]
pub struct Counting;

/// What was counted so far, on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// How often memory was asked for; growing in place or by moving counts as one.
    pub calls: u64,
    /// The bytes that are allocated and not freed, as asked for: what the system's allocator rounds up is not in it.
    pub live_bytes: u64,
}

/// The counters of this thread now. All zero unless [`Counting`] is the global allocator.
pub fn count() -> Count {
    Count { calls: CALLS.get(), live_bytes: LIVE_BYTES.get() }
}

fn note_taken(size: usize) {
    CALLS.set(CALLS.get() + 1);
    // Wraps while a thread has freed more than it took, which is right again when it took more.
    LIVE_BYTES.set(LIVE_BYTES.get().wrapping_add(size as u64));
}

fn note_freed(size: usize) {
    LIVE_BYTES.set(LIVE_BYTES.get().wrapping_sub(size as u64));
}

// SAFETY: every method hands its arguments unchanged to `System` and returns what `System` returns, so each contract that the
// caller keeps with us is kept with `System`, and each that `System` keeps with us is kept with the caller. The counters
// are thread-locals that are constant at first and have no destructor: touching them allocates nothing, and so can not re-enter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note_taken(layout.size());
        // SAFETY: the caller's promise (a layout of non-zero size) is `System`'s precondition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note_freed(layout.size());
        // SAFETY: `pointer` came from `alloc` or `realloc` here, so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note_taken(new_size);
        note_freed(layout.size());
        // SAFETY: as in `dealloc`; the caller promises that `new_size` is not zero and does not overflow.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
