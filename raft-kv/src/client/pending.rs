//! Requests that are not answered yet, by number.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::{Answered, Op};
use super::error::ClientError;
use crate::command::SessionId;

/// What is to be done, and who waits for it.
#[derive(Debug)]
pub(super) enum What {
    /// The client's own: nobody waits.
    OpenSession(SessionId),
    Call {
        op: Op,
        reply: oneshot::Sender<Result<Answered, ClientError>>,
    },
}

/// One request.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) what: What,
    pub(super) deadline: Instant,
    /// How long it may take in all, until `deadline`.
    pub(super) timeout: Duration,
    /// Rises from request to request: repeated ones go out in this order.
    pub(super) order: u64,
    /// Of a write that was sent: its session and number, for good.
    pub(super) number: Option<(SessionId, u64)>,
    /// It was sent on the present connection, and not answered.
    pub(super) on_wire: bool,
    /// It was sent before, and what became of that is not known.
    pub(super) is_uncertain: bool,
}

impl Pending {
    /// Tells whoever waits.
    pub(super) fn answer(self, result: Result<Answered, ClientError>) {
        if let What::Call { reply, .. } = self.what {
            // The caller may have given up.
            let _ = reply.send(result);
        }
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(&self.what, What::Call { op, .. } if op.write().is_some())
    }
}

/// A slab. A number that was given back is never given out again with the same meaning: its upper half counts the slot's uses.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    next_order: u64,
}

#[derive(Debug)]
struct Slot {
    uses: u32,
    pending: Option<Pending>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, what: What, deadline: Instant, timeout: Duration) -> u64 {
        let order = self.next_order;
        self.next_order += 1;
        let pending = Pending {
            what,
            deadline,
            timeout,
            order,
            number: None,
            on_wire: false,
            is_uncertain: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, pending: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.pending = Some(pending);
        id(slot.uses, index)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Pending> {
        let slot = self.slots.get_mut(id as u32 as usize)?;
        slot.pending.as_mut().filter(|_| u64::from(slot.uses) == id >> 32)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Pending> {
        let index = id as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.uses) != id >> 32 {
            return None;
        }
        let pending = slot.pending.take()?;
        slot.uses = slot.uses.wrapping_add(1);
        self.free.push(index);
        Some(pending)
    }

    /// The numbers of those that `wanted` picks, in their order. May change them.
    pub(super) fn pick(&mut self, mut wanted: impl FnMut(&mut Pending) -> bool) -> Vec<u64> {
        let mut picked = Vec::new();
        for (index, slot) in (0..).zip(&mut self.slots) {
            if let Some(pending) = &mut slot.pending
                && wanted(pending)
            {
                picked.push((pending.order, id(slot.uses, index)));
            }
        }
        picked.sort_unstable();
        picked.into_iter().map(|(_, id)| id).collect()
    }
}

fn id(uses: u32, index: u32) -> u64 {
    u64::from(uses) << 32 | u64::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_request_only() {
        let mut table = Table::default();
        let now = Instant::now();
        let first = table.insert(What::OpenSession(SessionId(1)), now, Duration::ZERO);
        assert!(table.remove(first).is_some());
        let second = table.insert(What::OpenSession(SessionId(2)), now, Duration::ZERO);
        assert_ne!(first, second);
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert!(table.get_mut(second).is_some());
        assert_eq!(table.len(), 1);
        assert!(table.get_mut(u64::MAX).is_none());
    }
}
