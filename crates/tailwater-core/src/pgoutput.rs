//! Bytes of the logical decoding plugin `pgoutput`, protocol 1 → changes. Never panics, never allocates by a length it has
//! not seen.
//!
//! ```text
//!   XLogData body ──decode──▶ PgOutput ──Assembler──▶ Change (with its transaction and ordinal) | commit
//! ```
//!
//! Not here: the replication protocol around it (sources), what becomes of a change (route). Values stay slices of the
//! bytes they arrived in. Layouts: PostgreSQL documentation, "Logical Replication Message Formats".

mod assemble;
mod decode;
mod encode;
mod lsn;
pub mod oid;

pub use assemble::{Assembled, Assembler, SequenceError};
pub use decode::{DecodeError, decode};
pub use encode::encode;
pub use lsn::{Lsn, LsnParseError};

use crate::change::OldTuple;
use crate::{Relation, Tuple};
use bytes::Bytes;

/// One message of the plugin, as it is on the wire.
///
/// Times are µs since 2000-01-01 UTC, PostgreSQL's own epoch; see [`unix_us`].
#[derive(Clone, Debug, PartialEq)]
pub enum PgOutput {
    Begin {
        /// Start of the commit record: the transaction's identity.
        final_lsn: u64,
        time_pg_us: i64,
        xid: u32,
    },
    Commit {
        /// Equal to `final_lsn` of the Begin before it.
        commit_lsn: u64,
        /// What may be confirmed once the transaction is settled.
        end_lsn: u64,
        time_pg_us: i64,
    },
    Origin {
        commit_lsn: u64,
        name: Bytes,
    },
    /// `catalog` of the columns is never filled: the log does not carry it.
    Relation(Relation),
    Type {
        oid: u32,
        schema: Bytes,
        name: Bytes,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Option<OldTuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    Message {
        transactional: bool,
        /// End of the message's own record.
        lsn: u64,
        prefix: Bytes,
        content: Bytes,
    },
}

/// µs between 1970-01-01 and 2000-01-01.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// PostgreSQL's µs since 2000 → µs since 1970; saturates at the end of time.
pub fn unix_us(time_pg_us: i64) -> i64 {
    time_pg_us.saturating_add(EPOCH_2000_US)
}

/// µs since 1970 → PostgreSQL's µs since 2000, as a standby status update wants it; saturates.
pub fn pg_us(time_unix_us: i64) -> i64 {
    time_unix_us.saturating_sub(EPOCH_2000_US)
}
