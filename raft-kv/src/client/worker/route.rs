//! Whom the client's task asks: the leader, or, if that can not be reached, whoever can pass requests on to it.

use std::sync::Arc;

use raft_core::{NodeId, Term};
use tokio::time::Instant;

use super::super::error::{ClientError, Trouble};
use super::super::link::Link;
use super::super::search::{Reported, Search};
use super::{HOPS_MAX, RELAY_AFTER, Worker};
use crate::protocol::{NodeReport, ServeAt};

impl Worker {
    /// Follows a redirection; without a hint, or after too many, asks everybody.
    pub(super) fn on_redirect(&mut self, leader: Option<NodeId>) {
        let from = self.link.as_ref().map(|link| link.node);
        self.disconnect();
        self.hops += 1;
        let address = leader.and_then(|leader| self.known.address(leader));
        match leader.zip(address).filter(|(leader, _)| Some(*leader) != from) {
            Some(to) if self.hops <= HOPS_MAX => self.connect(to, ServeAt::Leader, Term(0)),
            _ => {
                if self.hops > HOPS_MAX {
                    self.pause();
                }
                self.known.set_leader(None);
                self.start_search();
            }
        }
    }

    pub(super) fn on_lost(&mut self, trouble: Trouble) {
        let node = self.link.as_ref().map(|link| link.node);
        self.disconnect();
        if let Some(node) = node {
            self.on_trouble(node, trouble);
        }
        self.known.set_leader(None);
        if !self.pending.is_empty() {
            self.start_search();
        }
    }

    /// Remembers what is wrong with a node. When no node is left that could accept us, nothing is worth waiting for.
    pub(super) fn on_trouble(&mut self, node: NodeId, Trouble { why, is_credentials }: Trouble) {
        self.last_seen = format!("node {node}: {why}");
        if !is_credentials {
            self.refusals.remove(&node);
            return;
        }
        self.refusals.insert(node, why.clone());
        if !self.known.nodes().keys().all(|node| self.refusals.contains_key(node)) {
            return;
        }
        // A write that may have been applied has to be told so when its time is up.
        for id in self.pending.pick(|pending| !(pending.is_write() && pending.is_uncertain)) {
            self.finish(id, Err(ClientError::Credentials { node, why: why.clone() }));
        }
    }

    pub(super) fn on_reported(&mut self, Reported { search, node, result }: Reported) {
        if self.search.as_ref().is_none_or(|present| present.number != search) {
            return;
        }
        let report = match result {
            Ok(report) => report,
            Err(trouble) => return self.on_trouble(node, trouble),
        };
        self.refusals.remove(&node);
        let address = self.known.address(node);
        if report.is_serving_leader() {
            if let Some(search) = &mut self.search {
                search.heard = search.heard.max(Some(report.term));
            }
            match &mut self.link {
                Some(Link { at: ServeAt::AnyMember, term, .. }) if *term > report.term => {}
                Some(Link { at: ServeAt::AnyMember, .. }) | None => self.go_to(node, &report),
                Some(link) if link.node == node => link.term = report.term,
                Some(link) if link.term >= report.term => {}
                Some(_) => self.go_to(node, &report),
            }
            return;
        }
        // It knows a leader whose address we do not: it will tell it. Whom we hold to instead, if anybody, is not that one.
        let unknown = report.leader.filter(|leader| self.known.address(*leader).is_none());
        let is_later = |link: &Link| link.at == ServeAt::Leader && report.term > link.term;
        if let (Some(_), Some(address)) = (unknown, &address)
            && self.link.as_ref().is_none_or(is_later)
        {
            self.disconnect();
            return self.connect((node, address.clone()), ServeAt::Leader, Term(0));
        }
        if self.may_relay(&report)
            && let Some(address) = address
        {
            self.disconnect();
            self.connect((node, address), ServeAt::AnyMember, report.term);
            return self.settle_search();
        }
        if self.link.is_some() {
            return;
        }
        self.last_seen = match report.leader {
            Some(leader) => format!("node {node} takes node {leader} for the leader"),
            None => format!("node {node} knows no leader"),
        };
    }

    /// Leaves whatever there is for the leader that has reported.
    fn go_to(&mut self, leader: NodeId, report: &NodeReport) {
        self.disconnect();
        if let Some(address) = self.known.address(leader) {
            self.connect((leader, address), ServeAt::Leader, report.term);
        }
    }

    /// Whether the node that has reported, which does not lead, should pass requests on: it knows a leader, of which we have heard
    /// nothing for a good while.
    fn may_relay(&self, report: &NodeReport) -> bool {
        let Some(search) = self.search.as_ref().filter(|search| !search.is_calm) else {
            return false;
        };
        report.leader.is_some_and(|leader| leader != report.node)
            && report.failure.is_none()
            && search.since.elapsed() >= RELAY_AFTER.min(self.request_timeout / 4)
            && search.heard.is_none_or(|heard| heard < report.term)
    }

    /// There is somebody to ask, or to be found, if there is something to ask.
    pub(super) fn ensure_link(&mut self) {
        if self.link.is_some() || self.search.is_some() || self.pending.is_empty() {
            return;
        }
        let leader = self.known.leader();
        match leader.and_then(|leader| Some((leader, self.known.address(leader)?))) {
            Some(to) => self.connect(to, ServeAt::Leader, Term(0)),
            None => self.start_search(),
        }
    }

    fn connect(&mut self, to: (NodeId, String), at: ServeAt, term: Term) {
        self.next_number += 1;
        let (endpoint, events) = (Arc::clone(&self.endpoint), self.events.clone());
        self.search = None;
        self.progress_at = Instant::now();
        self.link = Some(Link::connect(endpoint, self.next_number, to, (at, term), events));
    }

    pub(super) fn start_search(&mut self) {
        self.search_for_leader(false);
    }

    fn search_for_leader(&mut self, is_calm: bool) {
        self.next_number += 1;
        let (number, nodes) = (self.next_number, self.known.nodes());
        self.search = Some(Search::start(&self.endpoint, number, is_calm, nodes, &self.events));
    }

    /// The connection works: there is nothing to look for, but the leader if it is not the leader's.
    pub(super) fn settle_search(&mut self) {
        match self.link.as_ref().map(|link| link.at) {
            Some(ServeAt::AnyMember) => {
                if self.search.as_ref().is_none_or(|search| !search.is_calm) {
                    self.search_for_leader(true);
                }
            }
            _ => self.search = None,
        }
    }

    /// Gives the connection up. What was sent over it will be sent again.
    fn disconnect(&mut self) {
        if self.link.take().is_none() {
            return;
        }
        self.on_wire = 0;
        let lost = self.pending.pick(|pending| {
            let was_on_wire = std::mem::take(&mut pending.on_wire);
            pending.is_uncertain |= was_on_wire;
            was_on_wire
        });
        // They are older than what waits to be sent for the first time.
        for id in lost.into_iter().rev() {
            self.ready.push_front(id);
        }
    }
}
