//! One message's bytes → [`PgOutput`]. Stateless; every access is checked, every value is a slice of the input.

use super::PgOutput;
use crate::change::OldTuple;
use crate::{Column, Relation, ReplicaIdentity, Tuple, Value};
use bytes::Bytes;
use std::sync::Arc;

/// Why bytes are not a message. Offsets count from the message's first byte. Never holds a row value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("ends at byte {length} where byte {wanted} was needed")]
    UnexpectedEnd { length: usize, wanted: usize },
    #[error("unknown message type {}", show(*.0))]
    UnknownMessage(u8),
    #[error("unknown tuple mark {} at byte {at}", show(*.mark))]
    UnknownTuple { mark: u8, at: usize },
    #[error("unknown column mark {} at byte {at}", show(*.mark))]
    UnknownColumn { mark: u8, at: usize },
    #[error("unknown replica identity {}", show(*.0))]
    UnknownIdentity(u8),
    #[error("negative length at byte {at}")]
    NegativeLength { at: usize },
    #[error("string without an end at byte {at}")]
    UnterminatedString { at: usize },
    #[error("name at byte {at} is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("{0} bytes more than the message needs")]
    TrailingBytes(usize),
}

fn show(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", byte as char) } else { format!("0x{byte:02x}") }
}

/// Decodes one message: the body of one XLogData, without its header.
pub fn decode(body: Bytes) -> Result<PgOutput, DecodeError> {
    let mut reader = Reader { bytes: &body, at: 0 };
    let message = match reader.u8()? {
        b'I' => {
            let relation = reader.u32()?;
            reader.new_mark()?;
            PgOutput::Insert { relation, new: reader.tuple()? }
        }
        b'U' => reader.update()?,
        b'D' => reader.delete()?,
        b'B' => PgOutput::Begin { final_lsn: reader.u64()?, time_pg_us: reader.i64()?, xid: reader.u32()? },
        b'C' => {
            reader.u8()?; // flags: unused in protocol 1
            PgOutput::Commit { commit_lsn: reader.u64()?, end_lsn: reader.u64()?, time_pg_us: reader.i64()? }
        }
        b'R' => PgOutput::Relation(reader.relation()?),
        b'T' => reader.truncate()?,
        b'M' => reader.message()?,
        b'O' => PgOutput::Origin { commit_lsn: reader.u64()?, name: reader.string()? },
        b'Y' => PgOutput::Type { oid: reader.u32()?, schema: reader.string()?, name: reader.string()? },
        other => return Err(DecodeError::UnknownMessage(other)),
    };
    match reader.remaining() {
        0 => Ok(message),
        more => Err(DecodeError::TrailingBytes(more)),
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.end(N)),
        }
    }

    #[cold]
    fn end(&self, wanted: usize) -> DecodeError {
        DecodeError::UnexpectedEnd { length: self.bytes.len(), wanted: self.at.saturating_add(wanted) }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A signed length or count as the protocol writes them.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let at = self.at;
        let length = self.array().map(i32::from_be_bytes)?;
        usize::try_from(length).map_err(|_| DecodeError::NegativeLength { at })
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.remaining() {
            return Err(self.end(length));
        }
        let from = self.at;
        self.at += length;
        Ok(self.bytes.slice(from..self.at))
    }

    /// A string that ends with a zero byte.
    fn string(&mut self) -> Result<Bytes, DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = memchr::memchr(0, rest).ok_or(DecodeError::UnterminatedString { at: self.at })?;
        let string = self.slice(length)?;
        self.at += 1;
        Ok(string)
    }

    fn name(&mut self) -> Result<Arc<str>, DecodeError> {
        let at = self.at;
        let string = self.string()?;
        std::str::from_utf8(&string).map(Arc::from).map_err(|_| DecodeError::NotUtf8 { at })
    }

    fn new_mark(&mut self) -> Result<(), DecodeError> {
        match self.u8()? {
            b'N' => Ok(()),
            mark => Err(DecodeError::UnknownTuple { mark, at: self.at - 1 }),
        }
    }

    /// `TupleData`: as many columns as the relation has.
    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let count = usize::from(self.u16()?);
        // Each column takes at least its mark, so what is allocated is bounded by what has arrived.
        let mut values = Vec::with_capacity(count.min(self.remaining()));
        for _ in 0..count {
            values.push(match self.u8()? {
                b't' => Value::Text(self.value()?),
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b'b' => Value::Binary(self.value()?),
                mark => return Err(DecodeError::UnknownColumn { mark, at: self.at - 1 }),
            });
        }
        Ok(Tuple(values))
    }

    fn value(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        self.slice(length)
    }

    fn update(&mut self) -> Result<PgOutput, DecodeError> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'N' => return Ok(PgOutput::Update { relation, old: None, new: self.tuple()? }),
            b'K' => OldTuple::Key(self.tuple()?),
            b'O' => OldTuple::Full(self.tuple()?),
            mark => return Err(DecodeError::UnknownTuple { mark, at: self.at - 1 }),
        };
        self.new_mark()?;
        Ok(PgOutput::Update { relation, old: Some(old), new: self.tuple()? })
    }

    fn delete(&mut self) -> Result<PgOutput, DecodeError> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'K' => OldTuple::Key(self.tuple()?),
            b'O' => OldTuple::Full(self.tuple()?),
            mark => return Err(DecodeError::UnknownTuple { mark, at: self.at - 1 }),
        };
        Ok(PgOutput::Delete { relation, old })
    }

    fn truncate(&mut self) -> Result<PgOutput, DecodeError> {
        let count = self.length()?;
        let options = self.u8()?;
        let mut relations = Vec::with_capacity(count.min(self.remaining() / 4));
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(PgOutput::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 })
    }

    fn message(&mut self) -> Result<PgOutput, DecodeError> {
        let transactional = self.u8()? & 1 != 0;
        let lsn = self.u64()?;
        let prefix = self.string()?;
        Ok(PgOutput::Message { transactional, lsn, prefix, content: self.value()? })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let oid = self.u32()?;
        let schema = match self.name()? {
            // The system schema is sent as an empty string.
            empty if empty.is_empty() => "pg_catalog".into(),
            schema => schema,
        };
        let name = self.name()?;
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => return Err(DecodeError::UnknownIdentity(other)),
        };
        let count = usize::from(self.u16()?);
        // Flags, an empty name's end, type and modifier: 10 bytes at least.
        let mut columns = Vec::with_capacity(count.min(self.remaining() / 10));
        for _ in 0..count {
            let key = self.u8()? & 1 != 0;
            let name = self.name()?;
            let type_oid = self.u32()?;
            let type_modifier = self.array().map(i32::from_be_bytes)?;
            columns.push(Column { name, type_oid, type_modifier, key, catalog: None });
        }
        Ok(Relation { oid, schema, name, identity, columns })
    }
}
