//! A position of this source as text, and back, strictly: what cannot be read is refused, never guessed.
//!
//! ```text
//!   pg sys=7309… tl=1 lsn=0/16B3748                                    outside any transaction: all before lsn is settled
//!   pg sys=7309… tl=1 lsn=0/16B3748 commit=0/16B4000 ord=12 of=9A0B1C2D   12 changes of the transaction at `commit` are, too
//!   pg sys=7309… tl=1 snapshot=0/16B3748 rows=12                       12 rows of the first snapshot; begun anew after a crash
//! ```

use super::failure::Error;
use std::fmt;
use tailwater_core::Position;
use tailwater_core::pgoutput::Lsn;

/// What a position of this source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgPosition {
    /// `system_identifier` of the cluster.
    pub system_id: u64,
    pub timeline: u32,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// So many rows of the snapshot taken at `consistent` are settled.
    Snapshot { consistent: u64, rows: u64 },
    /// Everything up to `lsn`, the end of a commit record or what a keepalive said, is settled.
    Stream { lsn: u64, inside: Option<Inside> },
}

/// A place inside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The transaction: start of its commit record.
    pub commit: u64,
    /// So many of its changes are settled.
    pub ordinal: u64,
    /// What was asked for when they were counted; another question counts otherwise.
    pub of: u32,
}

impl PgPosition {
    /// Reads what `Display` wrote.
    pub fn parse(position: &Position) -> Result<PgPosition, Error> {
        parse(position.as_str()).ok_or_else(|| Error::Position(position.as_str().to_owned()))
    }

    /// What may be confirmed: the end of the last complete transaction; `None` during the snapshot.
    pub fn confirmable(&self) -> Option<u64> {
        match self.place {
            Place::Stream { lsn, .. } => Some(lsn),
            Place::Snapshot { .. } => None,
        }
    }

    pub fn to_position(&self) -> Position {
        Position::new(self.to_string())
    }
}

impl fmt::Display for PgPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pg sys={} tl={} ", self.system_id, self.timeline)?;
        match self.place {
            Place::Snapshot { consistent, rows } => write!(f, "snapshot={} rows={rows}", Lsn(consistent)),
            Place::Stream { lsn, inside: None } => write!(f, "lsn={}", Lsn(lsn)),
            Place::Stream { lsn, inside: Some(Inside { commit, ordinal, of }) } => {
                write!(f, "lsn={} commit={} ord={ordinal} of={of:08X}", Lsn(lsn), Lsn(commit))
            }
        }
    }
}

fn parse(text: &str) -> Option<PgPosition> {
    let mut fields = text.split(' ');
    if fields.next()? != "pg" {
        return None;
    }
    let mut field = |name: &str| -> Option<&str> { fields.next()?.strip_prefix(name)?.strip_prefix('=') };
    let system_id = field("sys")?.parse().ok()?;
    let timeline = field("tl")?.parse().ok()?;
    let rest: Vec<&str> = fields.collect();
    let value = |index: usize, name: &str| -> Option<&str> { rest.get(index)?.strip_prefix(name)?.strip_prefix('=') };
    let lsn = |text: &str| text.parse::<Lsn>().ok().map(|lsn| lsn.0);
    let place = match rest.len() {
        1 => Place::Stream { lsn: lsn(value(0, "lsn")?)?, inside: None },
        2 => Place::Snapshot { consistent: lsn(value(0, "snapshot")?)?, rows: value(1, "rows")?.parse().ok()? },
        4 => {
            let inside = Inside {
                commit: lsn(value(1, "commit")?)?,
                ordinal: value(2, "ord")?.parse().ok()?,
                of: u32::from_str_radix(value(3, "of")?, 16).ok()?,
            };
            Place::Stream { lsn: lsn(value(0, "lsn")?)?, inside: Some(inside) }
        }
        _ => return None,
    };
    Some(PgPosition { system_id, timeline, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_it_was_written() {
        let inside = Inside { commit: 0x1_0000_0001, ordinal: 12, of: 0x9A0B_1C2D };
        for place in [
            Place::Stream { lsn: 0x16B_3748, inside: None },
            Place::Stream { lsn: u64::MAX, inside: Some(inside) },
            Place::Snapshot { consistent: 7, rows: 3 },
        ] {
            let position = PgPosition { system_id: 7_309_123_456_789_012_345, timeline: 4, place };
            assert_eq!(PgPosition::parse(&position.to_position()).unwrap(), position);
        }
    }

    #[test]
    fn what_is_not_a_position_is_refused() {
        for text in [
            "",
            "0/16B3748",
            "pg sys=1 tl=1",
            "pg sys=1 tl=1 lsn=",
            "pg sys=1 tl=1 lsn=0/16B3748 ",
            "pg sys=1 tl=1 lsn=0/16B3748 ord=1",
            "pg sys=1 tl=1 lsn=0/16B3748 commit=0/2 ord=x of=1",
            "pg sys=-1 tl=1 lsn=0/1",
            "pg tl=1 sys=1 lsn=0/1",
            "pg sys=1 tl=1 lsn=0/16B3748 commit=0/2 ord=1 of=1 more=1",
        ] {
            assert!(PgPosition::parse(&Position::new(text)).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn inside_a_transaction_the_one_before_is_confirmed() {
        let text = Position::new("pg sys=1 tl=1 lsn=0/10 commit=0/20 ord=5 of=1");
        assert_eq!(PgPosition::parse(&text).unwrap().confirmable(), Some(0x10));
    }
}
