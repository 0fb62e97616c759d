//! The tables of the file, and the few operations on them that are shared by opening, writing and reading.

use std::sync::Arc;

use raft_core::{Index, RestoredLog, SnapshotMeta, Term, TermRun};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::format::{self, Chunk, Head, Malformed, NumberedState};
use crate::lives::Life;
use crate::plan::{self, Logged, Misfit, Plan};

/// First index → chunk. The only table that a usual write touches.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// First index of a run of terms → term.
pub(crate) const TERMS: TableDefinition<'_, u64, u64> = TableDefinition::new("terms");
/// Index → the configuration in that entry.
pub(crate) const MEMBERSHIPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("memberships");
/// The identity row, the head row and the life row.
pub(crate) const META: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("meta");
/// Key of the identity in [`META`].
pub(crate) const IDENTITY_KEY: u8 = 0;
/// Key of the head in [`META`].
pub(crate) const HEAD_KEY: u8 = 1;
/// Key of the life in [`META`].
pub(crate) const LIFE_KEY: u8 = 2;

/// Takes away every row whose key is `from` or higher.
pub(crate) fn remove_from(table: &mut Table<'_, u64, &[u8]>, from: u64) -> redb::Result<()> {
    loop {
        let last = table.last()?.map(|(key, _)| key.value());
        match last {
            Some(key) if key >= from => table.remove(key)?,
            _ => return Ok(()),
        };
    }
}

/// Why the rows do not make a log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowFault {
    #[error("the {row} is malformed: {fault}")]
    Malformed { row: String, fault: Malformed },
    #[error("{0}")]
    Contradiction(String),
    #[error(transparent)]
    Redb(#[from] redb::Error),
}

impl From<redb::StorageError> for RowFault {
    fn from(error: redb::StorageError) -> RowFault {
        RowFault::Redb(error.into())
    }
}

fn malformed(row: impl ToString) -> impl FnOnce(Malformed) -> RowFault {
    move |fault| RowFault::Malformed { row: row.to_string(), fault }
}

/// The log as the file shows it.
pub(crate) fn read_tables(
    database: &Database,
) -> Result<(RestoredLog, NumberedState, Option<Life>), RowFault> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let tables = Tables {
        meta: transaction.open_table(META).map_err(redb::Error::from)?,
        log: transaction.open_table(LOG).map_err(redb::Error::from)?,
        terms: transaction.open_table(TERMS).map_err(redb::Error::from)?,
        memberships: transaction.open_table(MEMBERSHIPS).map_err(redb::Error::from)?,
    };
    let (shape, state) = tables.restore()?;
    Ok((shape, state, tables.life()?))
}

/// The next write that the journal holds, in the way in which the log goes on with it: `shape` is the log with it then. `None` if the
/// log, whose last write is number `sequence`, holds it already.
pub(crate) fn next_write(
    shape: &mut RestoredLog,
    sequence: u64,
    number: u64,
    bytes: &[u8],
) -> Result<Option<Logged>, RowFault> {
    if number <= sequence {
        return Ok(None);
    }
    if number != sequence + 1 {
        return Err(RowFault::Contradiction(format!(
            "its last write is number {sequence}, but its journal goes on with number {number}"
        )));
    }
    let row = || format!("write {number} in its journal");
    let write = format::decode_write(number, bytes)
        .map_err(|fault| RowFault::Malformed { row: row(), fault })?;
    let misfit = |misfit: Misfit| RowFault::Contradiction(format!("{}: {misfit}", row()));
    if let Some(through) = write.compacted {
        plan::compact(shape, through).map_err(misfit)?;
    }
    let plan = Plan::merge(shape, &[write.plan.to_persist()]).map_err(misfit)?;
    let added = plan.additions(shape);
    plan.apply(shape, added);
    Ok(Some(write))
}

/// The tables, open in one transaction.
struct Tables<M, L, T, C> {
    meta: M,
    log: L,
    terms: T,
    memberships: C,
}

impl<M, L, T, C> Tables<M, L, T, C>
where
    M: ReadableTable<u8, &'static [u8]>,
    L: ReadableTable<u64, &'static [u8]>,
    T: ReadableTable<u64, u64>,
    C: ReadableTable<u64, &'static [u8]>,
{
    /// Reads the shape of the log and the newest hard state. Of the chunks only the last is read: a log of a gigabyte must
    /// be ready at once. What a chunk in the middle holds is checked when it is read.
    fn restore(&self) -> Result<(RestoredLog, NumberedState), RowFault> {
        let head = match self.meta.get(HEAD_KEY)? {
            Some(row) => Head::decode(row.value()).map_err(malformed("head"))?,
            None => return Err(RowFault::Contradiction("the head is missing".into())),
        };
        let Head { mut state, base: SnapshotMeta { position: base, membership } } = head;
        let mut shape = RestoredLog {
            base,
            base_membership: Arc::unwrap_or_clone(membership),
            last: base.index,
            ..RestoredLog::default()
        };
        let mut last_term = base.term;
        if let Some((key, row)) = self.log.last()? {
            let (key, row) = (key.value(), row.value());
            let name = format!("chunk of entry {key}");
            let chunk = Chunk::parse(row).map_err(malformed(&name))?;
            if chunk.first().0 != key {
                return Err(RowFault::Contradiction(format!("the {name} begins elsewhere")));
            }
            if let Some(newer) = chunk.state().filter(|newer| newer.sequence > state.sequence) {
                state = newer;
            }
            if chunk.last() > base.index {
                shape.last = chunk.last();
                last_term = chunk.last_term();
            }
        }
        shape.hard_state = state.hard_state;
        self.restore_terms(&mut shape)?;
        self.restore_memberships(&mut shape)?;
        if shape.last > base.index && shape.terms.last().map(|run| run.term) != Some(last_term) {
            return Err(RowFault::Contradiction("the terms do not fit the last entry".into()));
        }
        self.check_first_row(&shape)?;
        Ok((shape, state))
    }

    /// The row of the last start, if there was one that counted.
    fn life(&self) -> Result<Option<Life>, RowFault> {
        let row = self.meta.get(LIFE_KEY)?;
        row.map(|row| Life::decode(row.value()).map_err(malformed("life"))).transpose()
    }

    fn restore_terms(&self, shape: &mut RestoredLog) -> Result<(), RowFault> {
        // What ends at or below the base is on its way out.
        let start = shape.base.index.next().0;
        let start = match self.terms.range(..=start)?.next_back() {
            Some(run) => run?.0.value(),
            None => start,
        };
        for row in self.terms.range(start..)? {
            let (first, term) = row?;
            let run = TermRun { term: Term(term.value()), first: Index(first.value()) };
            if shape.terms.last().is_some_and(|last| last.term >= run.term) || run.term == Term(0) {
                return Err(RowFault::Contradiction(format!(
                    "the terms do not rise at entry {}",
                    run.first
                )));
            }
            shape.terms.push(run);
        }
        plan::clip_terms(shape);
        let start = shape.base.index.next();
        let covered = shape.terms.first().map_or(shape.last < start, |run| run.first == start);
        let within = shape.terms.last().is_none_or(|run| run.first <= shape.last);
        let above = shape.terms.first().is_none_or(|run| run.term >= shape.base.term);
        if covered && within && above {
            Ok(())
        } else {
            Err(RowFault::Contradiction("the terms do not cover the log".into()))
        }
    }

    fn restore_memberships(&self, shape: &mut RestoredLog) -> Result<(), RowFault> {
        for row in self.memberships.range(shape.base.index.0.saturating_add(1)..)? {
            let (index, row) = row?;
            let index = Index(index.value());
            let membership = format::decode_membership_row(row.value())
                .map_err(malformed(format!("configuration of entry {index}")))?;
            if index > shape.last {
                return Err(RowFault::Contradiction(format!(
                    "a configuration stands at entry {index}, past the end of the log"
                )));
            }
            shape.memberships.push((index, membership));
        }
        Ok(())
    }

    /// The first entry after the base must be there.
    fn check_first_row(&self, shape: &RestoredLog) -> Result<(), RowFault> {
        if shape.last <= shape.base.index {
            return Ok(());
        }
        let first = shape.base.index.next();
        let span = match self.log.range(..=first.0)?.next_back() {
            Some(row) => {
                let (key, row) = row?;
                let name = format!("chunk of entry {}", key.value());
                Some(format::peek_span(row.value()).map_err(malformed(name))?)
            }
            None => None,
        };
        match span {
            Some((from, to)) if (from..=to).contains(&first) => Ok(()),
            _ => Err(RowFault::Contradiction(format!("entry {first} is missing"))),
        }
    }
}
