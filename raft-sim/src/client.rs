//! What clients do, and how they hear the answers.

use bytes::Bytes;
use raft_core::{Input, ProposalId, ReadAt, ReadId, Resolution};

use crate::checker::broken;
use crate::event::Event;
use crate::mutants::mutated;
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_client(&mut self) -> Result<(), Violation> {
        let pace = if self.calm { self.plan.election_us() / 5 } else { self.plan.client.every_us };
        let delay = self.rng.around(pace);
        self.at(delay, Event::Client);
        let Some(node) = self.choose_server() else { return Ok(()) };
        self.coverage.hit("requests of clients");
        let reads = if self.calm { 300 } else { self.plan.client.reads };
        let number = self.next_id;
        let enough = !self.calm && number > self.plan.client.requests_max;
        if enough || self.rng.chance(reads) {
            self.next_id += 1;
            self.ledger.read(self.nodes[node].id, ReadId(number));
            let at = if self.rng.chance(500) { ReadAt::AnyMember } else { ReadAt::Leader };
            return self.tell(node, Input::Read { id: ReadId(number), at });
        }
        let count = if self.calm { 1 } else { self.rng.between(1, self.plan.client.batch_max) };
        self.next_id += count;
        let numbers: Vec<u64> = (number..number + count).collect();
        let commands = numbers.iter().map(|&number| self.command(number)).collect();
        self.ledger.propose(self.nodes[node].id, ProposalId(number), numbers);
        self.tell(node, Input::Propose { id: ProposalId(number), commands })
    }

    /// Mostly somebody who takes itself for the leader; now and then anybody.
    fn choose_server(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|&n| self.can_be_asked(n)).collect();
        let leaders: Vec<usize> =
            up.iter().copied().filter(|&n| self.nodes[n].claims_to_lead()).collect();
        let anywhere = leaders.is_empty() || self.rng.chance(self.plan.client.anywhere);
        let choices = if anywhere { up } else { leaders };
        (!choices.is_empty()).then(|| self.rng.pick(&choices))
    }

    pub(crate) fn can_be_asked(&self, node: usize) -> bool {
        self.nodes[node].is_running()
    }

    /// A command: its number, and padding.
    fn command(&mut self, number: u64) -> Bytes {
        let padding = self.rng.below(self.plan.client.command_bytes_max) as usize;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + padding, 0);
        Bytes::from(bytes)
    }

    /// A leader that knows that its removal is committed takes no more proposals (dissertation §4.2.2).
    fn judge_office(&self, node: usize) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let last = it.log.memberships().last();
        if let Some((at, membership)) = last
            && it.claims_to_lead()
            && !membership.is_voter(it.id)
            && at.index <= it.claimed
        {
            return broken(
                "who was removed leads no more",
                format!("node {} takes a proposal, though {at} removed it", it.id),
            );
        }
        Ok(())
    }

    pub(crate) fn on_resolution(
        &mut self,
        node: usize,
        resolution: Resolution,
    ) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let leads = self.nodes[node].claims_to_lead();
        match resolution {
            Resolution::Appended { id: batch, first, count, term } => {
                self.mix(first.0 << 20 | count);
                self.coverage.hit(if leads { "batches appended" } else { "batches forwarded" });
                self.judge_office(node)?;
                self.ledger.on_appended(id, batch, first, count, term)
            }
            Resolution::Refused { id: batch, .. } => {
                self.coverage.hit("batches refused");
                self.ledger.on_refused(id, batch)
            }
            Resolution::Abandoned { id: batch } => {
                self.coverage.hit("batches abandoned");
                self.ledger.on_abandoned(id, batch)
            }
            Resolution::ReadReady { id: read, index } => {
                let applied = self.nodes[node].machine.applied.index;
                let index = if mutated!(ReadDoesNotWaitForItsIndex) { applied } else { index };
                self.mix(index.0);
                self.coverage.hit(if leads {
                    "reads answered"
                } else {
                    "reads answered elsewhere"
                });
                self.reads_answered += 1;
                if leads {
                    self.on_commit_claim(node, index)?;
                } else {
                    self.checker.on_read_index(id, index)?;
                }
                self.ledger.on_read_ready(id, read, index)
            }
            Resolution::ReadRefused { id: read, .. } => {
                self.coverage.hit("reads refused");
                self.ledger.on_read_refused(id, read)
            }
            Resolution::RequestDone { id: request } => {
                self.coverage.hit("requests done");
                self.ledger.on_request_answered(id, request)
            }
            Resolution::RequestRefused { id: request, reason } => {
                self.say(|| format!("request {request:?} refused: {reason}"));
                self.coverage.hit("requests refused");
                self.ledger.on_request_answered(id, request)
            }
            Resolution::RequestAbandoned { id: request } => {
                self.coverage.hit("requests abandoned");
                self.ledger.on_request_answered(id, request)
            }
        }
    }
}
