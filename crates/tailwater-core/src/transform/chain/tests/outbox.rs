//! The outbox in a chain, by default: with schemas, beside change events, from logical messages.

use super::*;
use crate::HeaderValue;
use crate::transform::changes::TimeMode;
use crate::transform::outbox::{OnUpdate, OutboxRouter, RouteSettings};

const ID: &str = "da8d6de6-3b77-45ff-8f44-57db55a7a06c";

fn outbox() -> Arc<Relation> {
    table(
        "outbox",
        &[
            ("id", oid::UUID),
            ("aggregatetype", oid::VARCHAR),
            ("aggregateid", oid::VARCHAR),
            ("type", oid::VARCHAR),
            ("payload", oid::JSONB),
        ],
    )
}

fn user(payload: Option<&str>) -> Change {
    insert(&outbox(), &[Some(ID), Some("User"), Some("k1"), Some("UserCreated"), payload])
}

fn expanding() -> OutboxOptions {
    OutboxOptions { expand_json: true, ..OutboxOptions::default() }
}

fn with_schemas(options: OutboxOptions) -> ChainRoute {
    build_with(&[Transform::EventRouter(options).into()], Compatibility::Default, true).unwrap()
}

#[test]
fn in_a_chain_the_router_gives_what_it_gives_alone() {
    let placed = |placement: &str| OutboxOptions { placement: Some(placement.into()), ..expanding() };
    for options in [
        OutboxOptions::default(),
        expanding(),
        OutboxOptions { tombstone_on_empty: true, ..expanding() },
        OutboxOptions { lsn_header: Some("lsn".into()), ..OutboxOptions::default() },
        placed("type:envelope,aggregateid:envelope:key,type:header:t"),
    ] {
        for format in [Format::Json, Format::String] {
            let settings =
                RouteSettings { value_format: format, key_format: Format::String, ..RouteSettings::default() };
            let mut alone = OutboxRouter::new(&options, settings).unwrap();
            let of = |format| Converter::of(format, false, Compatibility::Default);
            let converters = Converters { key: of(Format::String), value: of(format), header: of(Format::Plain) };
            let settings = ChangeSettings { topic_prefix: "app".into(), ..ChangeSettings::default() };
            let links = [Transform::EventRouter(options.clone()).into()];
            let mut chain = ChainRoute::new(&links, &ChangeOptions::default(), &settings, converters).unwrap();
            for payload in [Some(r#"{"a": 1.50,  "b":[null,"x"]}"#), Some(r#""text""#), Some("  "), None] {
                if format == Format::String && options.placement.is_some() {
                    continue;
                }
                let (expected, ours) = (one(alone.apply(&user(payload))), one(chain.apply(&user(payload))));
                assert_eq!(ours, expected, "{options:?} {format:?} {payload:?}");
            }
        }
    }
}

#[test]
fn rows_that_the_predicate_leaves_out_are_change_events() {
    let mine = || Some(Predicate::TopicNameMatches("app\\.public\\.outbox".into()));
    let mut route = chain(&[router(mine(), false)]);
    assert_eq!(&*one(route.apply(&user(None))).topic, "outbox.event.User");
    let other = table("t", &[("id", oid::INT4)]);
    let message = one(route.apply(&insert(&other, &[Some("1")])));
    assert_eq!(&*message.topic, "app.public.t");
    assert!(body(&message).starts_with(r#"{"before":null,"after":{"id":1},"source""#));
    let mut turned = chain(&[router(mine(), true)]);
    assert_eq!(&*one(turned.apply(&user(None))).topic, "app.public.outbox");
    assert!(reason(turned.apply(&insert(&other, &[Some("1")]))).contains("payload"));
}

#[test]
fn deletes_and_updates_of_an_outbox_are_no_events() {
    let key = Some(OldTuple::Key(tuple(&[Some(ID), None, None, None, None])));
    let values = tuple(&[Some("0b8d6de6-3b77-45ff-8f44-57db55a7a06c"), Some("User"), Some("k"), None, None]);
    let changed_key = row(&outbox(), Operation::Update, key.clone(), Some(values.clone()));
    for first in [None, Some(Predicate::TopicNameMatches(".*".into()))] {
        let mut route = chain(&[router(first, false)]);
        let delete = row(&outbox(), Operation::Delete, key.clone(), None);
        assert!(matches!(route.apply(&delete), Routed::Filtered("delete" | "tombstone")));
        assert_eq!(
            route.apply(&row(&outbox(), Operation::Update, None, Some(values.clone()))),
            Routed::Filtered("update")
        );
        assert_eq!(route.apply(&changed_key), Routed::Filtered("update"), "a changed key publishes nothing again");
    }
    let fatal = OutboxOptions { on_update: OnUpdate::Fatal, ..OutboxOptions::default() };
    assert!(reason(chain(&[Transform::EventRouter(fatal).into()]).apply(&changed_key)).contains("forbids"));
}

#[test]
fn an_outbox_needs_no_old_rows_whatever_its_identity() {
    let mut relation = (*outbox()).clone();
    relation.identity = ReplicaIdentity::Index;
    relation.columns[0].key = false;
    relation.columns[1].key = true;
    let relation = Arc::new(relation);
    let old = Some(OldTuple::Key(tuple(&[None, Some("User"), None, None, None])));
    let new = Some(tuple(&[Some(ID), Some("User"), Some("k"), None, None]));
    let mut route = chain(&[router(None, false)]);
    route.check(&relation).unwrap();
    assert_eq!(route.apply(&row(&relation, Operation::Update, old.clone(), new)), Routed::Filtered("update"));
    let delete = row(&relation, Operation::Delete, old, None);
    assert_eq!(route.apply(&delete), Routed::Filtered("delete"));
    assert!(reason(chain(&[]).apply(&delete)).contains("REPLICA IDENTITY FULL"), "as a change event it has no key");
}

#[test]
fn a_rejected_event_keeps_its_id_and_its_key() {
    let bad = insert(&outbox(), &[Some(ID), None, Some("k1"), Some("T"), Some("{}")]);
    let Routed::Rejected { reason, raw } = chain(&[router(None, false)]).apply(&bad) else { panic!("rejected") };
    assert!(reason.contains("aggregatetype"), "{reason}");
    assert_eq!((&*raw.id.0, raw.key.as_deref()), (ID, Some(&b"k1"[..])));
}

#[test]
fn key_and_value_have_the_schemas_of_their_columns() {
    let message = one(with_schemas(OutboxOptions::default()).apply(&user(Some(r#"{"a": 1}"#))));
    let key = r#"{"schema":{"type":"string","optional":true},"payload":"k1"}"#;
    assert_eq!(message.key.as_deref(), Some(key.as_bytes()));
    let value = r#"{"schema":{"type":"string","optional":true,"name":"io.debezium.data.Json","version":1},"payload":"{\"a\": 1}"}"#;
    assert_eq!(body(&message), value);
    assert_eq!(message.headers.0[0].value, HeaderValue::Text(Bytes::from_static(ID.as_bytes())));
}

#[test]
fn an_expanded_payload_has_a_schema_that_holds_all_of_it() {
    let expanded = |payload: &str| body(&one(with_schemas(expanding()).apply(&user(Some(payload))))).to_owned();
    let schema = concat!(
        r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":true,"field":"a"},"#,
        r#"{"type":"bytes","optional":true,"field":"n"},"#,
        r#"{"type":"array","items":{"type":"bytes","optional":true},"optional":true,"field":"e"}],"#,
        r#""optional":true,"name":"payload"},"payload":{"a":1,"n":null,"e":[]}}"#
    );
    assert_eq!(expanded(r#"{"a": 1, "n": null, "e": []}"#), schema);
    for whole in [r#"[1,"x"]"#, r#"{"n":123456789012345678901234567890}"#, r#"{"n":0.12345678901234567890}"#] {
        let text = serde_json::to_string(whole).unwrap();
        assert!(expanded(whole).ends_with(&format!(r#","payload":{text}}}"#)), "not lost, but a string: {whole}");
    }
    assert!(expanded("[1,2]").ends_with(r#","payload":[1,2]}"#), "an array is a payload like any other");
}

#[test]
fn an_envelope_is_named_after_its_own_event() {
    let options = OutboxOptions {
        placement: Some("type:envelope".into()),
        schema_version_column: Some("v".into()),
        ..OutboxOptions::default()
    };
    let relation = table(
        "outbox",
        &[
            ("id", oid::UUID),
            ("aggregatetype", oid::TEXT),
            ("aggregateid", oid::TEXT),
            ("type", oid::TEXT),
            ("payload", oid::TEXT),
            ("v", oid::INT4),
        ],
    );
    let mut route = with_schemas(options.clone());
    let mut named = |of: &str, version: &str| {
        let change = insert(&relation, &[Some(ID), Some(of), Some("k"), Some("T"), Some("x"), Some(version)]);
        let message = one(route.apply(&change));
        let (_, rest) = body(&message).split_once(r#""optional":false,"name":""#).unwrap();
        rest.split_once('}').unwrap().0.to_owned()
    };
    assert_eq!(named("User", "1"), r#"app.public.outbox.User.Value","version":1"#);
    assert_eq!(named("Order", "1"), r#"app.public.outbox.Order.Value","version":1"#);
    assert_eq!(named("User", "2"), r#"app.public.outbox.User.Value","version":2"#);
    assert_eq!(named("User", "1"), r#"app.public.outbox.User.Value","version":1"#);
}

#[test]
fn in_strict_compatibility_the_first_event_names_the_envelope_and_one_that_does_not_fit_is_rejected() {
    let options = OutboxOptions { placement: Some("type:envelope".into()), ..OutboxOptions::default() };
    let links = [Transform::EventRouter(options).into()];
    let mut route = build_with(&links, Compatibility::Strict, true).unwrap();
    assert!(body(&one(route.apply(&user(Some("{}"))))).contains("outbox.User.Value"));
    let order = insert(&outbox(), &[Some(ID), Some("Order"), Some("k"), Some("T"), Some("{}")]);
    assert!(body(&one(route.apply(&order))).contains("outbox.User.Value"));
    let mut columns = vec![("id", oid::UUID), ("aggregatetype", oid::TEXT), ("aggregateid", oid::TEXT)];
    columns.extend([("type", oid::INT4), ("payload", oid::JSONB)]);
    let other = insert(&table("other", &columns), &[Some(ID), Some("Order"), Some("k"), Some("1"), Some("{}")]);
    assert!(reason(route.apply(&other)).contains("does not fit the schema"));
}

fn decoding(schemas: bool, options: OutboxOptions) -> ChainRoute {
    let decode = Transform::DecodeLogicalDecodingMessageContent(DecodeOptions::default());
    let links = [decode.into(), Transform::EventRouter(options).into()];
    build_with(&links, Compatibility::Default, schemas).unwrap()
}

fn decoded(payload: &str) -> Change {
    let content = format!(r#"{{"id":"i1","aggregatetype":"User","aggregateid":7,"type":"T","payload":{payload}}}"#);
    message_of("outbox", &content)
}

#[test]
fn a_logical_message_is_an_event_with_its_payload_as_it_was_written() {
    let mut route = decoding(false, OutboxOptions::default());
    let payload = r#"{"a":1.50,"b":[1,"x",null],"big":123456789012345678901234567890}"#;
    let message = one(route.apply(&decoded(payload)));
    assert_eq!((&*message.topic, &*message.id.0, body(&message)), ("outbox.event.User", "i1", payload));
    assert_eq!(message.key.as_deref(), Some(&b"7"[..]));
    assert_eq!(message.event_type.as_deref(), Some("T"));
    assert_eq!(body(&one(route.apply(&decoded("\"text\"")))), "\"text\"");
    assert_eq!(body(&one(route.apply(&decoded("1.50")))), "1.50");
    assert_eq!(body(&one(decoding(false, expanding()).apply(&decoded(r#""{\"a\": 1}""#)))), r#"{"a": 1}"#);
    let message = one(decoding(true, OutboxOptions::default()).apply(&decoded(r#"{"a":{"b":null}}"#)));
    assert!(
        body(&message).contains(r#""name":"payload.a""#) && body(&message).ends_with(r#""payload":{"a":{"b":null}}}"#)
    );
}

#[test]
fn with_schemas_a_number_beyond_a_double_is_a_text_with_all_its_digits() {
    let payload = |text: &str| body(&one(decoding(true, OutboxOptions::default()).apply(&decoded(text)))).to_owned();
    assert!(payload("1.5").ends_with(r#"{"schema":{"type":"double","optional":true},"payload":1.5}"#));
    assert!(payload("12345678901234567.89").ends_with(r#""payload":"12345678901234567.89"}"#));
    assert!(payload("123456789012345678901234567890").ends_with(r#""payload":"123456789012345678901234567890"}"#));
}

#[test]
fn what_a_format_cannot_say_is_rejected_and_never_written_as_java_would_print_it() {
    let columns = [
        ("id", oid::UUID),
        ("aggregatetype", oid::TEXT),
        ("aggregateid", oid::TEXT),
        ("payload", oid::BYTEA),
        ("at", oid::DATE),
    ];
    let change =
        insert(&table("outbox", &columns), &[Some(ID), Some("U"), Some("k"), Some("\\x00ff"), Some("2024-05-01")]);
    let route = |format, header, compatibility, placement: Option<&str>| {
        let of = |format| Converter::of(format, false, compatibility);
        let converters = Converters { key: of(Format::String), value: of(format), header: of(header) };
        let settings = ChangeSettings { compatibility, topic_prefix: "app".into(), ..ChangeSettings::default() };
        let options = OutboxOptions { placement: placement.map(Into::into), ..OutboxOptions::default() };
        let changes = ChangeOptions { time: TimeMode::Connect, ..ChangeOptions::default() };
        ChainRoute::new(&[Transform::EventRouter(options).into()], &changes, &settings, converters)
            .unwrap()
            .apply(&change)
    };
    let (default, strict) = (Compatibility::Default, Compatibility::Strict);
    assert_eq!(one(route(Format::Binary, Format::Plain, default, None)).payload.as_deref(), Some(&[0, 255][..]));
    assert!(reason(route(Format::String, Format::Plain, default, None)).contains("bytes"));
    assert!(body(&one(route(Format::String, Format::Plain, strict, None))).starts_with("java.nio.HeapByteBuffer"));
    let placed = Some("at:header");
    assert!(reason(route(Format::Json, Format::Plain, strict, placed)).contains("header at"));
    let message = one(route(Format::Json, Format::Plain, default, placed));
    assert_eq!(message.headers.0[1].value, HeaderValue::Int(19_844));
}

#[test]
fn a_message_that_is_no_json_object_is_rejected_and_rows_pass_to_the_router() {
    let mut route = decoding(false, OutboxOptions::default());
    for content in ["", "text", "[1]", "{\"a\":", "{} x", "1"] {
        assert!(reason(route.apply(&message_of("p", content))).contains("no JSON object"), "{content}");
    }
    assert!(reason(route.apply(&message_of("p", "{}"))).contains("payload"), "an object that is no event");
    assert_eq!(&*one(route.apply(&user(None))).topic, "outbox.event.User");
    let plain = one(chain(&[router(None, false)]).apply(&message_of("p", "x")));
    assert_eq!(&*plain.topic, "app.message", "not decoded, it passes as it is");
}

#[test]
fn event_times_are_read_from_every_type_that_has_one() {
    for (type_oid, text, us) in [
        (oid::TIMESTAMP, "2024-05-01 10:00:00.123456", 1_714_557_600_123_456),
        (oid::TIMESTAMPTZ, "2024-05-01 12:00:00.5+02", 1_714_557_600_500_000),
        (oid::DATE, "2024-05-01", 1_714_521_600_000_000),
        (oid::TIMESTAMP, "infinity", 1_700_000_000_123_456),
        (oid::DATE, "infinity", 1_700_000_000_123_456),
    ] {
        let mut columns = vec![("id", oid::UUID), ("aggregatetype", oid::TEXT), ("aggregateid", oid::TEXT)];
        columns.extend([("payload", oid::TEXT), ("at", type_oid)]);
        let options = OutboxOptions { timestamp_column: Some("at".into()), ..OutboxOptions::default() };
        let change = insert(&table("outbox", &columns), &[Some(ID), Some("U"), Some("k"), None, Some(text)]);
        let message = one(chain(&[Transform::EventRouter(options).into()]).apply(&change));
        assert_eq!(message.timestamp.0, us, "{text}");
    }
}
