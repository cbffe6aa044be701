//! What routing one event costs: `cargo run --release -p tailwater-core --example route_events`.
//!
//! The report recipe (expansion, two envelope placements) over a payload of 300 bytes, in the default mode and in strict
//! compatibility, in a chain of transforms, and reading the row from its `pgoutput` bytes. Rounds are short, and the best one counts beside the
//! median: on a busy machine the median holds other programs too.

use bytes::Bytes;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use tailwater_core::encode::connect::{Converter, Converters};
use tailwater_core::pgoutput::{PgOutput, decode, encode};
use tailwater_core::route::{Compatibility, Format, Route, Routed};
use tailwater_core::transform::chain::{ChainRoute, Transform};
use tailwater_core::transform::changes::{ChangeOptions, ChangeSettings};
use tailwater_core::transform::outbox::{OutboxOptions, OutboxRouter, RouteSettings};
use tailwater_core::{Change, Column, Commit, Event, Operation, Relation, ReplicaIdentity, Row, Tuple, Value};

const EVENTS: usize = 1_000;
const ROUNDS: usize = 500;

fn main() {
    let change = change();
    for (name, compatibility) in [("default", Compatibility::Default), ("strict", Compatibility::Strict)] {
        let settings = RouteSettings { compatibility, ..RouteSettings::default() };
        let mut router = OutboxRouter::new(&recipe(), settings).expect("the recipe is a valid configuration");
        assert!(matches!(router.apply(&change), Routed::Message(_)), "the row is routed");
        println!("{name}: {} per event", cost(|| drop(black_box(router.apply(black_box(&change))))));
    }
    for (name, schemas) in [("chain", false), ("chain with schemas", true)] {
        let mut chain = chain(schemas);
        assert!(matches!(chain.apply(&change), Routed::Message(_)), "the row is routed");
        println!("{name}: {} per event", cost(|| drop(black_box(chain.apply(black_box(&change))))));
    }
    let Event::Row(Row { new: Some(new), .. }) = &change.event else { return };
    let body = encode(&PgOutput::Insert { relation: 1, new: new.clone() });
    println!("decode: {} per row", cost(|| drop(black_box(decode(black_box(body.clone()))))));
}

/// The same recipe as a link of a chain.
fn chain(schemas: bool) -> ChainRoute {
    let converter = |format, schemas| Converter::of(format, schemas, Compatibility::Default);
    let value = converter(Format::Json, schemas);
    let converters = Converters { key: value, value, header: converter(Format::Plain, false) };
    let links = [Transform::EventRouter(recipe()).into()];
    ChainRoute::new(&links, &ChangeOptions::default(), &ChangeSettings::default(), converters)
        .expect("the recipe is a valid configuration")
}

fn cost(mut step: impl FnMut()) -> String {
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..EVENTS).for_each(|_| step());
            start.elapsed().as_nanos() / EVENTS as u128
        })
        .collect();
    rounds.sort_unstable();
    format!("{} ns (median {} ns)", rounds[0], rounds[ROUNDS / 2])
}

fn recipe() -> OutboxOptions {
    OutboxOptions {
        key_column: "idempotency_key".into(),
        placement: Some("event_type:envelope:event_type,idempotency_key:envelope:idempotency_key".into()),
        expand_json: true,
        route_by: "event_type".into(),
        topic_replacement: "${routedByValue}".into(),
        ..OutboxOptions::default()
    }
}

fn change() -> Change {
    let payload = format!("{{\"user_id\": 42, \"format\": \"csv\", \"note\": \"{}\"}}", "x".repeat(250));
    let columns = [
        ("id", 20, "12345"),
        ("event_type", 25, "report.requested"),
        ("user_id", 20, "42"),
        ("occurred_at", 1184, "2026-01-01 10:00:00.123456+00"),
        ("idempotency_key", 25, "report-42-2026-01-01"),
        ("payload", 3802, &payload),
    ];
    let column = |(name, type_oid, _): &(&str, u32, &str)| Column {
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
        key: false,
        catalog: None,
    };
    let relation = Relation {
        oid: 1,
        schema: "public".into(),
        name: "outbox".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    };
    let values = columns.iter().map(|(.., text)| Value::Text(Bytes::copy_from_slice(text.as_bytes())));
    let row = Row {
        operation: Operation::Insert,
        relation: Arc::new(relation),
        old: None,
        new: Some(Tuple(values.collect())),
    };
    Change { commit: Arc::new(Commit::default()), ordinal: 0, lsn: 0, marker: None, event: Event::Row(row) }
}
