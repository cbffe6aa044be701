//! Decoded messages → changes: remembers the relations and the transaction that is open, counts the ordinals.
//!
//! ```text
//!            Begin                    Commit
//!   outside ───────▶ in a transaction ───────▶ outside          a lone message or one that cannot be read, outside:
//!                    rows, messages: ordinal 0, 1, 2 …           a "transaction" of its own with ordinal 0
//! ```
//!
//! What lies inside a transaction and cannot be understood becomes [`Event::Undecodable`] and the stream goes on (T25).
//! What breaks the frame itself — a Begin or Commit that is unreadable or out of turn — is an error: without it nobody can
//! say what may be confirmed. Reads no socket, no clock, no catalog.

use super::decode::{DecodeError, decode};
use super::{Lsn, PgOutput, unix_us};
use crate::change::OldTuple;
use crate::{Change, Commit, Event, LogicalMessage, Operation, Origin, Relation, Row, Tuple};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// What one message of the stream amounts to.
#[derive(Clone, Debug, PartialEq)]
pub enum Assembled {
    /// Begin, Type, Origin: remembered or without meaning for us.
    Nothing,
    /// A table's description, valid from here on. The place to look up what only the catalog knows, and to hand it to
    /// [`Assembler::describe`].
    Relation(Arc<Relation>),
    Change(Change),
    /// TRUNCATE of several tables.
    Changes(Vec<Change>),
    /// The transaction is complete; `end_lsn` is what may be confirmed once all its changes are settled.
    Commit(Arc<Commit>),
}

/// The frame of the stream is broken: the source must be opened again from what is saved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error("cannot read the {kind} at {lsn}: {source}")]
    Frame { kind: &'static str, lsn: Lsn, source: DecodeError },
    #[error("a transaction begins at {lsn} inside another one")]
    NestedBegin { lsn: Lsn },
    #[error("a commit at {lsn} ends no transaction")]
    CommitWithoutBegin { lsn: Lsn },
    #[error("the commit at {commit} ends a transaction that announced {begin}")]
    OtherCommit { begin: Lsn, commit: Lsn },
    #[error("a change at {lsn} lies outside any transaction")]
    OutsideTransaction { lsn: Lsn },
}

/// Turns the messages of one stream into changes. One per stream: a new `START_REPLICATION` sends all relations again.
#[derive(Debug)]
pub struct Assembler {
    system_id: u64,
    relations: HashMap<u32, Known>,
    transaction: Option<Transaction>,
    /// End of the last commit.
    last_end: Option<u64>,
}

#[derive(Debug)]
struct Transaction {
    commit: Arc<Commit>,
    next_ordinal: u64,
}

#[derive(Debug)]
enum Known {
    Described(Arc<Relation>),
    /// Its description came and could not be read: an older one must not be used for what follows.
    Broken(DecodeError),
}

impl Assembler {
    /// `system_id` of the cluster (`IDENTIFY_SYSTEM`) goes into every [`Commit`].
    pub fn new(system_id: u64) -> Self {
        Assembler { system_id, relations: HashMap::new(), transaction: None, last_end: None }
    }

    /// The transaction that is open, and how many of its changes have been seen.
    pub fn open_transaction(&self) -> Option<(&Arc<Commit>, u64)> {
        self.transaction.as_ref().map(|t| (&t.commit, t.next_ordinal))
    }

    /// Replaces the description of a table by one that has the catalog's part, for all changes that follow.
    pub fn describe(&mut self, relation: Arc<Relation>) {
        self.relations.insert(relation.oid, Known::Described(relation));
    }

    /// Takes the body of one XLogData; `lsn` is `WAL start` of its header.
    pub fn apply(&mut self, lsn: u64, body: Bytes) -> Result<Assembled, SequenceError> {
        let at = Lsn(lsn);
        match decode(body.clone()) {
            Ok(PgOutput::Insert { relation, new }) => {
                self.row(at, relation, Operation::Insert, None, Some(new), body).map(Assembled::Change)
            }
            Ok(PgOutput::Update { relation, old, new }) => {
                self.row(at, relation, Operation::Update, old, Some(new), body).map(Assembled::Change)
            }
            Ok(PgOutput::Delete { relation, old }) => {
                self.row(at, relation, Operation::Delete, Some(old), None, body).map(Assembled::Change)
            }
            Ok(PgOutput::Begin { final_lsn, time_pg_us, xid }) => self.begin(final_lsn, time_pg_us, xid),
            Ok(PgOutput::Commit { commit_lsn, end_lsn, .. }) => self.commit(commit_lsn, end_lsn),
            Ok(PgOutput::Relation(relation)) => {
                let relation = Arc::new(relation);
                self.describe(relation.clone());
                Ok(Assembled::Relation(relation))
            }
            Ok(PgOutput::Truncate { relations, cascade, restart_identity }) => {
                self.truncate(at, &relations, cascade, restart_identity, body)
            }
            Ok(PgOutput::Message { transactional, lsn, prefix, content }) => {
                let event = Event::Message(LogicalMessage { transactional, prefix, content });
                // A message that is not transactional belongs to no transaction, wherever it stands (T14).
                if transactional { self.inside(Lsn(lsn), event) } else { Ok(self.alone(lsn, event)) }
                    .map(Assembled::Change)
            }
            Ok(PgOutput::Origin { commit_lsn, name }) => {
                if let Some(transaction) = &mut self.transaction {
                    let name = String::from_utf8_lossy(&name).into();
                    Arc::make_mut(&mut transaction.commit).origin = Some(Arc::new(Origin { name, lsn: commit_lsn }));
                }
                Ok(Assembled::Nothing)
            }
            // No event: a type names where a column's type is from.
            Ok(PgOutput::Type { .. }) => Ok(Assembled::Nothing),
            Err(error) => self.unreadable(at, body, error),
        }
    }

    fn begin(&mut self, lsn: u64, time_pg_us: i64, xid: u32) -> Result<Assembled, SequenceError> {
        if self.transaction.is_some() {
            return Err(SequenceError::NestedBegin { lsn: Lsn(lsn) });
        }
        let time_us = unix_us(time_pg_us);
        let commit = Commit {
            system_id: self.system_id,
            lsn,
            end_lsn: 0,
            previous_end_lsn: self.last_end,
            time_us,
            xid: Some(xid),
            snapshot: false,
            origin: None,
        };
        self.transaction = Some(Transaction { commit: Arc::new(commit), next_ordinal: 0 });
        Ok(Assembled::Nothing)
    }

    fn commit(&mut self, lsn: u64, end_lsn: u64) -> Result<Assembled, SequenceError> {
        let transaction = self.transaction.take().ok_or(SequenceError::CommitWithoutBegin { lsn: Lsn(lsn) })?;
        if transaction.commit.lsn != lsn {
            return Err(SequenceError::OtherCommit { begin: Lsn(transaction.commit.lsn), commit: Lsn(lsn) });
        }
        self.last_end = Some(end_lsn);
        Ok(Assembled::Commit(Arc::new(Commit { end_lsn, ..(*transaction.commit).clone() })))
    }

    fn row(
        &mut self,
        at: Lsn,
        oid: u32,
        operation: Operation,
        old: Option<OldTuple>,
        new: Option<Tuple>,
        raw: Bytes,
    ) -> Result<Change, SequenceError> {
        let event = match self.known(oid) {
            Err(reason) => Event::Undecodable { reason, raw },
            Ok(relation) => match width_mismatch(relation, old.as_ref(), new.as_ref()) {
                Some(reason) => Event::Undecodable { reason, raw },
                None => Event::Row(Row { operation, relation: relation.clone(), old, new }),
            },
        };
        self.inside(at, event)
    }

    fn truncate(
        &mut self,
        at: Lsn,
        oids: &[u32],
        cascade: bool,
        restart_identity: bool,
        raw: Bytes,
    ) -> Result<Assembled, SequenceError> {
        let mut changes = Vec::with_capacity(oids.len());
        for oid in oids {
            let event = match self.known(*oid) {
                Ok(relation) => Event::Truncate { relation: relation.clone(), cascade, restart_identity },
                Err(reason) => Event::Undecodable { reason, raw: raw.clone() },
            };
            changes.push(self.inside(at, event)?);
        }
        Ok(Assembled::Changes(changes))
    }

    fn known(&self, oid: u32) -> Result<&Arc<Relation>, String> {
        match self.relations.get(&oid) {
            Some(Known::Described(relation)) => Ok(relation),
            Some(Known::Broken(error)) => Err(format!("the description of relation {oid} cannot be read: {error}")),
            None => Err(format!("relation {oid} was never described in this stream")),
        }
    }

    /// The next change of the open transaction. Everything that is one counts, whatever becomes of it: ordinals must be the
    /// same when the transaction is read again (T13).
    fn inside(&mut self, at: Lsn, event: Event) -> Result<Change, SequenceError> {
        let transaction = self.transaction.as_mut().ok_or(SequenceError::OutsideTransaction { lsn: at })?;
        let ordinal = transaction.next_ordinal;
        transaction.next_ordinal += 1;
        Ok(Change { commit: transaction.commit.clone(), ordinal, lsn: at.0, marker: None, event })
    }

    /// A change that belongs to no transaction. Its `lsn` is the end of its record already, and may be confirmed.
    fn alone(&self, lsn: u64, event: Event) -> Change {
        let commit = Commit {
            system_id: self.system_id,
            lsn,
            end_lsn: lsn,
            previous_end_lsn: self.last_end,
            ..Commit::default()
        };
        Change { commit: Arc::new(commit), ordinal: 0, lsn, marker: None, event }
    }

    fn unreadable(&mut self, at: Lsn, raw: Bytes, error: DecodeError) -> Result<Assembled, SequenceError> {
        match raw.first() {
            Some(b'B') => Err(SequenceError::Frame { kind: "begin", lsn: at, source: error }),
            Some(b'C') => Err(SequenceError::Frame { kind: "commit", lsn: at, source: error }),
            // No event in these; a relation's loss shows at each of its rows, with the reason.
            Some(b'O' | b'Y') => Ok(Assembled::Nothing),
            Some(b'R') => {
                match raw.get(1..5).and_then(|oid| oid.first_chunk::<4>()) {
                    Some(oid) => drop(self.relations.insert(u32::from_be_bytes(*oid), Known::Broken(error))),
                    None => self.relations.clear(),
                }
                Ok(Assembled::Nothing)
            }
            _ => {
                let event = Event::Undecodable { reason: error.to_string(), raw };
                if self.transaction.is_some() { self.inside(at, event) } else { Ok(self.alone(at.0, event)) }
                    .map(Assembled::Change)
            }
        }
    }
}

/// A row must have the columns its table was described with, or its values would land in other columns.
fn width_mismatch(relation: &Relation, old: Option<&OldTuple>, new: Option<&Tuple>) -> Option<String> {
    let old = old.map(|old| match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    });
    let expected = relation.columns.len();
    let other = old.into_iter().chain(new).map(|tuple| tuple.0.len()).find(|width| *width != expected)?;
    Some(format!("a row of relation {} has {other} columns, its description has {expected}", relation.oid))
}
