//! `ExtractNewRecordState` by default.

use super::*;
use crate::HeaderValue;

fn unwrap(options: UnwrapOptions) -> ChainRoute {
    chain(&[Transform::ExtractNewRecordState(options).into()])
}

fn deletes(deletes: DeleteHandling) -> UnwrapOptions {
    UnwrapOptions { deletes, ..UnwrapOptions::default() }
}

fn people() -> Arc<Relation> {
    table("people", &[("id", oid::INT4), ("name", oid::TEXT), ("team", oid::TEXT)])
}

fn with_identity(relation: &Arc<Relation>, identity: ReplicaIdentity) -> Arc<Relation> {
    Arc::new(Relation { identity, ..(**relation).clone() })
}

/// Of the log's two forms: only the key, or all of it.
fn delete(full: bool) -> Change {
    let old = tuple(&[Some("1"), Some("a").filter(|_| full), Some("red").filter(|_| full)]);
    if full {
        row(&with_identity(&people(), ReplicaIdentity::Full), Operation::Delete, Some(OldTuple::Full(old)), None)
    } else {
        row(&people(), Operation::Delete, Some(OldTuple::Key(old)), None)
    }
}

fn joe() -> Change {
    insert(&people(), &[Some("1"), Some("a"), None])
}

#[test]
fn the_row_stands_alone_and_a_delete_is_a_real_tombstone() {
    for mode in [DeleteHandling::Tombstone, DeleteHandling::DeleteToTombstone] {
        let mut route = unwrap(deletes(mode));
        assert_eq!(body(&one(route.apply(&joe()))), r#"{"id":1,"name":"a","team":null}"#);
        let gone = one(route.apply(&delete(false)));
        assert_eq!((body(&gone), gone.key.as_deref()), ("tombstone", Some(&br#"{"id":1}"#[..])));
    }
    assert_eq!(unwrap(deletes(DeleteHandling::Drop)).apply(&delete(false)), Routed::Filtered("tombstone"));
}

#[test]
fn rewriting_says_what_was_deleted_and_makes_nothing_up() {
    let mut route = unwrap(deletes(DeleteHandling::Rewrite));
    assert_eq!(body(&one(route.apply(&joe()))), r#"{"id":1,"name":"a","team":null,"__deleted":"false"}"#);
    let gone = one(route.apply(&delete(true)));
    assert_eq!(body(&gone), r#"{"id":1,"name":"a","team":"red","__deleted":"true"}"#);
    let gone = one(route.apply(&delete(false)));
    assert_eq!(body(&gone), r#"{"id":1,"name":null,"team":null,"__deleted":"true"}"#);
    let both = messages(unwrap(deletes(DeleteHandling::RewriteWithTombstone)).apply(&delete(true)));
    assert_eq!(both.iter().map(|message| message.payload.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_ne!(both[0].id, both[1].id);
}

#[test]
fn a_null_is_written_as_the_columns_default_only_when_asked() {
    let mut relation = (*people()).clone();
    relation.columns[2].catalog.as_mut().unwrap().default = Some("'blue'::text".into());
    let joe = insert(&Arc::new(relation), &[Some("1"), Some("a"), None]);
    let team = |replace_null| {
        let options = UnwrapOptions { replace_null, ..deletes(DeleteHandling::Rewrite) };
        body(&one(unwrap(options).apply(&joe))).contains(r#""team":"blue""#)
    };
    assert_eq!([team(None), team(Some(false)), team(Some(true))], [false, false, true]);
}

#[test]
fn members_of_the_envelope_are_placed_beside_the_row_and_in_headers() {
    let options = UnwrapOptions {
        add_fields: Some("op, table,source.lsn,ts_ms:time,before.name:was".into()),
        add_headers: Some("op,source.txId,id".into()),
        add_headers_prefix: "x_".into(),
        ..UnwrapOptions::default()
    };
    let message = one(unwrap(options.clone()).apply(&joe()));
    let expected = concat!(
        r#"{"id":1,"name":"a","team":null,"__op":"c","__table":"people","__source_lsn":90,"#,
        r#""__time":1700000000123,"__was":null}"#
    );
    assert_eq!(body(&message), expected);
    let headers: Vec<_> = message.headers.0.iter().map(|header| (&*header.name, header.value.clone())).collect();
    let text = HeaderValue::Text(Bytes::from_static(b"c"));
    assert_eq!(headers, [("x_op", text), ("x_source_txId", HeaderValue::Int(7)), ("x_id", HeaderValue::Null)]);
    let options = UnwrapOptions { deletes: DeleteHandling::RewriteWithTombstone, ..options };
    let both = messages(unwrap(options).apply(&delete(true)));
    assert!(body(&both[0]).contains(r#""__was":"a""#));
    assert_eq!(both[1].headers.0.len(), 1, "a tombstone has its operation and nothing else");
}

#[test]
fn schemas_follow_the_row_and_its_further_members() {
    let options = UnwrapOptions { add_fields: Some("source.snapshot".into()), ..deletes(DeleteHandling::Rewrite) };
    let links = [Transform::ExtractNewRecordState(options).into()];
    let mut route = build_with(&links, Compatibility::Default, true).unwrap();
    let message = one(route.apply(&joe()));
    let schema = concat!(
        r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"},"#,
        r#"{"type":"string","optional":true,"field":"name"},{"type":"string","optional":true,"field":"team"},"#,
        r#"{"type":"string","optional":true,"field":"__deleted"},"#,
        r#"{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"#,
    );
    assert!(body(&message).starts_with(schema), "{}", body(&message));
    assert!(
        body(&message).contains(r#""field":"__source_snapshot"}],"optional":false,"name":"app.public.people.Value"}"#)
    );
    assert_eq!(one(route.apply(&joe())).payload, message.payload, "the schema that was remembered is the same");
}

#[test]
fn a_column_names_the_topic_if_it_is_known() {
    let route_by = |name: &str| UnwrapOptions { route_by: Some(name.into()), ..UnwrapOptions::default() };
    let mut route = unwrap(route_by("team"));
    let topic = |routed| one(routed).topic.to_string();
    assert_eq!(topic(route.apply(&insert(&people(), &[Some("1"), None, Some("red")]))), "red");
    assert_eq!(topic(route.apply(&joe())), "app.public.people");
    assert_eq!(topic(route.apply(&insert(&people(), &[Some("1"), None, Some("  ")]))), "app.public.people");
    assert_eq!(topic(route.apply(&delete(true))), "red");
    let why = reason(route.apply(&delete(false)));
    assert!(why.contains("REPLICA IDENTITY FULL"), "the row's topic cannot be known: {why}");
    assert!(reason(unwrap(route_by("id")).apply(&joe())).contains("no text"));
    assert!(reason(unwrap(route_by("nope")).apply(&joe())).contains("nope"));
}

#[test]
fn what_is_no_row_passes_and_a_truncate_is_filtered() {
    let message = one(unwrap(UnwrapOptions::default()).apply(&message_of("p", "x")));
    assert!(body(&message).starts_with(r#"{"op":"m""#));
    let truncate = Event::Truncate { relation: people(), cascade: false, restart_identity: false };
    let options = ChangeOptions { skipped_operations: "none".into(), ..ChangeOptions::default() };
    let links = [Transform::ExtractNewRecordState(UnwrapOptions::default()).into()];
    let settings = ChangeSettings { topic_prefix: "app".into(), ..ChangeSettings::default() };
    let mut route = ChainRoute::new(&links, &options, &settings, converters(Compatibility::Default, false)).unwrap();
    assert_eq!(route.apply(&change(truncate)), Routed::Filtered("truncate"));
}
