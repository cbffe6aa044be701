//! Each transform by default, and what is refused. What it gives in strict compatibility is in tests/golden.

mod outbox;
mod unwrap;

use super::*;
use crate::change::{ColumnCatalog, OldTuple};
use crate::encode::connect::{Converter, Converters};
use crate::pgoutput::oid;
use crate::route::{Compatibility, Format, Route, Routed};
use crate::transform::changes::{ChangeOptions, ChangeSettings};
use crate::{
    Change, Column, Commit, Event, LogicalMessage, Message, Operation, Relation, ReplicaIdentity, Row, Tuple, Value,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

/// The first column is the primary key.
fn table(name: &str, columns: &[(&str, u32)]) -> Arc<Relation> {
    let column = |(index, (name, type_oid)): (usize, &(&str, u32))| Column {
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
        key: index == 0,
        catalog: Some(ColumnCatalog {
            not_null: index == 0,
            primary_key: (index == 0).then_some(1),
            ..ColumnCatalog::default()
        }),
    };
    Arc::new(Relation {
        oid: 1000 + name.len() as u32,
        schema: "public".into(),
        name: name.into(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().enumerate().map(column).collect(),
    })
}

fn tuple(values: &[Option<&str>]) -> Tuple {
    let value =
        |text: &Option<&str>| text.map_or(Value::Null, |text| Value::Text(Bytes::copy_from_slice(text.as_bytes())));
    Tuple(values.iter().map(value).collect())
}

fn change(event: Event) -> Change {
    let commit = Commit { lsn: 100, time_us: 1_700_000_000_123_456, xid: Some(7), ..Commit::default() };
    Change { commit: Arc::new(commit), ordinal: 0, lsn: 90, marker: None, event }
}

fn row(relation: &Arc<Relation>, operation: Operation, old: Option<OldTuple>, new: Option<Tuple>) -> Change {
    change(Event::Row(Row { operation, relation: Arc::clone(relation), old, new }))
}

fn insert(relation: &Arc<Relation>, values: &[Option<&str>]) -> Change {
    row(relation, Operation::Insert, None, Some(tuple(values)))
}

fn message_of(prefix: &str, content: &str) -> Change {
    let (prefix, content) = (Bytes::copy_from_slice(prefix.as_bytes()), Bytes::copy_from_slice(content.as_bytes()));
    change(Event::Message(LogicalMessage { transactional: true, prefix, content }))
}

fn converters(compatibility: Compatibility, schemas: bool) -> Converters {
    let json = Converter::of(Format::Json, schemas, compatibility);
    Converters { key: json, value: json, header: Converter::of(Format::Plain, false, compatibility) }
}

fn build_with(links: &[Link], compatibility: Compatibility, schemas: bool) -> Result<ChainRoute, ChainConfigError> {
    let settings = ChangeSettings { compatibility, topic_prefix: "app".into(), ..ChangeSettings::default() };
    ChainRoute::new(links, &ChangeOptions::default(), &settings, converters(compatibility, schemas))
}

/// By default, without schemas.
fn chain(links: &[Link]) -> ChainRoute {
    build_with(links, Compatibility::Default, false).unwrap()
}

#[track_caller]
fn messages(routed: Routed) -> Vec<Message> {
    match routed {
        Routed::Message(message) => vec![message],
        Routed::Messages(messages) => messages,
        other => panic!("expected messages, not {other:?}"),
    }
}

#[track_caller]
fn one(routed: Routed) -> Message {
    match <[Message; 1]>::try_from(messages(routed)) {
        Ok([message]) => message,
        Err(messages) => panic!("expected one message, not {messages:?}"),
    }
}

#[track_caller]
fn reason(routed: Routed) -> String {
    match routed {
        Routed::Rejected { reason, .. } => reason,
        other => panic!("expected a rejection, not {other:?}"),
    }
}

/// `tombstone` for no body.
fn body(message: &Message) -> &str {
    message.payload.as_deref().map_or("tombstone", |body| std::str::from_utf8(body).unwrap())
}

fn router(predicate: Option<Predicate>, negate: bool) -> Link {
    Link { transform: Transform::EventRouter(OutboxOptions::default()), predicate, negate }
}

fn regex(regex: &str, replacement: &str) -> Link {
    Transform::RegexRouter(RegexRouterOptions { regex: regex.into(), replacement: replacement.into() }).into()
}

#[test]
fn links_are_configured_by_type_with_their_options_beside_it() {
    let text = r#"[
        {"type": "event_router", "key_column": "k", "predicate": {"topic_name_matches": "app\\..*"}, "negate": true},
        {"type": "regex_router", "regex": "a", "replacement": "b", "predicate": "record_is_tombstone"},
        {"type": "extract_new_record_state", "deletes": "delete-to-tombstone", "predicate": {"has_header_key": "h"}},
        {"type": "decode_logical_decoding_message_content"}
    ]"#;
    let links: Vec<Link> = serde_json::from_str(text).unwrap();
    let options = OutboxOptions { key_column: "k".into(), ..OutboxOptions::default() };
    let predicate = Some(Predicate::TopicNameMatches("app\\..*".into()));
    assert_eq!(links[0], Link { transform: Transform::EventRouter(options), predicate, negate: true });
    assert_eq!(links[1].predicate, Some(Predicate::RecordIsTombstone));
    assert_eq!(links[2].predicate, Some(Predicate::HasHeaderKey("h".into())));
    assert_eq!(links[3], Transform::DecodeLogicalDecodingMessageContent(DecodeOptions::default()).into());
    let again: Vec<Link> = serde_json::from_str(&serde_json::to_string(&links).unwrap()).unwrap();
    assert_eq!(again, links);
}

#[test]
fn a_transform_or_an_option_that_is_not_offered_is_refused_by_name() {
    for (text, name) in [
        (r#"{"type": "insert_header", "header": "x"}"#, "insert_header"),
        (r#"{"type": "event_router", "key_colum": "k"}"#, "key_colum"),
        (r#"{"type": "regex_router", "regex": "a"}"#, "replacement"),
        (r#"{"type": "extract_new_record_state", "drop_fields_header": "h"}"#, "drop_fields_header"),
        (
            r#"{"type": "regex_router", "regex": "a", "replacement": "b", "predicate": {"value_matches": "h"}}"#,
            "value_matches",
        ),
    ] {
        let error = serde_json::from_str::<Link>(text).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let refusal = |links: &[Link], strict: bool| {
        let compatibility = if strict { Compatibility::Strict } else { Compatibility::Default };
        build_with(links, compatibility, false).unwrap_err().to_string()
    };
    let ok = regex("a", "b");
    assert!(refusal(&[ok.clone(), regex("(", "b")], true).starts_with("transform 2: "));
    assert!(refusal(&[regex("a", "$7")], true).contains("$7"));
    assert!(refusal(&[router(Some(Predicate::TopicNameMatches("[".into())), false)], true).contains("\"[\""));
    assert!(refusal(&[Link { negate: true, ..ok.clone() }], true).contains("negate"));
    let outbox = OutboxOptions { placement: Some("type:nowhere".into()), ..OutboxOptions::default() };
    assert!(refusal(&[Transform::EventRouter(outbox).into()], true).contains("nowhere"));
    for (add_fields, strict) in [("source", true), ("after", false), ("a:b:c", true), ("op,nope", false), ("x.y", true)]
    {
        let options = UnwrapOptions { add_fields: Some(add_fields.into()), ..UnwrapOptions::default() };
        let error = refusal(&[Transform::ExtractNewRecordState(options).into()], strict);
        assert!(error.contains("add_fields"), "{error}");
    }
}

#[test]
fn formats_that_cannot_end_a_chain_are_refused() {
    let refusal = |converters: Converters| {
        let settings = ChangeSettings { topic_prefix: "app".into(), ..ChangeSettings::default() };
        ChainRoute::new(&[], &ChangeOptions::default(), &settings, converters).unwrap_err().to_string()
    };
    let good = converters(Compatibility::Default, false);
    let of = |format| Converter::new(format);
    assert!(refusal(Converters { key: of(Format::Plain), ..good }).contains("keys"));
    assert!(refusal(Converters { value: of(Format::Binary), ..good }).contains("values"));
    assert!(refusal(Converters { header: of(Format::Binary), ..good }).contains("headers"));
    let schemas = Converter { schemas: true, ..of(Format::String) };
    assert!(refusal(Converters { value: schemas, ..good }).contains("json"));
}

#[test]
fn links_work_one_after_the_other_on_what_the_one_before_made() {
    let table = table("t", &[("id", oid::INT4)]);
    let twice = [regex("app\\.public\\.(.*)", "x-$1"), regex("x-(.*)", "y-$1"), regex("nothing", "z")];
    assert_eq!(&*one(chain(&twice).apply(&insert(&table, &[Some("1")]))).topic, "y-t");
}

#[test]
fn a_predicate_decides_by_what_reaches_its_link() {
    let table = table("t", &[("id", oid::INT4)]);
    let delete = row(&table, Operation::Delete, Some(OldTuple::Key(tuple(&[Some("1")]))), None);
    let topics = |predicate: Predicate, negate: bool| -> Vec<String> {
        let link = Link { predicate: Some(predicate), negate, ..regex(".*", "moved") };
        messages(chain(&[link]).apply(&delete)).iter().map(|message| message.topic.to_string()).collect()
    };
    let stays = "app.public.t";
    assert_eq!(topics(Predicate::RecordIsTombstone, false), [stays, "moved"]);
    assert_eq!(topics(Predicate::RecordIsTombstone, true), ["moved", stays]);
    assert_eq!(topics(Predicate::TopicNameMatches("app\\..*".into()), false), ["moved", "moved"]);
    assert_eq!(topics(Predicate::TopicNameMatches("app".into()), false), [stays, stays], "the whole topic must match");
    assert_eq!(topics(Predicate::HasHeaderKey("h".into()), false), [stays, stays]);
    assert_eq!(topics(Predicate::HasHeaderKey("h".into()), true), ["moved", "moved"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Rows and messages of anything: an answer, never a panic, in all four kinds of chains.
    #[test]
    fn no_row_and_no_message_makes_a_chain_panic(
        texts in proptest::collection::vec(proptest::option::of(".{0,12}|[\\[{\"a:1,.e}\\]-]{0,24}|[0-9]{1,20}"), 6),
        strict: bool,
        schemas: bool,
        expand_json: bool,
        oids in proptest::collection::vec(
            proptest::sample::select(vec![oid::TEXT, oid::INT4, oid::JSONB, oid::BYTEA, oid::NUMERIC, oid::TIMESTAMP, oid::UUID]),
            6,
        ),
    ) {
        let names = ["id", "aggregatetype", "aggregateid", "type", "payload", "more"];
        let columns: Vec<(&str, u32)> = names.into_iter().zip(oids).collect();
        let table = table("outbox", &columns);
        let values: Vec<Option<&str>> = texts.iter().map(|text| text.as_deref()).collect();
        let options = OutboxOptions {
            expand_json,
            placement: Some("more:header,type:envelope,more:partition".into()),
            ..OutboxOptions::default()
        };
        let unwrap = UnwrapOptions {
            deletes: DeleteHandling::RewriteWithTombstone,
            add_fields: Some("op,source.lsn,after.type,id".into()),
            route_by: Some("type".into()),
            ..UnwrapOptions::default()
        };
        let decode = Transform::DecodeLogicalDecodingMessageContent(DecodeOptions::default());
        let compatibility = if strict { Compatibility::Strict } else { Compatibility::Default };
        for links in [
            vec![],
            vec![decode.into(), Transform::EventRouter(options).into()],
            vec![Transform::ExtractNewRecordState(unwrap).into()],
        ] {
            let mut chain = build_with(&links, compatibility, schemas).unwrap();
            let old = Some(OldTuple::Full(tuple(&values)));
            let _ = chain.apply(&insert(&table, &values));
            let _ = chain.apply(&row(&table, Operation::Update, old.clone(), Some(tuple(&values))));
            let _ = chain.apply(&row(&table, Operation::Delete, old, None));
            let _ = chain.apply(&message_of("p", values[4].unwrap_or("")));
        }
    }
}
