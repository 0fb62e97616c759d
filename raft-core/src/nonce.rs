//! What tells the questions and forwarded batches of one start of a member from those of all others.
//!
//! An answer may come late, after the member that asked was restarted in the same term; it must then settle nothing.
//! Members on a store ([`StoreStamp`]) are safe from that by construction: the life of the store, which rises with every
//! start, is part of the number. Everything else that is known to differ is mixed into the rest of it, for stores that
//! were put back from a copy and for members without one.

use crate::StoreStamp;
use crate::rng::mixed;

/// The bits of a nonce that are the life of the store.
const LIFE_BITS: u32 = 24;
/// The bits that count; beyond, the count starts over.
const COUNT_BITS: u32 = u64::BITS - LIFE_BITS;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Of one start of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce(u64);

impl Nonce {
    /// `drawn` is random, as far as the caller's seed is.
    pub(crate) fn new(store: Option<StoreStamp>, drawn: u64) -> Nonce {
        let Some(StoreStamp { id, life, nonce }) = store else { return Nonce(drawn) };
        let drawn = drawn ^ mixed(id.0 ^ mixed(nonce));
        Nonce(life << COUNT_BITS | drawn & COUNT_MASK)
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The context of this start's question with this number. Lives do not run into each other: the count starts over
    /// first, after 2^40 questions.
    pub(crate) fn context(self, question: u64) -> u64 {
        self.0 & !COUNT_MASK | self.0.wrapping_add(question) & COUNT_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreId;

    #[test]
    fn lives_of_a_store_have_no_context_in_common_whatever_was_drawn() {
        let stamp = |life| Some(StoreStamp { id: StoreId(7), life, nonce: 0 });
        for drawn in [0, 1, COUNT_MASK, u64::MAX] {
            for life in [0, 1, 1000, (1 << LIFE_BITS) - 2] {
                let (one, next) =
                    (Nonce::new(stamp(life), drawn), Nonce::new(stamp(life + 1), drawn));
                assert_ne!(one, next);
                for question in [0, 1, 1 << 32, COUNT_MASK] {
                    let life_of = |context: u64| context >> COUNT_BITS;
                    assert_eq!(life_of(one.context(question)), life);
                    assert_eq!(life_of(next.context(question)), life + 1);
                }
            }
        }
    }

    #[test]
    fn a_copy_of_a_store_and_a_new_one_differ_too() {
        let of = |id, nonce| Nonce::new(Some(StoreStamp { id: StoreId(id), life: 3, nonce }), 9);
        assert_ne!(of(7, 1), of(7, 2), "two starts in one life");
        assert_ne!(of(7, 1), of(8, 1), "another store");
    }
}
