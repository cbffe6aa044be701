//! Files and connectors without the outbox event router: change events.

use super::*;
use tailwater::config::RouteKind;
use tailwater::sources::postgres::config::Autocreate;
use tailwater_core::transform::chain::{DeleteHandling, Predicate, Transform};
use tailwater_core::transform::changes::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode};
use tailwater_core::transform::outbox::OnUpdate;

const UNWRAP: &str = "debezium.transforms=u\ndebezium.transforms.u.type=io.debezium.transforms.ExtractNewRecordState\n";
const ROUTES: &str = "debezium.transforms=r\ndebezium.transforms.r.type=org.apache.kafka.connect.transforms.RegexRouter\n\
    debezium.transforms.r.regex=(.*)\\\\.public\\\\.(.*)\ndebezium.transforms.r.replacement=$1_$2\n";

/// The recipe without its transform.
pub fn plain(lines: &str) -> String {
    let kept: Vec<&str> = RECIPE.lines().filter(|line| !line.starts_with("debezium.transforms")).collect();
    format!("{}\n{lines}\n", kept.join("\n"))
}

fn changes(lines: &str) -> Loaded {
    load_with(&plain(lines), &[]).unwrap_or_else(|error| panic!("{lines}: {error}"))
}

#[track_caller]
fn plain_refused(lines: &str, parts: &[&str]) {
    let text = load_with(&plain(lines), &[]).expect_err(lines).to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn without_the_router_every_change_of_every_captured_table_is_an_event() {
    let loaded = changes("");
    let (source, pipeline, _) = parts(&loaded);
    assert_eq!(pipeline.route.kind, RouteKind::Changes);
    assert_eq!((source.table.as_str(), source.tables.include.as_str()), ("", ""));
    assert!(source.messages, "logical messages are events there");
    assert_eq!(source.publication_autocreate, Autocreate::Filtered);
    assert!(decision(&loaded, "debezium.source.publication.autocreate.mode").unwrap().contains("captured tables"));
    let route = &pipeline.route;
    assert_eq!((route.key_format(), route.value_format, route.value_schemas), (Format::Json, Format::Json, false));
    assert_eq!(route.changes, Default::default(), "the defaults are Debezium's");
}

#[test]
fn the_options_of_change_events_are_those_of_the_file() {
    let loaded = changes(
        "debezium.source.table.include.list=public.orders,public.items\n\
         debezium.source.schema.exclude.list=audit\n\
         debezium.source.column.exclude.list=public.orders.secret\n\
         debezium.source.message.key.columns=public.orders:number\n\
         debezium.source.message.prefix.include.list=shop.*\n\
         debezium.source.skipped.operations=none\n\
         debezium.source.skip.messages.without.change=true\n\
         debezium.source.tombstones.on.delete=false\n\
         debezium.source.topic.delimiter=_\n\
         debezium.source.decimal.handling.mode=STRING\n\
         debezium.source.time.precision.mode=adaptive_time_microseconds\n\
         debezium.source.interval.handling.mode=string\n\
         debezium.source.hstore.handling.mode=map\n\
         debezium.source.binary.handling.mode=base64-url-safe\n\
         debezium.source.money.fraction.digits=3\n\
         debezium.source.unavailable.value.placeholder=gone\n\
         debezium.source.snapshot.mode=no_data\n\
         debezium.source.publish.via.partition.root=true\n\
         debezium.source.publication.autocreate.mode=all_tables",
    );
    let (source, pipeline, _) = parts(&loaded);
    assert_eq!(source.tables.include, "public.orders,public.items");
    assert_eq!(source.tables.exclude_schemas, "audit");
    assert_eq!((source.snapshot, source.publication_autocreate), (Snapshot::Never, Autocreate::AllTables));
    assert!(source.publish_via_partition_root);
    let options = &pipeline.route.changes;
    assert_eq!(options.column_exclude.as_deref(), Some("public.orders.secret"));
    assert_eq!(options.message_key_columns.as_deref(), Some("public.orders:number"));
    assert_eq!(options.message_prefix_include.as_deref(), Some("shop.*"));
    assert_eq!((options.skipped_operations.as_str(), options.topic_delimiter.as_str()), ("none", "_"));
    assert!(options.skip_unchanged && !options.tombstones_on_delete);
    assert_eq!((options.decimal, options.time), (DecimalMode::String, TimeMode::AdaptiveTimeMicroseconds));
    assert_eq!((options.interval, options.hstore), (IntervalMode::String, HstoreMode::Map));
    assert_eq!((options.binary, options.money_fraction_digits), (BinaryMode::Base64UrlSafe, 3));
    assert_eq!(options.unavailable_value, "gone");
}

#[test]
fn what_change_events_cannot_do_is_refused_by_name() {
    for (line, tells) in [
        ("debezium.source.time.precision.mode=structured", "structured"),
        ("debezium.source.publication.autocreate.mode=filterd", "did you mean filtered?"),
        ("debezium.source.skipped.operations=x", "skipped_operations"),
        ("debezium.source.column.include.list=a.b.(", "column_include"),
        ("debezium.source.column.mask.hash.v2.SHA-256.with.salt.x=a.b.c", "masked"),
        ("debezium.source.column.propagate.source.type=.*", "column.propagate.source.type"),
        ("debezium.source.schema.name.adjustment.mode=avro", "schema.name.adjustment.mode"),
        ("debezium.source.provide.transaction.metadata=true", "transaction markers"),
        ("debezium.source.replica.identity.autoset.values=public.a:FULL", "REPLICA IDENTITY"),
        ("debezium.source.include.unknown.datatypes=true", "column.exclude.list"),
        ("debezium.source.unavailable.value.placeholder=hex:00", "hex:"),
        ("debezium.source.money.fraction.digits=0", "money_fraction_digits"),
        ("debezium.source.snapshot.mode=always", "initial or no_data"),
        ("debezium.source.tombstone.on.delete=true", "did you mean `debezium.source.tombstones.on.delete`?"),
        ("debezium.source.topic.prefix=", "every topic begins with it"),
        ("debezium.format.decimal.format=ODD", "neither BASE64 nor NUMERIC"),
        ("debezium.transforms=x\ndebezium.transforms.x.type=org.example.Odd", "`org.example.Odd` is not part"),
        ("debezium.transforms=x", "debezium.transforms.x.type: is missing"),
        (&format!("{UNWRAP}debezium.transforms.u.drop.tombstones=true"), "delete.tombstone.handling.mode"),
        (&format!("{UNWRAP}debezium.transforms.u.delete.tombstone.handling.mode=odd"), "odd"),
        (&format!("{UNWRAP}debezium.transforms.u.regex=x"), "`regex` is no option of io.debezium"),
        (&format!("{UNWRAP}debezium.transforms.u.ad.fields=x"), "did you mean `debezium.transforms.u.add.fields`?"),
        (&format!("{UNWRAP}debezium.transforms.u.predicate=p"), "predicate `p` is not in debezium.predicates"),
        (&format!("{UNWRAP}debezium.transforms.u.negate=true"), "no predicate to turn round"),
        (&format!("{ROUTES}debezium.transforms.r.regex=("), "route.transforms"),
        (
            "debezium.transforms=r\ndebezium.transforms.r.type=org.apache.kafka.connect.transforms.RegexRouter",
            "needs regex",
        ),
        ("debezium.format.value=binary", "a change event is a struct"),
        ("tailwater.source.table=public.outbox", "source.tables"),
        ("tailwater.prune.batch=10", "not ours to delete"),
        ("debezium.source.table.exclude.list=a.b\ndebezium.source.table.include.list=a.c", "exclude each other"),
    ] {
        plain_refused(line, &[tells]);
    }
}

#[test]
fn a_router_that_the_list_of_transforms_forgets_is_no_change_event() {
    let text = recipe_without("debezium.transforms").unwrap_err().to_string();
    assert!(
        text.contains("debezium.transforms: is missing") && text.contains("write debezium.transforms=outbox"),
        "{text}"
    );
}

#[test]
fn strict_compatibility_has_the_defaults_of_debezium_server() {
    let loaded = changes("tailwater.compatibility=strict");
    let route = &parts(&loaded).1.route;
    assert!(route.key_schemas && route.value_schemas && route.header_schemas);
    assert_eq!((route.key_format(), route.header_format), (Format::Json, Format::Json));
    assert!(parts(&loaded).0.catalog);
    let without = changes("tailwater.compatibility=strict\ndebezium.format.schemas.enable=false");
    assert!(!parts(&without).1.route.value_schemas);
}

#[test]
fn decimals_are_numbers_where_a_file_asks_for_them() {
    let numeric = |lines: &str| {
        let route = parts(&changes(lines)).1.route.clone();
        [route.key_numeric, route.value_numeric]
    };
    assert_eq!(numeric(""), [false; 2]);
    assert_eq!(numeric("debezium.format.decimal.format=NUMERIC"), [true; 2]);
    assert_eq!(numeric("debezium.format.value.decimal.format=numeric"), [false, true]);
}

#[test]
fn transforms_become_a_chain_in_their_order_with_their_predicates() {
    let loaded = changes(
        "debezium.transforms=decode,outbox,unwrap,names\n\
         debezium.transforms.decode.type=io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent\n\
         debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         debezium.transforms.outbox.table.expand.json.payload=TRUE\n\
         debezium.transforms.outbox.table.op.invalid.behavior=ERROR\n\
         debezium.transforms.outbox.route.by.field=kind\n\
         debezium.transforms.outbox.predicate=box\n\
         debezium.transforms.unwrap.type=io.debezium.transforms.ExtractNewRecordState\n\
         debezium.transforms.unwrap.add.fields=op,source.lsn\n\
         debezium.transforms.unwrap.delete.tombstone.handling.mode=rewrite\n\
         debezium.transforms.unwrap.predicate=gone\n\
         debezium.transforms.unwrap.negate=true\n\
         debezium.transforms.names.type=org.apache.kafka.connect.transforms.RegexRouter\n\
         debezium.transforms.names.regex=(?<head>.*)\\\\.public\\\\.(.*)\n\
         debezium.transforms.names.replacement=${head}_$2\n\
         debezium.predicates=box,gone\n\
         debezium.predicates.box.type=org.apache.kafka.connect.transforms.predicates.TopicNameMatches\n\
         debezium.predicates.box.pattern=outbox.public.box\n\
         debezium.predicates.gone.type=org.apache.kafka.connect.transforms.predicates.RecordIsTombstone",
    );
    let [decode, outbox, unwrap, names] = &parts(&loaded).1.route.transforms[..] else { panic!("four links") };
    assert!(matches!(decode.transform, Transform::DecodeLogicalDecodingMessageContent(_)));
    let Transform::EventRouter(options) = &outbox.transform else { panic!("{outbox:?}") };
    assert!(options.expand_json && options.route_by == "kind" && options.on_update == OnUpdate::Error);
    assert_eq!(outbox.predicate, Some(Predicate::TopicNameMatches("outbox.public.box".into())));
    let Transform::ExtractNewRecordState(options) = &unwrap.transform else { panic!("{unwrap:?}") };
    assert_eq!((options.add_fields.as_deref(), options.deletes), (Some("op,source.lsn"), DeleteHandling::Rewrite));
    assert_eq!((&unwrap.predicate, unwrap.negate), (&Some(Predicate::RecordIsTombstone), true));
    let Transform::RegexRouter(options) = &names.transform else { panic!("{names:?}") };
    assert_eq!((options.regex.as_str(), options.replacement.as_str()), (r"(?<head>.*)\.public\.(.*)", "${head}_$2"));
}

#[test]
fn a_router_for_one_of_several_tables_leaves_the_others_as_change_events() {
    let loaded = recipe_and(
        "debezium.source.table.include.list=public.orders,public.box\n\
         debezium.predicates=p\n\
         debezium.predicates.p.type=org.apache.kafka.connect.transforms.predicates.TopicNameMatches\n\
         debezium.predicates.p.pattern=outbox\\\\.public\\\\.box\n\
         debezium.transforms.outbox.predicate=p",
    )
    .unwrap();
    let (source, pipeline, _) = parts(&loaded);
    assert_eq!((pipeline.route.kind, source.tables.include.as_str()), (RouteKind::Changes, "public.orders,public.box"));
    assert!(matches!(pipeline.route.transforms[0].transform, Transform::EventRouter(_)));
}
