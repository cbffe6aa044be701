//! Which column goes where, which change becomes a message, and what is refused.

use super::*;

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
            Routed::Message(_) | Routed::Messages(_) => "message",
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

/// A reconnect describes the same table again: nothing is said twice, and nothing changes.
#[test]
fn the_same_table_in_a_new_stream_is_known() {
    let row = |table: &Arc<Relation>| insert(table, &[Some("U"), Some("k"), Some("{}")]);
    let table = || relation("outbox", &[("aggregatetype", TEXT), ("aggregateid", TEXT), ("payload", JSON)]);
    let mut router = router(&OutboxOptions::default());
    let first = message(router.apply(&row(&table())));
    assert_eq!(router.notices().len(), 1);
    assert_eq!(message(router.apply(&row(&table()))), first);
    assert!(router.notices().is_empty());
}

/// T47: a header says how far a replica must have replayed the log; what is not from the log has none.
#[test]
fn the_position_of_the_commit_is_a_header_where_it_is_asked_for() {
    let options = OutboxOptions { lsn_header: Some("lsn".into()), ..OutboxOptions::default() };
    let mut change = user_created(Some("{}"));
    let lsn = HeaderValue::Text("0/65".into()); // one byte into the record that begins at 100
    assert_eq!(headers(&message(router(&options).apply(&change)))[1], ("lsn", lsn));
    change.commit = Arc::new(Commit { xid: None, ..(*change.commit).clone() });
    assert_eq!(headers(&message(router(&options).apply(&change))).len(), 1);
    let strict = RouteSettings { compatibility: Compatibility::Strict, ..RouteSettings::default() };
    assert_eq!(OutboxRouter::new(&options, strict).unwrap_err(), RouteConfigError::LsnHeader);
}
