//! Payloads, keys and headers in their formats.

use super::*;

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

proptest! {
    /// Whatever a row holds, it becomes a message with a valid JSON body or a rejection that keeps the row: no panic.
    #[test]
    fn any_row_is_routed_or_rejected(
        values in prop::collection::vec(prop::option::of("\\PC{0,12}|[\\x00-\\x7f]{0,12}|[0-9:. +-]{0,24}"), 6),
        types in prop::collection::vec(prop::sample::select(vec![
            16, 17, 20, 21, 23, 25, 114, 700, 701, 790, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 1007, 99_999,
        ]), 6),
        strict in any::<bool>(),
    ) {
        let names = ["id", "aggregatetype", "aggregateid", "payload", "a", "b"];
        let columns: Vec<_> = names.into_iter().zip(types).collect();
        // Text of type json is valid: the server has seen to it.
        let values: Vec<_> = values.iter().zip(&columns).map(|(value, (_, type_oid))| {
            value.as_deref().map(|text| if *type_oid == JSON { "{\"x\": [1]}" } else { text })
        }).collect();
        let options = OutboxOptions { timestamp_column: Some("b".into()), ..placed("a:envelope,b:envelope,a:header") };
        let mut router = router_with(&options, |s| {
            if strict {
                s.compatibility = Compatibility::Strict;
            }
        });
        match router.apply(&insert(&relation("outbox", &columns), &values)) {
            Routed::Message(message) => {
                serde_json::from_slice::<serde::de::IgnoredAny>(message.payload.as_deref().unwrap()).unwrap();
            }
            Routed::Rejected { reason, raw } => {
                prop_assert!(!reason.is_empty());
                serde_json::from_slice::<serde_json::Value>(raw.payload.as_deref().unwrap()).unwrap();
            }
            Routed::Filtered(name) => prop_assert!(false, "filtered as {}", name),
            Routed::Messages(_) => prop_assert!(false, "one row is one message"),
        }
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
