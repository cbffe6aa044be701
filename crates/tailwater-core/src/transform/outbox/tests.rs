//! The router, option by option: rows in, messages out.

mod columns;
mod payload;
mod recipe;

use super::*;
use crate::change::OldTuple;
use crate::route::{Compatibility, Format, Route, Routed};
use crate::{
    Change, Column, Commit, Event, HeaderValue, LogicalMessage, Message, Operation, Relation, ReplicaIdentity, Row,
    Tuple, Value,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

const TEXT: u32 = 25;
const INT4: u32 = 23;
const INT8: u32 = 20;
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const JSON: u32 = 114;
const JSONB: u32 = 3802;
const UUID: u32 = 2950;
const TIMESTAMPTZ: u32 = 1184;

fn relation(name: &str, columns: &[(&str, u32)]) -> Arc<Relation> {
    let columns = columns
        .iter()
        .map(|(name, type_oid)| Column {
            name: (*name).into(),
            type_oid: *type_oid,
            type_modifier: -1,
            key: false,
            catalog: None,
        })
        .collect();
    Arc::new(Relation {
        oid: 1000 + name.len() as u32,
        schema: "public".into(),
        name: name.into(),
        identity: ReplicaIdentity::Default,
        columns,
    })
}

fn tuple(values: &[Option<&str>]) -> Tuple {
    let value =
        |text: &Option<&str>| text.map_or(Value::Null, |text| Value::Text(Bytes::copy_from_slice(text.as_bytes())));
    Tuple(values.iter().map(value).collect())
}

fn row(operation: Operation, relation: &Arc<Relation>, values: &[Option<&str>]) -> Change {
    let (old, new) = match operation {
        Operation::Delete => (Some(OldTuple::Full(tuple(values))), None),
        _ => (None, Some(tuple(values))),
    };
    change(Event::Row(Row { operation, relation: Arc::clone(relation), old, new }))
}

fn change(event: Event) -> Change {
    let commit = Commit {
        system_id: 7,
        lsn: 100,
        end_lsn: 108,
        time_us: 1_700_000_000_000_000,
        xid: Some(1),
        ..Commit::default()
    };
    Change { commit: Arc::new(commit), ordinal: 3, lsn: 90, marker: None, event }
}

/// Debezium's own default table.
fn standard() -> Arc<Relation> {
    relation(
        "outbox",
        &[("id", UUID), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("type", TEXT), ("payload", JSONB)],
    )
}

const ID: &str = "da8d6de6-3b77-45ff-8f44-57db55a7a06c";

fn insert(relation: &Arc<Relation>, values: &[Option<&str>]) -> Change {
    row(Operation::Insert, relation, values)
}

fn user_created(payload: Option<&str>) -> Change {
    insert(&standard(), &[Some(ID), Some("User"), Some("10711fa5"), Some("UserCreated"), payload])
}

fn router(options: &OutboxOptions) -> OutboxRouter {
    OutboxRouter::new(options, RouteSettings::default()).unwrap()
}

fn router_with(options: &OutboxOptions, change: impl FnOnce(&mut RouteSettings)) -> OutboxRouter {
    let mut settings = RouteSettings::default();
    change(&mut settings);
    OutboxRouter::new(options, settings).unwrap()
}

#[track_caller]
fn message(routed: Routed) -> Message {
    match routed {
        Routed::Message(message) => message,
        other => panic!("expected a message, not {other:?}"),
    }
}

#[track_caller]
fn rejection(routed: Routed) -> (String, Message) {
    match routed {
        Routed::Rejected { reason, raw } => (reason, *raw),
        other => panic!("expected a rejection, not {other:?}"),
    }
}

fn body(message: &Message) -> &str {
    std::str::from_utf8(message.payload.as_deref().expect("not a tombstone")).unwrap()
}

fn headers(message: &Message) -> Vec<(&str, HeaderValue)> {
    message.headers.0.iter().map(|h| (&*h.name, h.value.clone())).collect()
}

fn placed(placement: &str) -> OutboxOptions {
    OutboxOptions { placement: Some(placement.into()), expand_json: true, ..OutboxOptions::default() }
}
