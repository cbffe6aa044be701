//! [`PgOutput`] → bytes: the decoder's mirror, for tests, fuzzing and recorded streams. The relay itself never encodes.

use super::PgOutput;
use crate::change::OldTuple;
use crate::{Relation, ReplicaIdentity, Tuple, Value};
use bytes::{BufMut, Bytes, BytesMut};

/// Encodes one message. `decode(encode(m)) == m` as long as no string holds a zero byte, no tuple has more than 65,535
/// columns and no value is longer than 2 GiB: the limits of the format.
pub fn encode(message: &PgOutput) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    match message {
        PgOutput::Begin { final_lsn, time_pg_us, xid } => {
            out.put_u8(b'B');
            out.put_u64(*final_lsn);
            out.put_i64(*time_pg_us);
            out.put_u32(*xid);
        }
        PgOutput::Commit { commit_lsn, end_lsn, time_pg_us } => {
            out.put_slice(b"C\0");
            out.put_u64(*commit_lsn);
            out.put_u64(*end_lsn);
            out.put_i64(*time_pg_us);
        }
        PgOutput::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(*commit_lsn);
            put_string(&mut out, name);
        }
        PgOutput::Relation(relation) => put_relation(&mut out, relation),
        PgOutput::Type { oid, schema, name } => {
            out.put_u8(b'Y');
            out.put_u32(*oid);
            put_string(&mut out, schema);
            put_string(&mut out, name);
        }
        PgOutput::Insert { relation, new } => {
            put_head(&mut out, b'I', *relation);
            put_tuple(&mut out, b'N', new);
        }
        PgOutput::Update { relation, old, new } => {
            put_head(&mut out, b'U', *relation);
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        PgOutput::Delete { relation, old } => {
            put_head(&mut out, b'D', *relation);
            put_old(&mut out, old);
        }
        PgOutput::Truncate { relations, cascade, restart_identity } => {
            put_head(&mut out, b'T', relations.len() as u32);
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|oid| out.put_u32(*oid));
        }
        PgOutput::Message { transactional, lsn, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8(u8::from(*transactional));
            out.put_u64(*lsn);
            put_string(&mut out, prefix);
            put_value(&mut out, content);
        }
    }
    out.freeze()
}

fn put_head(out: &mut BytesMut, kind: u8, number: u32) {
    out.put_u8(kind);
    out.put_u32(number);
}

fn put_string(out: &mut BytesMut, string: &[u8]) {
    out.put_slice(string);
    out.put_u8(0);
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

fn put_old(out: &mut BytesMut, old: &OldTuple) {
    match old {
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut BytesMut, mark: u8, tuple: &Tuple) {
    out.put_u8(mark);
    out.put_u16(tuple.0.len() as u16);
    for value in &tuple.0 {
        match value {
            Value::Null => out.put_u8(b'n'),
            Value::Unchanged => out.put_u8(b'u'),
            Value::Text(text) => {
                out.put_u8(b't');
                put_value(out, text);
            }
            Value::Binary(bytes) => {
                out.put_u8(b'b');
                put_value(out, bytes);
            }
        }
    }
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    put_head(out, b'R', relation.oid);
    let schema = if &*relation.schema == "pg_catalog" { "" } else { &relation.schema };
    put_string(out, schema.as_bytes());
    put_string(out, relation.name.as_bytes());
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(relation.columns.len() as u16);
    for column in &relation.columns {
        out.put_u8(u8::from(column.key));
        put_string(out, column.name.as_bytes());
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}
