//! The report recipe as its file has it, and strict compatibility.

use super::*;

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
