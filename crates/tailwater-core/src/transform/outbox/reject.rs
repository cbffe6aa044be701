//! What becomes of a change that cannot be published: kept whole, for a dead letter or for the operator.

use super::columns::Columns;
use crate::change::OldTuple;
use crate::encode::json::{Escapes, write_string};
use crate::encode::kind::Kind;
use crate::encode::plain;
use crate::route::Routed;
use crate::{Change, Event, Headers, Message, MessageId, Relation, Row, Timestamp, Tuple, Value};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// An id for a change that has none of its own: 128 bits, in hex, of a hash over (system identifier, commit LSN, commit
/// time, ordinal). Reading the log again gives it again, also from a promoted standby; a snapshot taken anew does not.
pub fn stable_id(change: &Change) -> MessageId {
    let mut hash = Sha256::new();
    hash.update(change.commit.system_id.to_be_bytes());
    hash.update(change.commit.lsn.to_be_bytes());
    hash.update(change.commit.time_us.to_be_bytes());
    hash.update(change.ordinal.to_be_bytes());
    let digest = hash.finalize();
    let mut text = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    MessageId(text.into())
}

/// A rejection that carries all that is known of the change.
pub fn rejected(change: &Change, columns: Option<&Columns>, reason: String) -> Routed {
    let (id, topic, key, payload, content_type) = match &change.event {
        Event::Row(row) => {
            let tuple = row.new.as_ref();
            let known = |pick: fn(&Columns) -> usize| {
                let value = tuple?.0.get(pick(columns?))?;
                plain::utf8(value).ok().flatten().filter(|text| !text.is_empty())
            };
            let id = known(|c| c.id.index).map(|text| MessageId(text.into()));
            let key = known(|c| c.key.index).map(|text| Bytes::copy_from_slice(text.as_bytes()));
            (id, known(|c| c.route.index).unwrap_or(""), key, row_json(row), "application/json")
        }
        Event::Truncate { relation, .. } => (None, "", None, table_json(relation), "application/json"),
        Event::Message(message) => (None, "", None, message.content.clone(), "application/octet-stream"),
        Event::Undecodable { raw, .. } => (None, "", None, raw.clone(), "application/octet-stream"),
    };
    let raw = Message {
        id: id.unwrap_or_else(|| stable_id(change)),
        topic: Arc::from(topic),
        event_type: None,
        key,
        headers: Headers::default(),
        content_type,
        payload: Some(payload),
        partition: None,
        timestamp: Timestamp(change.commit.time_us),
    };
    Routed::Rejected { reason, raw: Box::new(raw) }
}

/// `{"table": …, "row": {…}}`: the new row, or what is known of the old one.
fn row_json(row: &Row) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"table\":");
    let table = format!("{}.{}", row.relation.schema, row.relation.name);
    write_string(&mut out, &table, Escapes::Needed);
    out.extend_from_slice(b",\"row\":");
    let old = row.old.as_ref().map(|old| match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    });
    match row.new.as_ref().or(old) {
        Some(tuple) => write_tuple(&mut out, &row.relation, tuple),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out.into()
}

fn table_json(relation: &Relation) -> Bytes {
    let mut out = b"{\"table\":".to_vec();
    write_string(&mut out, &format!("{}.{}", relation.schema, relation.name), Escapes::Needed);
    out.push(b'}');
    out.into()
}

fn write_tuple(out: &mut Vec<u8>, relation: &Relation, tuple: &Tuple) {
    out.push(b'{');
    let mut first = true;
    for (column, value) in relation.columns.iter().zip(&tuple.0) {
        if *value == Value::Unchanged {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(out, &column.name, Escapes::Needed);
        out.push(b':');
        let from = out.len();
        if plain::write_json(out, Kind::of(column), value).is_err() {
            // Not readable as its type says: the bytes themselves, so that nothing is lost.
            out.truncate(from);
            match value {
                Value::Text(bytes) | Value::Binary(bytes) => plain::write_base64(out, bytes),
                Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
            }
        }
    }
    out.push(b'}');
}
