//! In place of a real log store when the feature `redb` is off: there never is one.

use raft_core::{Entries, Index, LogPosition, Membership, NodeId, Persist, RestoredLog};
use raft_node::order::StoreJob;

use crate::{Coverage, Image};

/// Cannot exist.
#[derive(Debug)]
pub(crate) enum Real {}

/// What a store comes back with, if there is one.
#[derive(Debug)]
#[allow(dead_code)] // nothing comes back
pub(crate) enum Found {
    Whole(Box<Image>),
    Refused(String),
    RolledBack(String),
    Wrong(String),
}

impl Real {
    pub(crate) fn new(_: NodeId, _: u64, _: &Membership) -> Result<Real, String> {
        Err("raft-sim was built without its feature redb".to_owned())
    }

    pub(crate) fn commit(&mut self, _: &[Persist]) -> Result<(), String> {
        match *self {}
    }

    pub(crate) fn compact(&mut self, _: LogPosition) -> Result<(), String> {
        match *self {}
    }

    pub(crate) fn read(&self, _: Index, _: Index, _: usize) -> Result<Option<Entries>, String> {
        match *self {}
    }

    pub(crate) fn restore(&mut self) -> Result<RestoredLog, String> {
        match *self {}
    }

    pub(crate) fn arm_error(&mut self, _: bool) {
        match *self {}
    }

    pub(crate) fn lie(&mut self, _: bool) {
        match *self {}
    }

    pub(crate) fn has_lied(&self) -> bool {
        match *self {}
    }

    pub(crate) fn may_be_lost(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_rotten(&self) -> bool {
        match *self {}
    }

    pub(crate) fn heal(&mut self) {
        match *self {}
    }

    pub(crate) fn rot(&mut self) -> Option<String> {
        match *self {}
    }

    pub(crate) fn read_all(&self, _: &Image) -> Result<Result<(), String>, String> {
        match *self {}
    }

    pub(crate) fn go_down(&mut self, _: &[StoreJob], _: bool) {
        match *self {}
    }

    pub(crate) fn come_back(&mut self, _: &mut Coverage) -> Found {
        match *self {}
    }

    pub(crate) fn count(&mut self, _: &mut Coverage) {
        match *self {}
    }
}
