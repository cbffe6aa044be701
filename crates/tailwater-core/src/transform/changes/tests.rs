//! What differs from Debezium by default, what is refused, and the order of several records. The rest is in tests/golden.

use super::*;
use crate::change::{ColumnCatalog, OldTuple};
use crate::encode::connect::{ConnectRecord, Converter, Converters, Typed};
use crate::pgoutput::oid;
use crate::route::{Compatibility, Format, Route, Routed};
use crate::transform::chain::ChainRoute;
use crate::{
    Change, Column, Commit, Event, Message, Operation, Relation, ReplicaIdentity, Row, SnapshotMarker, Tuple, Value,
};
use bytes::Bytes;
use std::sync::Arc;

fn column(name: &str, type_oid: u32) -> Column {
    let catalog = ColumnCatalog { type_name: "some type".into(), ..ColumnCatalog::default() };
    Column { name: name.into(), type_oid, type_modifier: -1, key: false, catalog: Some(catalog) }
}

fn with(mut column: Column, change: impl FnOnce(&mut ColumnCatalog)) -> Column {
    change(column.catalog.as_mut().unwrap());
    column
}

/// `id integer primary key`, and these.
fn table(more: Vec<Column>) -> Relation {
    let mut id = with(column("id", oid::INT4), |catalog| {
        catalog.not_null = true;
        catalog.primary_key = Some(1);
    });
    id.key = true;
    let columns = std::iter::once(id).chain(more).collect();
    Relation { oid: 5, schema: "public".into(), name: "t".into(), identity: ReplicaIdentity::Default, columns }
}

fn tuple(values: &[Option<&str>]) -> Tuple {
    let value =
        |value: &Option<&str>| value.map_or(Value::Null, |text| Value::Text(Bytes::copy_from_slice(text.as_bytes())));
    Tuple(values.iter().map(value).collect())
}

fn change(relation: &Relation, operation: Operation, old: Option<OldTuple>, new: Option<Tuple>) -> Change {
    let commit = Commit { lsn: 100, time_us: 1_700_000_000_123_456, xid: Some(7), ..Commit::default() };
    let row = Row { operation, relation: Arc::new(relation.clone()), old, new };
    Change { commit: Arc::new(commit), ordinal: 0, lsn: 90, marker: None, event: Event::Row(row) }
}

fn insert(relation: &Relation, values: &[Option<&str>]) -> Change {
    change(relation, Operation::Insert, None, Some(tuple(values)))
}

fn settings(compatibility: Compatibility) -> ChangeSettings {
    ChangeSettings { compatibility, topic_prefix: "app".into(), database: "shop".into(), ..ChangeSettings::default() }
}

fn router(options: ChangeOptions, compatibility: Compatibility) -> ChangeRouter {
    ChangeRouter::new(&options, &settings(compatibility)).unwrap()
}

fn records(change: &Change) -> Vec<ConnectRecord> {
    match router(ChangeOptions::default(), Compatibility::Default).records(change) {
        Ok(Outcome::Records(records)) => records,
        other => panic!("{other:?}"),
    }
}

fn refusal(relation: &Relation, change: &Change) -> String {
    let mut router = router(ChangeOptions::default(), Compatibility::Default);
    let _ = router.check(&Arc::new(relation.clone()));
    router.records(change).unwrap_err()
}

fn json(value: &Typed) -> String {
    let converter = Converter::of(Format::Json, false, Compatibility::Default);
    String::from_utf8(converter.bytes(value).unwrap().unwrap().to_vec()).unwrap()
}

#[test]
fn an_insert_is_an_envelope_with_the_key_of_the_primary_key() {
    let table = table(vec![column("name", oid::TEXT)]);
    let [record] = &records(&insert(&table, &[Some("1"), Some("a")]))[..] else { panic!("one record") };
    assert_eq!((&*record.topic, json(&record.key).as_str()), ("app.public.t", r#"{"id":1}"#));
    let expected = format!(
        concat!(
            r#"{{"before":null,"after":{{"id":1,"name":"a"}},"source":{{"version":"{}","connector":"postgresql","#,
            r#""name":"app","ts_ms":1700000000123,"snapshot":"false","db":"shop","sequence":"[null,\"90\"]","#,
            r#""ts_us":1700000000123456,"ts_ns":1700000000123456000,"schema":"public","table":"t","txId":7,"lsn":90,"#,
            r#""xmin":null,"origin":null,"origin_lsn":null}},"transaction":null,"op":"c","ts_ms":1700000000123,"#,
            r#""ts_us":1700000000123456,"ts_ns":1700000000123456000}}"#
        ),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(json(&record.value), expected);
}

#[test]
fn a_null_stays_null_although_its_column_has_a_default() {
    let table = table(vec![with(column("qty", oid::INT4), |catalog| catalog.default = Some("3".into()))]);
    let records = records(&insert(&table, &[Some("1"), None]));
    assert!(json(&records[0].value).contains(r#""after":{"id":1,"qty":null}"#));
}

#[test]
fn nothing_is_made_up_for_what_is_not_in_the_log() {
    let table = table(vec![with(column("qty", oid::INT4), |catalog| {
        catalog.not_null = true;
        catalog.default = Some("3".into());
    })]);
    let delete = change(&table, Operation::Delete, Some(OldTuple::Key(tuple(&[Some("1"), None]))), None);
    let records = records(&delete);
    assert!(json(&records[0].value).contains(r#""before":{"id":1,"qty":null},"after":null"#));
    let schema = records[0].value.schema.as_ref().unwrap();
    let optional = |part: &str| schema.field(part).unwrap().schema.field("qty").unwrap().schema.optional;
    assert!(optional("before"), "null is allowed where it is written");
    assert!(!optional("after"));
    let strict = router(ChangeOptions::default(), Compatibility::Strict).records(&delete).unwrap();
    let Outcome::Records(strict) = strict else { panic!("{strict:?}") };
    assert!(json(&strict[0].value).contains(r#""before":{"id":1,"qty":3}"#));
}

#[test]
fn a_delete_is_followed_by_its_tombstone_unless_told_otherwise() {
    let table = table(vec![]);
    let delete = change(&table, Operation::Delete, Some(OldTuple::Key(tuple(&[Some("1")]))), None);
    let both = records(&delete);
    assert_eq!(both.len(), 2);
    assert!(both[1].value.is_none() && both[0].key == both[1].key && both[0].id != both[1].id);
    let options = ChangeOptions { tombstones_on_delete: false, ..ChangeOptions::default() };
    let Ok(Outcome::Records(one)) = router(options, Compatibility::Default).records(&delete) else { panic!("records") };
    assert_eq!(one.len(), 1);
}

#[test]
fn a_changed_key_is_a_delete_a_tombstone_and_a_create() {
    let table = table(vec![column("name", oid::TEXT)]);
    let old = OldTuple::Key(tuple(&[Some("1"), None]));
    let update = change(&table, Operation::Update, Some(old), Some(tuple(&[Some("2"), Some("a")])));
    let records = records(&update);
    let keys: Vec<String> = records.iter().map(|record| json(&record.key)).collect();
    assert_eq!(keys, [r#"{"id":1}"#, r#"{"id":1}"#, r#"{"id":2}"#]);
    let headers: Vec<&str> = records.iter().map(|record| &*record.headers[0].name).collect();
    assert_eq!(headers, ["__debezium.newkey", "__debezium.newkey", "__debezium.oldkey"]);
    assert!(json(&records[2].value).contains(r#""before":null,"after":{"id":2,"name":"a"}"#));
    let mut ids: Vec<&str> = records.iter().map(|record| &*record.id.0).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_value_that_an_update_did_not_touch_is_the_placeholder_or_the_old_one() {
    let mut table = table(vec![column("big", oid::TEXT)]);
    let new = Tuple(vec![tuple(&[Some("1")]).0.remove(0), Value::Unchanged]);
    let records_of = |table: &Relation, old| records(&change(table, Operation::Update, old, Some(new.clone())));
    assert!(json(&records_of(&table, None)[0].value).contains(r#""big":"__debezium_unavailable_value""#));
    table.identity = ReplicaIdentity::Full;
    let old = OldTuple::Full(tuple(&[Some("1"), Some("kept")]));
    assert!(json(&records_of(&table, Some(old))[0].value).contains(r#""after":{"id":1,"big":"kept"}"#));
    table.identity = ReplicaIdentity::Default;
    table.columns[1].type_oid = oid::NUMERIC;
    assert!(refusal(&table, &change(&table, Operation::Update, None, Some(new))).contains("REPLICA IDENTITY FULL"));
}

#[test]
fn rows_of_a_snapshot_say_where_in_it_they_stand() {
    let mut row = change(&table(vec![]), Operation::Snapshot, None, Some(tuple(&[Some("1")])));
    row.marker = Some(SnapshotMarker::FirstInTable);
    row.lsn = 0;
    let value = json(&records(&row)[0].value);
    assert!(value.contains(r#""snapshot":"first_in_data_collection""#) && value.contains(r#""op":"r""#), "{value}");
    assert!(value.contains(r#""sequence":"[null,\"100\"]""#), "{value}");
}

#[test]
fn a_type_that_is_not_covered_is_refused_by_name_and_can_be_left_out() {
    let table = table(vec![column("secret", oid::TSQUERY)]);
    let row = insert(&table, &[Some("1"), Some("'a'")]);
    let reason = refusal(&table, &row);
    assert!(reason.contains("some type") && reason.contains("column.exclude.list=public.t.secret"), "{reason}");
    let options = ChangeOptions { column_exclude: Some("public.t.SECRET".into()), ..ChangeOptions::default() };
    let Ok(Outcome::Records(left)) = router(options, Compatibility::Default).records(&row) else { panic!("records") };
    assert!(json(&left[0].value).contains(r#""after":{"id":1}"#));
}

#[test]
fn a_key_that_is_not_in_the_log_is_refused() {
    let mut table = table(vec![column("code", oid::TEXT)]);
    table.identity = ReplicaIdentity::Index;
    (table.columns[0].key, table.columns[1].key) = (false, true);
    let delete = change(&table, Operation::Delete, Some(OldTuple::Key(tuple(&[None, Some("x")]))), None);
    assert!(refusal(&table, &delete).contains("REPLICA IDENTITY FULL"));
    assert_eq!(records(&insert(&table, &[Some("1"), Some("x")])).len(), 1);
}

#[test]
fn what_debezium_loses_is_kept_or_refused() {
    let name = table(vec![column("name", oid::NAME)]);
    assert!(json(&records(&insert(&name, &[Some("1"), Some("n")]))[0].value).contains(r#""name":"n""#));
    let times = table(vec![column("at", 1183)]);
    let value = json(&records(&insert(&times, &[Some("1"), Some("{12:34:56.789012}")]))[0].value);
    assert!(value.contains(r#""at":[45296789012]"#), "{value}");
    let number = table(vec![column("n", oid::NUMERIC)]);
    assert!(refusal(&number, &insert(&number, &[Some("1"), Some("NaN")])).contains("column n"));
    let mut rounded = table(vec![column("n", oid::NUMERIC)]);
    rounded.columns[1].type_modifier = (3 << 16 | 0x7FE) + 4; // numeric(3,-2)
    let record = records(&insert(&rounded, &[Some("1"), Some("12300")])).remove(0);
    assert!(json(&record.value).contains(r#""n":"MAw=""#), "12300 with scale 0");
}

#[test]
fn a_table_that_was_altered_has_its_new_schema() {
    let mut router = router(ChangeOptions::default(), Compatibility::Default);
    let mut fields = |columns, values: &[Option<&str>]| match router.records(&insert(&table(columns), values)) {
        Ok(Outcome::Records(records)) => {
            records[0].value.schema.as_ref().unwrap().field("after").unwrap().schema.fields().len()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(fields(vec![], &[Some("1")]), 1);
    assert_eq!(fields(vec![column("a", oid::TEXT)], &[Some("1"), None]), 2);
}

#[test]
fn the_route_rejects_with_the_row_and_filters_with_a_name() {
    let converter = Converter::of(Format::Json, true, Compatibility::Default);
    let converters = Converters { key: converter, value: converter, header: Converter::new(Format::Plain) };
    let options = ChangeOptions { skipped_operations: "c,t".into(), ..ChangeOptions::default() };
    let mut route = ChainRoute::new(&[], &options, &settings(Compatibility::Default), converters).unwrap();
    let bad = table(vec![column("q", oid::TSQUERY)]);
    assert_eq!(route.apply(&insert(&bad, &[Some("1"), Some("x")])), Routed::Filtered("insert"));
    let update = change(&bad, Operation::Update, None, Some(tuple(&[Some("1"), Some("x")])));
    let Routed::Rejected { raw, .. } = route.apply(&update) else { panic!("rejected") };
    assert!(raw.payload.is_some_and(|row| row.starts_with(b"{\"table\":\"public.t\"")));
    let delete = change(&table(vec![]), Operation::Delete, Some(OldTuple::Key(tuple(&[Some("1")]))), None);
    let Routed::Messages(messages) = route.apply(&delete) else { panic!("two messages") };
    let [Message { payload: Some(payload), .. }, Message { payload: None, .. }] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert!(payload.starts_with(br#"{"schema":{"type":"struct","fields":[{"type":"struct""#));
}

#[test]
fn options_that_cannot_work_are_named() {
    let of = |options: ChangeOptions| ChangeRouter::new(&options, &ChangeSettings::default()).unwrap_err().to_string();
    let options = ChangeOptions::default;
    assert!(of(ChangeOptions { skipped_operations: "x".into(), ..options() }).contains("skipped_operations"));
    assert!(of(ChangeOptions { message_key_columns: Some("t".into()), ..options() }).contains("message_key_columns"));
    let both = ChangeOptions { column_include: Some("a".into()), column_exclude: Some("b".into()), ..options() };
    assert!(of(both).contains("together"));
    assert!(of(ChangeOptions { column_include: Some("(".into()), ..options() }).contains("column_include"));
    assert!(of(ChangeOptions { topic_delimiter: "/".into(), ..options() }).contains("topic_delimiter"));
    assert!(serde_json::from_str::<ChangeOptions>(r#"{"decimals":"string"}"#).is_err());
}
