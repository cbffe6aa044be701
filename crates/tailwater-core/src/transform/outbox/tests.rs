//! The router, option by option, in its default mode.

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
    let commit =
        Commit { system_id: 7, lsn: 100, end_lsn: 108, time_us: 1_700_000_000_000_000, xid: Some(1), snapshot: false };
    Change { commit: Arc::new(commit), ordinal: 3, lsn: 90, event }
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

#[test]
fn a_row_of_the_default_table_becomes_a_message() {
    let routed = message(router(&OutboxOptions::default()).apply(&user_created(Some("{\"a\": 1}"))));
    assert_eq!(&*routed.id.0, ID);
    assert_eq!(&*routed.topic, "outbox.event.User");
    assert_eq!(routed.event_type.as_deref(), Some("UserCreated"));
    assert_eq!(routed.key.as_deref(), Some(&b"10711fa5"[..]));
    assert_eq!(headers(&routed), [("id", HeaderValue::Text(ID.into()))]);
    assert_eq!(body(&routed), r#""{\"a\": 1}""#, "without expansion the payload is a JSON string, as with Debezium");
    assert_eq!(routed.content_type, "application/json");
    assert_eq!(routed.timestamp.0, 1_700_000_000_000_000, "the commit's");
    assert_eq!(routed.partition, None);
}

#[test]
fn a_snapshot_row_is_routed_like_an_insert() {
    let values = [Some(ID), Some("User"), Some("k"), Some("T"), Some("{}")];
    let mut router = router(&OutboxOptions::default());
    let inserted = message(router.apply(&row(Operation::Insert, &standard(), &values)));
    assert_eq!(message(router.apply(&row(Operation::Snapshot, &standard(), &values))), inserted);
}

#[test]
fn deletes_and_truncates_are_no_events() {
    let mut router = router(&OutboxOptions::default());
    assert_eq!(router.apply(&row(Operation::Delete, &standard(), &[None; 5])), Routed::Filtered("delete"));
    let truncate = Event::Truncate { relation: standard(), cascade: false, restart_identity: false };
    assert_eq!(router.apply(&change(truncate)), Routed::Filtered("truncate"));
}

#[test]
fn an_update_is_filtered_by_name_or_rejected() {
    let update = row(Operation::Update, &standard(), &[Some(ID), Some("User"), Some("k"), Some("T"), Some("{}")]);
    for (on_update, name) in [(OnUpdate::Warn, "update"), (OnUpdate::Error, "update_as_error")] {
        let options = OutboxOptions { on_update, ..OutboxOptions::default() };
        assert_eq!(router(&options).apply(&update), Routed::Filtered(name));
    }
    let options = OutboxOptions { on_update: OnUpdate::Fatal, ..OutboxOptions::default() };
    let (reason, raw) = rejection(router(&options).apply(&update));
    assert!(reason.contains("updated"), "{reason}");
    assert_eq!(&*raw.id.0, ID);
}

#[test]
fn every_column_can_have_another_name() {
    let table = relation("o", &[("Event Id", INT8), ("k", INT4), ("t", TEXT), ("body", JSONB), ("r", TEXT)]);
    let options = OutboxOptions {
        id_column: Some("Event Id".into()),
        key_column: "k".into(),
        type_column: "t".into(),
        payload_column: "body".into(),
        route_by: "r".into(),
        ..OutboxOptions::default()
    };
    let routed =
        message(router(&options).apply(&insert(&table, &[Some("5"), Some("12"), Some("T"), Some("{}"), Some("x")])));
    assert_eq!(&*routed.id.0, "5");
    assert_eq!(headers(&routed), [("id", HeaderValue::Int(5))]);
    assert_eq!(routed.key.as_deref(), Some(&b"12"[..]));
    assert_eq!(routed.event_type.as_deref(), Some("T"));
    assert_eq!(&*routed.topic, "outbox.event.x");
}

#[test]
fn a_missing_column_rejects_the_row_and_keeps_it() {
    for (missing, options) in [
        ("fakefield", OutboxOptions { key_column: "fakefield".into(), ..OutboxOptions::default() }),
        ("nope", OutboxOptions { id_column: Some("nope".into()), ..OutboxOptions::default() }),
        ("Payload", OutboxOptions { payload_column: "Payload".into(), ..OutboxOptions::default() }),
        ("by", OutboxOptions { route_by: "by".into(), ..OutboxOptions::default() }),
        ("at", OutboxOptions { timestamp_column: Some("at".into()), ..OutboxOptions::default() }),
        ("ver", OutboxOptions { schema_version_column: Some("ver".into()), ..placed("type:envelope") }),
        ("gone", placed("gone:header")),
        ("gone", placed("gone:envelope:x")),
    ] {
        let (reason, raw) = rejection(router(&options).apply(&user_created(Some("{\"a\": 1}"))));
        assert!(reason.contains(missing) && reason.contains("public.outbox"), "{reason}");
        let row: serde_json::Value = serde_json::from_slice(raw.payload.as_deref().unwrap()).unwrap();
        assert_eq!(row["row"]["payload"]["a"], 1, "the dead letter shows the row");
        assert_eq!(row["table"], "public.outbox");
    }
}

#[test]
fn a_column_of_a_placement_may_be_missing_if_told_so() {
    let options = OutboxOptions {
        missing_column: MissingColumn::Ignore,
        ..placed("gone:header,gone:envelope:x,gone:partition,type:envelope")
    };
    let routed = message(router(&options).apply(&user_created(Some("{}"))));
    assert_eq!(body(&routed), r#"{"payload":{},"type":"UserCreated"}"#);
    assert_eq!(headers(&routed).len(), 1);
}

#[test]
fn a_schema_version_column_is_checked_and_has_no_effect_without_schemas() {
    let table = |version| {
        relation(
            "outbox",
            &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", JSON), ("ver", version)],
        )
    };
    let options = OutboxOptions { schema_version_column: Some("ver".into()), ..placed("aggregatetype:envelope:t") };
    let values = [Some("1"), Some("U"), Some("k"), Some("{}"), Some("3")];
    assert_eq!(body(&message(router(&options).apply(&insert(&table(INT4), &values)))), r#"{"payload":{},"t":"U"}"#);
    assert!(rejection(router(&options).apply(&insert(&table(INT8), &values))).0.contains("ver"));
}

#[test]
fn columns_go_into_headers_envelope_and_partition() {
    let table = relation(
        "outbox",
        &[
            ("id", INT8),
            ("aggregatetype", TEXT),
            ("aggregateid", TEXT),
            ("payload", JSON),
            ("p", INT4),
            ("ok", BOOL),
            ("raw", BYTEA),
        ],
    );
    let values = [Some("1"), Some("User"), Some("k"), Some("{ }"), Some("123"), Some("t"), Some("\\x00ff")];
    let options = placed("ok:envelope:deleted, p:partition,p:header:p,raw:envelope,raw:header,ok:header");
    let routed = message(router(&options).apply(&insert(&table, &values)));
    assert_eq!(body(&routed), r#"{"payload":{ },"deleted":true,"raw":"AP8="}"#);
    assert_eq!(routed.partition, Some(123));
    let expected = [
        ("id", HeaderValue::Int(1)),
        ("p", HeaderValue::Int(123)),
        ("raw", HeaderValue::Bytes(vec![0, 255].into())),
        ("ok", HeaderValue::Bool(true)),
    ];
    assert_eq!(headers(&routed), expected);
}

#[test]
fn a_partition_is_a_number_from_0_or_nothing() {
    let table = relation(
        "outbox",
        &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", JSON), ("p", INT8)],
    );
    let routed =
        |p| router(&placed("p:partition")).apply(&insert(&table, &[Some("1"), Some("U"), Some("k"), Some("{}"), p]));
    assert_eq!(message(routed(None)).partition, None);
    assert_eq!(message(routed(Some("0"))).partition, Some(0));
    assert!(rejection(routed(Some("-1"))).0.contains("partition"));
    assert!(rejection(routed(Some("4294967296"))).0.contains("partition"));
    let text = router(&placed("type:partition")).apply(&user_created(None));
    assert!(rejection(text).0.contains("integer"));
}

#[test]
fn the_payload_is_spliced_byte_for_byte_when_expanded() {
    let table = relation("outbox", &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", TEXT)]);
    let expand = OutboxOptions { expand_json: true, ..OutboxOptions::default() };
    for (payload, expected) in [
        (r#"{"n": 123456789012345678901234567890, "f": 1e400, "a": [1, 2.0, "x"], "d":1,"d":2}"#, None),
        ("[1,2,3]", None),
        (r#" {"a":{"":null,"b":[]}}"#, None),
        ("null", None),
        ("hello", Some(r#""hello""#)),
        (r#"{"a":1}x"#, Some(r#""{\"a\":1}x""#)),
        ("", Some(r#""""#)),
    ] {
        let change = insert(&table, &[Some("1"), Some("U"), Some("k"), Some(payload)]);
        assert_eq!(body(&message(router(&expand).apply(&change))), expected.unwrap_or(payload));
    }
}

#[test]
fn members_are_renamed_with_their_data_when_asked() {
    let options = OutboxOptions { field_name_adjustment: FieldNameAdjustment::Avro, ..placed("type:envelope:a-b") };
    let routed = message(router(&options).apply(&user_created(Some(r#"{"x y": {"1": null}, "z": "x y"}"#))));
    assert_eq!(body(&routed), r#"{"payload":{"x_y": {"_1": null}, "z": "x y"},"a-b":"UserCreated"}"#);
    let bare = OutboxOptions { placement: None, ..options };
    let routed = message(router(&bare).apply(&user_created(Some(r#"{"x y": 1}"#))));
    assert_eq!(body(&routed), r#"{"x_y": 1}"#);
}

#[test]
fn nulls_and_empty_arrays_stay_whatever_strict_would_do() {
    for (json_null, json_empty_array) in
        [(JsonNull::Ignore, JsonEmptyArray::Ignore), (JsonNull::OptionalBytes, JsonEmptyArray::OptionalString)]
    {
        let options = OutboxOptions { expand_json: true, json_null, json_empty_array, ..OutboxOptions::default() };
        let payload = r#"{"n": null, "e": []}"#;
        assert_eq!(body(&message(router(&options).apply(&user_created(Some(payload))))), payload);
    }
}

#[test]
fn a_null_payload_is_null_and_a_tombstone_only_with_the_option() {
    let body_of = |options: &OutboxOptions| message(router(options).apply(&user_created(None))).payload;
    assert_eq!(body_of(&OutboxOptions::default()).as_deref(), Some(&b"null"[..]));
    assert_eq!(body_of(&placed("type:envelope")).as_deref(), Some(&br#"{"payload":null,"type":"UserCreated"}"#[..]));
    for options in [OutboxOptions::default(), placed("type:envelope")] {
        assert_eq!(body_of(&OutboxOptions { tombstone_on_empty: true, ..options }), None);
    }
    let text = router_with(&OutboxOptions::default(), |s| s.value_format = Format::String).apply(&user_created(None));
    assert_eq!(message(text).payload.as_deref(), Some(&b""[..]));
}

#[test]
fn a_blank_payload_is_a_tombstone_with_the_option_and_keeps_key_and_headers() {
    let table = relation("outbox", &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", TEXT)]);
    let options = OutboxOptions { tombstone_on_empty: true, ..placed("aggregatetype:header") };
    let routed =
        |payload| message(router(&options).apply(&insert(&table, &[Some("1"), Some("U"), Some("k"), Some(payload)])));
    for blank in ["", "  ", "\t\n\u{1}"] {
        let tombstone = routed(blank);
        assert_eq!((tombstone.payload, tombstone.key.as_deref()), (None, Some(&b"k"[..])));
        assert_eq!(tombstone.headers.0.len(), 2);
    }
    assert_eq!(body(&routed("\u{a0}")), "\"\u{a0}\"", "only what Java's trim takes away is blank");
    assert_eq!(body(&routed("{}")), "{}");
}

#[test]
fn the_time_is_the_columns_where_one_is_named() {
    let table = relation(
        "outbox",
        &[
            ("id", TEXT),
            ("aggregatetype", TEXT),
            ("aggregateid", TEXT),
            ("payload", JSON),
            ("occurred_at", TIMESTAMPTZ),
            ("n", INT8),
        ],
    );
    let routed = |column: &str, at, n| {
        let options = OutboxOptions { timestamp_column: Some(column.into()), ..OutboxOptions::default() };
        router(&options).apply(&insert(&table, &[Some("1"), Some("U"), Some("k"), None, at, n]))
    };
    assert_eq!(
        message(routed("occurred_at", Some("2019-03-24 20:52:59.5+00"), None)).timestamp.0,
        1_553_460_779_500_000
    );
    assert_eq!(message(routed("occurred_at", Some("infinity"), None)).timestamp.0, 1_700_000_000_000_000);
    assert_eq!(message(routed("occurred_at", None, None)).timestamp.0, 1_700_000_000_000_000);
    assert!(rejection(routed("n", None, Some("1"))).0.contains("timestamptz"));
}

#[test]
fn the_topic_follows_pattern_and_replacement() {
    let options = OutboxOptions {
        route_by: "type".into(),
        topic_regex: "User(.+)".into(),
        topic_replacement: "user.$1".into(),
        ..OutboxOptions::default()
    };
    assert_eq!(&*message(router(&options).apply(&user_created(None))).topic, "user.Created");
    let broken = OutboxOptions { topic_regex: " [[a-z]".into(), ..OutboxOptions::default() };
    assert!(matches!(OutboxRouter::new(&broken, RouteSettings::default()), Err(RouteConfigError::Regex { .. })));
}

#[test]
fn a_row_without_a_route_is_rejected() {
    let change = insert(&standard(), &[Some(ID), None, Some("k"), Some("T"), Some("{}")]);
    let (reason, raw) = rejection(router(&OutboxOptions::default()).apply(&change));
    assert!(reason.contains("aggregatetype"), "{reason}");
    assert_eq!(&*raw.id.0, ID);
}

#[test]
fn a_message_without_an_id_gets_one_that_a_replay_repeats() {
    let nameless = |ordinal| {
        let mut change = insert(&standard(), &[None, Some("User"), Some("k"), Some("T"), Some("{}")]);
        change.ordinal = ordinal;
        message(router(&OutboxOptions::default()).apply(&change))
    };
    let first = nameless(1);
    assert_eq!(first.id.0.len(), 32);
    assert_eq!(first.id, nameless(1).id);
    assert_ne!(first.id, nameless(2).id);
    assert_eq!(headers(&first), [("id", HeaderValue::Text(Bytes::copy_from_slice(first.id.0.as_bytes())))]);
    // Fixed for all time: consumers keep these ids in their inboxes.
    assert_eq!(&*first.id.0, "126ece120846ac692656a1920a5ea303");
}

#[test]
fn keys_have_the_format_asked_for() {
    let table = relation("outbox", &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", BYTEA), ("payload", TEXT)]);
    let key = |format, key| {
        let change = insert(&table, &[Some("1"), Some("U"), key, Some("x")]);
        message(router_with(&OutboxOptions::default(), |s| s.key_format = format).apply(&change)).key
    };
    assert_eq!(key(Format::Binary, Some("\\x6869")).as_deref(), Some(&b"hi"[..]));
    assert_eq!(key(Format::Json, Some("\\x6869")).as_deref(), Some(&b"\"aGk=\""[..]));
    assert_eq!(key(Format::String, Some("\\x6869")).as_deref(), Some(&b"\\x6869"[..]));
    for format in [Format::Binary, Format::Json, Format::String] {
        assert_eq!(key(format, None), None);
    }
}

#[test]
fn values_have_the_format_asked_for() {
    let table = relation(
        "outbox",
        &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", BYTEA), ("t", TEXT)],
    );
    let value = |format, payload_column: &str| {
        let options = OutboxOptions { payload_column: payload_column.into(), ..OutboxOptions::default() };
        let change = insert(&table, &[Some("1"), Some("U"), Some("k"), Some("\\x6869"), Some("a \"b\"")]);
        let routed = message(router_with(&options, |s| s.value_format = format).apply(&change));
        (routed.payload.unwrap(), routed.content_type)
    };
    assert_eq!(value(Format::Binary, "payload"), ("hi".into(), "application/octet-stream"));
    assert_eq!(value(Format::Binary, "t"), ("a \"b\"".into(), "application/octet-stream"));
    assert_eq!(value(Format::Json, "payload"), ("\"aGk=\"".into(), "application/json"));
    assert_eq!(value(Format::Json, "t"), (r#""a \"b\"""#.into(), "application/json"));
    assert_eq!(value(Format::String, "t"), ("a \"b\"".into(), "text/plain; charset=utf-8"));
}

#[test]
fn headers_have_the_format_asked_for() {
    let table = relation("outbox", &[("id", INT8), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", TEXT)]);
    let change = insert(&table, &[Some("1"), Some("U"), Some("k"), Some("x")]);
    let formatted = |format| {
        let options = OutboxOptions { placement: Some("aggregatetype:header:t".into()), ..OutboxOptions::default() };
        let routed = message(router_with(&options, |s| s.header_format = format).apply(&change));
        routed.headers.0.into_iter().map(|h| h.value).collect::<Vec<_>>()
    };
    assert_eq!(formatted(Format::Plain), [HeaderValue::Int(1), HeaderValue::Text("U".into())]);
    assert_eq!(formatted(Format::String), [HeaderValue::Text("1".into()), HeaderValue::Text("U".into())]);
    assert_eq!(formatted(Format::Json), [HeaderValue::Text("1".into()), HeaderValue::Text("\"U\"".into())]);
}

#[test]
fn settings_that_can_never_work_are_refused_at_construction() {
    let refused = |options: &OutboxOptions, change: fn(&mut RouteSettings)| {
        let mut settings = RouteSettings::default();
        change(&mut settings);
        OutboxRouter::new(options, settings).unwrap_err()
    };
    let options = OutboxOptions::default();
    assert_eq!(refused(&options, |s| s.key_format = Format::Plain), RouteConfigError::PlainFormat { part: "keys" });
    assert_eq!(refused(&options, |s| s.header_format = Format::Binary), RouteConfigError::BinaryHeaders);
    assert_eq!(
        refused(&placed("type:envelope"), |s| s.value_format = Format::Binary),
        RouteConfigError::BinaryEnvelope
    );
    assert!(matches!(refused(&options, |s| s.only_topics = Some("(".into())), RouteConfigError::Regex { .. }));
    let empty = OutboxOptions { key_column: String::new(), ..options };
    assert_eq!(refused(&empty, |_| ()), RouteConfigError::Empty { option: "key_column" });
}

#[test]
fn only_tables_that_the_predicate_names_are_outboxes() {
    let item = relation("item", &[("id", INT4)]);
    let outcome = |pattern: &str, negate| {
        let mut router = router_with(&OutboxOptions::default(), |s| {
            s.topic_prefix = "shop".into();
            s.only_topics = Some(pattern.into());
            s.negate = negate;
        });
        let of = |routed| match routed {
            Routed::Message(_) => "message",
            Routed::Filtered(name) => name,
            Routed::Rejected { .. } => "rejected",
        };
        (of(router.apply(&user_created(None))), of(router.apply(&insert(&item, &[Some("1")]))))
    };
    assert_eq!(outcome(r"shop\.public\.outbox", false), ("message", "not_captured"));
    assert_eq!(outcome(".*item", true), ("message", "not_captured"));
    assert_eq!(outcome("public.outbox", false), ("not_captured", "not_captured"), "the whole name must match");
    assert_eq!(outcome(".*", false), ("message", "rejected"));
}

#[test]
fn a_table_that_changes_is_looked_at_anew() {
    let mut router = router(&OutboxOptions { missing_column: MissingColumn::Ignore, ..placed("extra:header") });
    assert_eq!(message(router.apply(&user_created(None))).headers.0.len(), 1);
    let wider = relation(
        "outbox",
        &[
            ("id", UUID),
            ("extra", TEXT),
            ("aggregatetype", TEXT),
            ("aggregateid", TEXT),
            ("type", TEXT),
            ("payload", JSONB),
        ],
    );
    let routed =
        message(router.apply(&insert(&wider, &[Some(ID), Some("e"), Some("User"), Some("k"), Some("T"), None])));
    assert_eq!(headers(&routed)[1], ("extra", HeaderValue::Text("e".into())));
    assert_eq!(message(router.apply(&user_created(None))).headers.0.len(), 1);
}

/// T25: what cannot be read is kept with its reason.
#[test]
fn what_is_no_row_is_rejected_and_kept() {
    let mut router = router(&OutboxOptions::default());
    let undecodable = Event::Undecodable { reason: "unknown message 'x'".into(), raw: Bytes::from_static(b"x\x01") };
    let (reason, raw) = rejection(router.apply(&change(undecodable)));
    assert!(reason.contains("unknown message 'x'"));
    assert_eq!(raw.payload.as_deref(), Some(&b"x\x01"[..]));
    let logical = LogicalMessage { transactional: true, prefix: "outbox".into(), content: "{}".into() };
    let (_, raw) = rejection(router.apply(&change(Event::Message(logical))));
    assert_eq!(raw.payload.as_deref(), Some(&b"{}"[..]));
}

/// T26
#[test]
fn a_value_that_is_not_in_the_log_is_never_published_as_null() {
    let mut change = user_created(None);
    if let Event::Row(Row { new: Some(tuple), .. }) = &mut change.event {
        tuple.0[4] = Value::Unchanged;
    }
    assert!(rejection(router(&OutboxOptions::default()).apply(&change)).0.contains("TOAST"));
}

#[test]
fn text_in_a_foreign_encoding_is_rejected_with_its_bytes() {
    let mut change = user_created(None);
    if let Event::Row(Row { new: Some(tuple), .. }) = &mut change.event {
        tuple.0[4] = Value::Text(Bytes::from_static(b"\"\xe4\""));
    }
    let (reason, raw) = rejection(router(&placed("type:envelope")).apply(&change));
    assert!(reason.contains("UTF-8"), "{reason}");
    let row: serde_json::Value = serde_json::from_slice(raw.payload.as_deref().unwrap()).unwrap();
    assert_eq!(row["row"]["payload"], "IuQi");
}

/// The options of the report recipe, as its file has them.
fn recipe() -> OutboxOptions {
    OutboxOptions {
        key_column: "idempotency_key".into(),
        payload_column: "payload".into(),
        placement: Some("event_type:envelope:event_type,idempotency_key:envelope:idempotency_key".into()),
        expand_json: true,
        route_by: "event_type".into(),
        topic_replacement: "${routedByValue}".into(),
        ..OutboxOptions::default()
    }
}

const REQUESTED: [Option<&str>; 5] = [
    Some("report.requested"),
    Some("42"),
    Some("2026-01-01 00:00:00+00"),
    Some("report-42-1"),
    Some(r#"{"format": "csv", "n": 12345678901234567890123}"#),
];

fn recipe_columns() -> Vec<(&'static str, u32)> {
    vec![
        ("event_type", TEXT),
        ("user_id", INT8),
        ("occurred_at", TIMESTAMPTZ),
        ("idempotency_key", TEXT),
        ("payload", JSONB),
    ]
}

/// Seed recipe, points 1, 4 and 5: the topic is the event type, and the body is what the worker reads.
#[test]
fn the_recipe_gives_the_worker_what_it_reads() {
    for replacement in ["${routedByValue}", "$${routedByValue}"] {
        let options = OutboxOptions { topic_replacement: replacement.into(), ..recipe() };
        let routed = message(router(&options).apply(&insert(&relation("outbox", &recipe_columns()), &REQUESTED)));
        assert_eq!(&*routed.topic, "report.requested");
        assert_eq!(routed.key.as_deref(), Some(&b"report-42-1"[..]));
        assert_eq!(routed.event_type.as_deref(), Some("report.requested"), "no type column: the routed value");
        let body: serde_json::Value = serde_json::from_str(body(&routed)).unwrap();
        assert_eq!(body["event_type"], "report.requested");
        assert_eq!(body["idempotency_key"], "report-42-1");
        assert_eq!(body["payload"]["format"], "csv");
        assert!(body.get("schema").is_none(), "no wrapper");
    }
}

/// Seed recipe, point 3: a table without `id`.
#[test]
fn without_an_id_column_the_key_is_the_id_and_it_is_said_once() {
    let table = relation("outbox", &recipe_columns());
    let mut router = router(&recipe());
    for _ in 0..3 {
        let routed = message(router.apply(&insert(&table, &REQUESTED)));
        assert_eq!(&*routed.id.0, "report-42-1");
        assert_eq!(headers(&routed), [("id", HeaderValue::Text("report-42-1".into()))]);
    }
    assert!(matches!(&router.notices()[..], [one] if one.contains("idempotency_key")));
    assert!(router.notices().is_empty());

    let mut columns = recipe_columns();
    columns.insert(0, ("id", INT8));
    let values: Vec<_> = std::iter::once(Some("9")).chain(REQUESTED).collect();
    assert_eq!(&*message(router.apply(&insert(&relation("outbox", &columns), &values))).id.0, "9");
}

proptest! {
    #[test]
    fn splicing_is_lossless(payload in json(), type_oid in prop_oneof![Just(TEXT), Just(JSON), Just(JSONB)]) {
        let table = relation("outbox", &[("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", type_oid)]);
        let text = payload.to_string();
        let change = insert(&table, &[Some("1"), Some("U"), Some("k\"\u{1}"), Some(&text)]);
        let bare = OutboxOptions { expand_json: true, ..OutboxOptions::default() };
        let routed = message(router(&bare).apply(&change));
        prop_assert_eq!(body(&routed), &text);
        let routed = message(router(&placed("aggregateid:envelope:k")).apply(&change));
        let parsed: serde_json::Value = serde_json::from_str(body(&routed)).unwrap();
        prop_assert_eq!(&parsed["payload"], &serde_json::from_str::<serde_json::Value>(&text).unwrap());
        prop_assert_eq!(&parsed["k"], "k\"\u{1}");
        prop_assert!(body(&routed).contains(&text), "byte for byte");
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC*".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec(("\\PC*", inner), 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Header values and body of the same row in strict compatibility.
#[test]
fn strict_gives_debeziums_bytes_and_default_gives_plain_ones() {
    let table = relation(
        "outbox",
        &[("id", INT8), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", JSONB), ("at", TIMESTAMPTZ)],
    );
    let payload = r#"{"b": null, "e": [], "n": 1.50}"#;
    let change = insert(&table, &[Some("7"), Some("U"), Some("k"), Some(payload), Some("2024-05-01 10:00:00+00")]);
    let routed = |compatibility| {
        let mut router = router_with(&placed("at:envelope,at:header"), |s| {
            s.compatibility = compatibility;
            s.header_format = if compatibility == Compatibility::Strict { Format::Json } else { Format::Plain };
            s.key_format = Format::Json;
            s.topic_prefix = "app".into();
        });
        message(router.apply(&change))
    };
    let plain = routed(Compatibility::Default);
    assert_eq!(body(&plain), r#"{"payload":{"b": null, "e": [], "n": 1.50},"at":"2024-05-01T10:00:00Z"}"#);
    assert_eq!(
        headers(&plain),
        [("id", HeaderValue::Int(7)), ("at", HeaderValue::Text("2024-05-01T10:00:00Z".into()))]
    );
    let strict = routed(Compatibility::Strict);
    assert_eq!(body(&strict), r#"{"payload":{"n":1.5},"at":"2024-05-01T10:00:00.000000Z"}"#);
    let names: Vec<_> =
        headers(&strict).into_iter().map(|(name, _)| name.replace("__debezium.context.", "~")).collect();
    assert_eq!(names, ["~connectorLogicalName", "~taskId", "~connectorName", "~runId", "id", "at"]);
    assert_eq!(headers(&strict)[0].1, HeaderValue::Text("\"app\"".into()));
    assert_eq!(headers(&strict)[4].1, HeaderValue::Text("7".into()));
    assert_eq!(strict.key.as_deref(), Some(&b"\"k\""[..]));
    assert_eq!(strict.id, plain.id);
}

/// What stops Debezium's task stops nothing here.
#[test]
fn a_poison_pill_is_rejected_in_strict_and_routed_by_default() {
    let poison = user_created(Some(r#"{"n": 123456789012345678901}"#));
    let expand = OutboxOptions { expand_json: true, ..OutboxOptions::default() };
    let mut strict = router_with(&expand, |s| s.compatibility = Compatibility::Strict);
    assert!(rejection(strict.apply(&poison)).0.contains("64 bits"));
    assert_eq!(body(&message(strict.apply(&user_created(Some("{\"a\": 1}"))))), "{\"a\":1}", "the next one is routed");
    assert_eq!(body(&message(router(&expand).apply(&poison))), r#"{"n": 123456789012345678901}"#);
}

#[test]
fn strict_asks_for_an_id_column_as_debezium_does() {
    let mut strict = router_with(&recipe(), |s| s.compatibility = Compatibility::Strict);
    let (reason, raw) = rejection(strict.apply(&insert(&relation("outbox", &recipe_columns()), &REQUESTED)));
    assert!(reason.contains("\"id\""), "{reason}");
    assert!(raw.payload.is_some_and(|row| row.windows(11).any(|w| w == b"report-42-1")));
}
