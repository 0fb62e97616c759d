//! What clients do, and how they hear the answers.

use raft_core::{Entry, Index, Input, NodeId, ProposalId, ReadAt, ReadId, Resolution};
use raft_kv::Response;

use crate::checker::broken;
use crate::event::Event;
use crate::history::{Answer, Proof, judge};
use crate::oracle::name_of;
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_client(&mut self) -> Result<(), Violation> {
        let pace = if self.calm { self.plan.election_us() / 5 } else { self.plan.client.every_us };
        let delay = self.rng.around(pace);
        self.at(delay, Event::Client);
        let Some(node) = self.choose_server() else { return Ok(()) };
        let reads = if self.calm { 300 } else { self.plan.client.reads };
        let number = self.next_id;
        let enough = !self.calm && number > self.plan.client.requests_max;
        if enough || self.rng.chance(reads) {
            self.next_id += 1;
            self.coverage.hit("requests of clients");
            let now = self.now_us();
            let request = self.clients.begin_read(&mut self.rng, now);
            self.clients.reads.insert(ReadId(number), request);
            self.ledger.read(self.nodes[node].id, ReadId(number));
            let at = if self.rng.chance(500) { ReadAt::AnyMember } else { ReadAt::Leader };
            return self.tell(node, Input::Read { id: ReadId(number), at });
        }
        let count = if self.calm { 1 } else { self.rng.between(1, self.plan.client.batch_max) };
        let requests: Vec<usize> = (0..count).filter_map(|_| self.next_write()).collect();
        if requests.is_empty() {
            return Ok(());
        }
        self.next_id += count;
        self.coverage.add("requests of clients", requests.len() as u64);
        let commands = requests.iter().map(|&request| self.command(request)).collect();
        let numbers = requests.iter().map(|&request| request as u64).collect();
        self.ledger.propose(self.nodes[node].id, ProposalId(number), numbers);
        self.clients.batches.insert(ProposalId(number), requests);
        self.tell(node, Input::Propose { id: ProposalId(number), commands })?;
        self.judge_forwarded(node, ProposalId(number))
    }

    fn next_write(&mut self) -> Option<usize> {
        let now = self.now_us();
        let (request, is_again) = self.clients.next_write(&mut self.rng, now)?;
        if is_again {
            self.coverage.hit("requests sent again");
        }
        Some(request)
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

    /// A write's command. All that is written of a value is equal each time, or a comparison would never be met.
    fn command(&mut self, request: usize) -> bytes::Bytes {
        let padding = self.plan.client.command_bytes_max as usize / 2;
        self.clients.command(request, (padding, self.now_us()))
    }

    /// A leader that knows that its removal is committed takes no more proposals (dissertation §4.2.2).
    pub(crate) fn judge_office(&self, node: usize) -> Result<(), Violation> {
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
        self.watch_resolution(node, &resolution)?;
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
                self.mix(index.0);
                self.coverage.hit(if leads {
                    "reads answered"
                } else {
                    "reads answered elsewhere"
                });
                self.reads_answered += 1;
                if leads {
                    // What commits it may be a configuration that is handed out as a write right after: judged then.
                    self.claims.push(index);
                } else {
                    self.checker.on_read_index(id, index)?;
                }
                self.ledger.on_read_ready(id, read, index)
            }
            Resolution::ReadRefused { id: read, .. } => {
                self.coverage.hit("reads refused");
                if let Some(request) = self.clients.reads.remove(&read) {
                    self.clients.history[request].is_refused = true;
                }
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

    /// Answers reads from what a node's machine has applied.
    pub(crate) fn answer_reads(&mut self, node: usize, reads: &[usize]) -> Result<(), Violation> {
        let applied = self.nodes[node].machine.applied.index;
        for &request in reads {
            let ask = self.clients.history[request].ask;
            if let Some(answer) = self.nodes[node].machine.state.read(&ask) {
                self.answer(request, answer, applied)?;
            }
        }
        Ok(())
    }

    /// A node's machine has applied an entry and answered to its command: every answer is judged.
    pub(crate) fn on_response(
        &mut self,
        node: usize,
        entry: &Entry,
        response: Option<Response>,
        digest: u64,
    ) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let name = name_of(entry);
        let request = name.and_then(|name| self.clients.named(name));
        let asked = request.map(|request| self.clients.history[request].ask);
        self.oracle.on_applied(id, entry, (name, asked), (response, digest))?;
        let number = request.map(|request| request as u64);
        self.ledger.on_applied(id, entry.index, entry.term, number)
    }

    /// A node tells a client how its batch ended: with all its responses, or unknown to the node.
    pub(crate) fn answer_batch(
        &mut self,
        node: usize,
        requests: &[usize],
        (last, responses): (Index, Option<Vec<Option<Response>>>),
    ) -> Result<(), Violation> {
        for (request, response) in requests.iter().zip(responses.into_iter().flatten()) {
            let answer = match response {
                Some(Response::SessionOpened) => Answer::Opened,
                Some(Response::Written(outcome)) => Answer::Written(outcome),
                Some(Response::SessionExpired) => {
                    if self.clients.lose_session(*request) {
                        self.coverage.hit("sessions expired");
                    }
                    continue;
                }
                // What the oracle has found right: the client was told that before, or has no session.
                _ => continue,
            };
            if !self.is_spared(node) && self.rng.chance(20) {
                self.coverage.hit("answers lost");
                continue;
            }
            self.answer(*request, answer, last)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: usize, answer: Answer, index: Index) -> Result<(), Violation> {
        if !self.clients.take_answer(request) {
            return Ok(());
        }
        let ask = self.clients.history[request].ask;
        let (name, floor) = self.clients.name(request);
        let effect = self.oracle.on_told((ask, name), &answer, index, floor)?;
        self.clients.history[request].guess = Some(effect.0);
        self.coverage.hit("requests answered");
        self.clients.floor = self.clients.floor.max(index);
        self.clients.hear(request, &answer);
        self.clients.history[request].result = Some((self.now_us(), answer));
        Ok(())
    }

    /// The index-blind check of all that clients were told.
    pub(crate) fn judge_history(&mut self) -> Result<(), Violation> {
        for request in 0..self.clients.history.len() {
            // Who was never told, but whose write changed something.
            if self.clients.history[request].guess.is_none()
                && let Some(name) = self.clients.name(request).0
            {
                self.clients.history[request].guess = self.oracle.change_of(name).map(|at| at.0);
            }
        }
        let judged = judge(&self.clients.history)?;
        self.coverage.hit(match judged.by {
            Proof::Search => "histories explained by search alone",
            Proof::Guess => "histories explained by a guess",
        });
        self.coverage.add("requests judged", judged.requests);
        self.coverage.add("requests judged with an unknown outcome", judged.unknown);
        Ok(())
    }

    pub(crate) fn forget_clients_of(&mut self, node: usize) {
        let id: NodeId = self.nodes[node].id;
        self.ledger.on_crash(id);
    }
}
