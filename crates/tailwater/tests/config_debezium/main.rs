//! Files of Debezium Server: accepted as they are, with every decision said; what cannot be is refused by name.
#![allow(clippy::unwrap_used)] // a panic is a failed test

mod changes;
mod docs;

use tailwater::config::load::{Inputs, load};
use tailwater::config::origin::{ConfigError, Loaded};
use tailwater::config::{PipelineConfig, SinkConfig};
use tailwater::sinks::rabbitmq::config::{RabbitmqConfig, RoutingKey};
use tailwater::sources::postgres::config::{PostgresConfig, Snapshot};
use tailwater_core::route::{Compatibility, Format};

const RECIPE: &str = "\
debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.database.hostname=localhost
debezium.source.database.port=5432
debezium.source.database.user=debezium
debezium.source.database.password=password
debezium.source.database.dbname=your_db
debezium.source.topic.prefix=outbox
debezium.source.plugin.name=pgoutput
debezium.source.slot.name=outbox_slot
debezium.source.publication.name=outbox_pub
debezium.sink.type=rabbitmq
debezium.sink.rabbitmq.connection.host=localhost
debezium.sink.rabbitmq.connection.port=5672
debezium.sink.rabbitmq.connection.username=guest
debezium.sink.rabbitmq.connection.password=guest
debezium.sink.rabbitmq.exchange=events
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.table.field.event.key=idempotency_key
debezium.transforms.outbox.table.field.event.payload=payload
debezium.transforms.outbox.table.fields.additional.placement=event_type:envelope:event_type,idempotency_key:envelope:idempotency_key
debezium.transforms.outbox.table.expand.json.payload=true
debezium.transforms.outbox.route.by.field=event_type
debezium.transforms.outbox.route.topic.replacement=${routedByValue}
";

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("application.properties");
    std::fs::write(&file, text).unwrap();
    load(&Inputs {
        file: Some(file),
        environment: environment.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        ..Inputs::default()
    })
}

/// The recipe with lines added (the last of one key counts).
fn recipe_and(lines: &str) -> Result<Loaded, ConfigError> {
    load_with(&format!("{RECIPE}{lines}\n"), &[])
}

fn recipe_without(key: &str) -> Result<Loaded, ConfigError> {
    load_with(&RECIPE.lines().filter(|line| !line.starts_with(&format!("{key}="))).collect::<Vec<_>>().join("\n"), &[])
}

fn parts(loaded: &Loaded) -> (&PostgresConfig, &PipelineConfig, &RabbitmqConfig) {
    let pipeline = &loaded.config.pipelines["outbox"];
    let source = pipeline.source.log().unwrap();
    let SinkConfig::Rabbitmq(sink) = &pipeline.sink else { panic!("not rabbitmq") };
    (source, pipeline, sink)
}

fn decision<'a>(loaded: &'a Loaded, key: &str) -> Option<&'a str> {
    loaded.decisions.iter().find(|d| d.key == key).map(|d| d.text.as_str())
}

fn noticed(loaded: &Loaded, key: &str) -> bool {
    loaded.notices.iter().any(|notice| notice.key == key)
}

#[track_caller]
fn refused(lines: &str, parts: &[&str]) {
    let text = recipe_and(lines).expect_err(lines).to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn the_recipe_is_accepted_unchanged() {
    let loaded = load_with(RECIPE, &[]).unwrap();
    let (source, pipeline, sink) = parts(&loaded);
    assert_eq!(source.connection.host.as_deref(), Some("localhost"));
    assert_eq!(source.connection.port, Some(5432));
    assert_eq!(source.connection.user.as_deref(), Some("debezium"));
    assert_eq!(source.connection.password.as_ref().unwrap().expose(), "password");
    assert_eq!(source.connection.dbname.as_deref(), Some("your_db"));
    assert_eq!((source.slot.as_str(), source.publication.as_str()), ("outbox_slot", "outbox_pub"));
    assert_eq!((source.table.as_str(), source.snapshot), ("public.outbox", Snapshot::Initial));
    assert_eq!(sink.urls[0].expose(), "amqp://localhost:5672");
    assert_eq!(sink.username.as_deref(), Some("guest"));
    assert_eq!((sink.exchange.as_str(), &sink.routing_key), ("events", &RoutingKey::Topic));
    let outbox = &pipeline.route.outbox;
    assert_eq!((outbox.id_column.as_deref(), outbox.key_column.as_str()), (None, "idempotency_key"));
    assert_eq!((outbox.route_by.as_str(), outbox.topic_replacement.as_str()), ("event_type", "${routedByValue}"));
    assert!(outbox.expand_json);
    assert_eq!(
        outbox.placement.as_deref(),
        Some("event_type:envelope:event_type,idempotency_key:envelope:idempotency_key")
    );
    assert_eq!((pipeline.route.value_format, pipeline.route.header_format), (Format::Json, Format::Plain));
    assert_eq!(pipeline.route.compatibility, Compatibility::Default);
    assert_eq!(pipeline.route.topic_prefix, "outbox");
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    let origin = loaded.origins.of("pipelines.outbox.source.slot").to_string();
    assert!(origin.ends_with("application.properties:9 (debezium.source.slot.name)"), "{origin}");
}

#[test]
fn every_decision_for_the_author_of_the_recipe_is_said() {
    let loaded = load_with(RECIPE, &[]).unwrap();
    let keys: Vec<&str> = loaded.decisions.iter().map(|d| d.key.as_str()).collect();
    for key in [
        "debezium.transforms.outbox.route.topic.replacement",
        "debezium.source.offset.storage.file.filename",
        "debezium.transforms.outbox.table.field.event.id",
        "debezium.sink.rabbitmq.routingKey.source",
        "debezium.format.value.schemas.enable",
        "debezium.format.header",
        "debezium.source.publication.autocreate.mode",
        "debezium.source.table.include.list",
        "debezium.source.snapshot.mode",
        "tailwater.delivery.on_rejected",
        "quarkus.http.port",
    ] {
        assert!(keys.contains(&key), "{key} is missing in {keys:#?}");
    }
    assert_eq!(keys.len(), 11, "{keys:#?}");
    assert!(
        decision(&loaded, "debezium.transforms.outbox.table.field.event.id").unwrap().contains("`idempotency_key`")
    );
}

#[test]
fn the_five_lines_that_mend_the_recipe_there_are_accepted_too() {
    let loaded = recipe_and(
        "debezium.transforms.outbox.route.topic.replacement=$${routedByValue}\n\
         debezium.source.offset.storage.file.filename=offsets.dat\n\
         debezium.transforms.outbox.table.field.event.id=idempotency_key\n\
         debezium.sink.rabbitmq.routingKey.source=topic\n\
         debezium.format.value.schemas.enable=false",
    )
    .unwrap();
    let (_, pipeline, sink) = parts(&loaded);
    assert_eq!(pipeline.route.outbox.topic_replacement, "${routedByValue}");
    assert_eq!(pipeline.route.outbox.id_column.as_deref(), Some("idempotency_key"));
    assert_eq!(sink.routing_key, RoutingKey::Topic);
    for key in [
        "debezium.transforms.outbox.route.topic.replacement",
        "debezium.source.offset.storage.file.filename",
        "debezium.transforms.outbox.table.field.event.id",
        "debezium.sink.rabbitmq.routingKey.source",
        "debezium.format.value.schemas.enable",
    ] {
        assert_eq!(decision(&loaded, key), None, "nothing was decided for the author");
    }
    assert!(noticed(&loaded, "debezium.source.offset.storage.file.filename"));
}

#[test]
fn a_routing_key_is_what_the_file_asks_for() {
    let key = |lines: &str| parts(&recipe_and(lines).unwrap()).2.routing_key.clone();
    assert_eq!(key("debezium.sink.rabbitmq.routingKey=fixed"), RoutingKey::Static("fixed".into()));
    assert_eq!(key("debezium.sink.rabbitmq.routingKey.source=key"), RoutingKey::Key);
    assert_eq!(key("debezium.sink.rabbitmq.routingKey.source=static"), RoutingKey::Static("".into()));
    assert_eq!(key("debezium.sink.rabbitmq.routingKeyFromTopicName=true"), RoutingKey::Topic);
    refused("debezium.sink.rabbitmq.routingKey.source=topik", &["routingKey.source", "did you mean topic?"]);
}

#[test]
fn schema_wrappers_are_there_where_they_are_asked_for() {
    let schemas = |lines: &str| {
        let route = parts(&recipe_and(lines).unwrap()).1.route.clone();
        [route.key_schemas, route.value_schemas, route.header_schemas]
    };
    assert_eq!(schemas(""), [false; 3]);
    assert_eq!(schemas("debezium.format.value.schemas.enable=true"), [false, true, false]);
    assert_eq!(schemas("debezium.format.schemas.enable=true"), [false, true, false], "key and headers are plain text");
    let all = "debezium.format.schemas.enable=true\ndebezium.format.key=json\ndebezium.format.header=json";
    assert_eq!(schemas(all), [true; 3]);
    assert_eq!(schemas(&format!("{all}\ndebezium.format.value.schemas.enable=false")), [true, false, true]);
    let loaded = recipe_and("debezium.format.header.schemas.enable=true").unwrap();
    assert_eq!((parts(&loaded).1.route.header_format, parts(&loaded).1.route.header_schemas), (Format::Json, true));
    assert_eq!(decision(&loaded, "debezium.format.header"), None);
}

#[test]
fn formats_of_this_version_work_and_others_are_refused() {
    let value = |name: &str| parts(&recipe_and(&format!("debezium.format.value={name}")).unwrap()).1.route.value_format;
    assert_eq!(value("json"), Format::Json);
    assert_eq!(value("jsonbytearray"), Format::Json);
    assert_eq!(value("simplestring"), Format::String);
    let headers = "debezium.transforms.outbox.table.fields.additional.placement=event_type:header";
    assert_eq!(value(&format!("binary\n{headers}")), Format::Binary);
    refused("debezium.format.value=binary", &["fields.additional.placement", "no room for envelope placements"]);
    let loaded = recipe_and("debezium.format.value=simplestring").unwrap();
    assert_eq!(decision(&loaded, "debezium.format.value.schemas.enable"), None, "text has no schema anyway");
    refused("debezium.format.value=avro", &["`avro` is not part of this version"]);
    refused("debezium.format.value=nope", &["there is no format `nope`"]);
    refused("debezium.format.header=simplestring", &["no header format"]);
    let loaded = recipe_and("debezium.format.header=json\ndebezium.format.header.schemas.enable=false").unwrap();
    assert_eq!(parts(&loaded).1.route.header_format, Format::Json);
}

#[test]
fn snapshot_modes_are_mapped_or_refused() {
    let mode = |name: &str| parts(&recipe_and(&format!("debezium.source.snapshot.mode={name}")).unwrap()).0.snapshot;
    assert_eq!(mode("initial"), Snapshot::Initial);
    assert_eq!(mode("no_data"), Snapshot::Never);
    assert_eq!(mode("never"), Snapshot::Never);
    assert_eq!(mode("when_needed"), Snapshot::Initial);
    for wrong in ["always", "initial_only", "custom", "recovery"] {
        refused(&format!("debezium.source.snapshot.mode={wrong}"), &[wrong, "initial or no_data"]);
    }
}

#[test]
fn the_outbox_table_is_found_or_asked_for() {
    let table = |lines: &str| parts(&recipe_and(lines).unwrap()).0.table.clone();
    assert_eq!(table("debezium.source.table.include.list=shop.events"), "shop.events");
    assert_eq!(table(r"debezium.source.table.include.list=shop\\.events"), "shop.events");
    assert_eq!(table("debezium.source.schema.include.list=shop"), "shop.outbox");
    refused("debezium.source.table.include.list=public.orders,public.box", &["which table is the outbox"]);
    refused("debezium.source.table.include.list=public.out.*", &["which table is the outbox"]);
    let wrong = "debezium.source.schema.include.list=a\ndebezium.source.table.include.list=b.outbox";
    refused(wrong, &["b.outbox is not in schema a"]);
}

#[test]
fn predicates_restrict_the_router() {
    let lines = |class: &str| {
        format!(
            "debezium.predicates=isOutbox\ndebezium.predicates.isOutbox.type={class}\n\
             debezium.predicates.isOutbox.pattern=outbox.public.outbox\n\
             debezium.transforms.outbox.predicate=isOutbox\n"
        )
    };
    let class = "org.apache.kafka.connect.transforms.predicates.TopicNameMatches";
    let loaded = recipe_and(&lines(class)).unwrap();
    assert_eq!(parts(&loaded).1.route.only_topics.as_deref(), Some("outbox.public.outbox"));
    assert!(!parts(&loaded).1.route.negate);
    refused(&lines("org.example.Odd"), &["org.example.Odd"]);
    refused("debezium.transforms.outbox.predicate=other", &["predicate `other` is not in debezium.predicates"]);
    refused("debezium.transforms.outbox.negate=true", &["no predicate to turn round"]);
}

#[test]
fn a_predicate_that_never_matches_is_refused() {
    let lines = "debezium.predicates=p\n\
        debezium.predicates.p.type=org.apache.kafka.connect.transforms.predicates.TopicNameMatches\n\
        debezium.predicates.p.pattern=shop.event.*\ndebezium.transforms.outbox.predicate=p\n";
    refused(lines, &["only_topics", "outbox.public.outbox"]);
    let negated = "debezium.predicates=p\n\
        debezium.predicates.p.type=org.apache.kafka.connect.transforms.predicates.TopicNameMatches\n\
        debezium.predicates.p.pattern=outbox.*\ndebezium.transforms.outbox.predicate=p\n\
        debezium.transforms.outbox.negate=true";
    refused(negated, &["only_topics"]);
}

#[test]
fn options_of_transforms_that_the_list_does_not_name_are_noticed() {
    let loaded = recipe_and("debezium.transforms.old.route.by.field=x").unwrap();
    assert!(noticed(&loaded, "debezium.transforms.old.route.by.field"));
}

/// The recipe with Kafka instead of RabbitMQ.
fn kafka_recipe(lines: &str) -> String {
    let kept: Vec<&str> = RECIPE.lines().filter(|line| !line.starts_with("debezium.sink.")).collect();
    format!(
        "{}\ndebezium.sink.type=kafka\ndebezium.sink.kafka.producer.bootstrap.servers=k1:9092, k2:9092\n{lines}\n",
        kept.join("\n")
    )
}

#[test]
fn the_java_clients_settings_are_taken_over_or_refused_by_name() {
    let lines = r#"
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.acks=all
debezium.sink.kafka.producer.compression.type=zstd
debezium.sink.kafka.producer.linger.ms=20
debezium.sink.kafka.producer.security.protocol=SASL_SSL
debezium.sink.kafka.producer.sasl.mechanism=SCRAM-SHA-512
debezium.sink.kafka.producer.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="relay" password="hidden";
debezium.sink.kafka.producer.ssl.truststore.type=PEM
debezium.sink.kafka.producer.ssl.truststore.location=/etc/ca.pem
debezium.sink.rabbitmq.connection.host=other"#;
    let loaded = load_with(&kafka_recipe(lines), &[]).unwrap();
    let SinkConfig::Kafka(sink) = &loaded.config.pipelines["outbox"].sink else { panic!("not kafka") };
    assert_eq!(sink.bootstrap_servers, ["k1:9092", "k2:9092"]);
    assert_eq!((sink.protocol().name(), sink.sasl_mechanism.unwrap().name()), ("SASL_SSL", "SCRAM-SHA-512"));
    assert_eq!((sink.username.as_deref(), sink.password.as_ref().unwrap().expose()), (Some("relay"), "hidden"));
    assert_eq!((sink.compression.name(), sink.linger.as_millis()), ("zstd", 20));
    assert_eq!(sink.ca_file.as_deref(), Some(std::path::Path::new("/etc/ca.pem")));
    assert!(noticed(&loaded, "debezium.sink.rabbitmq.connection.host"), "a sink that is not chosen");
    for (line, part) in [
        ("acks=1", "no off switch"),
        ("enable.idempotence=false", "no off switch"),
        ("transactional.id=x", "exactly_once"),
        ("ssl.truststore.location=/etc/trust.jks", "PEM"),
        ("ssl.keystore.password=hidden", "PEM"),
        ("sasl.login.class=x", "password"),
        ("sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required hidden;", "PlainLoginModule"),
        ("compression.type=brotli", "compression"),
        ("never.heard.of=1", "never.heard.of"),
    ] {
        let error = load_with(&kafka_recipe(&format!("debezium.sink.kafka.producer.{line}")), &[]).expect_err(line);
        assert!(error.to_string().contains(part), "{line}: {error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}

#[test]
fn other_connectors_and_sinks_are_refused() {
    refused(
        "debezium.source.connector.class=io.debezium.connector.mysql.MySqlConnector",
        &["MySqlConnector", "PostgreSQL"],
    );
    refused("debezium.sink.type=redis", &["`redis` is not part of this version"]);
    refused("debezium.sink.type=rabitmq", &["there is no sink `rabitmq`"]);
    refused("debezium.source.plugin.name=decoderbufs", &["pgoutput"]);
    assert!(recipe_without("debezium.sink.type").is_err());
    let loaded = recipe_without("debezium.source.plugin.name").unwrap();
    assert!(decision(&loaded, "debezium.source.plugin.name").unwrap().contains("pgoutput"));
    let loaded = recipe_and("debezium.sink.kafka.producer.acks=all").unwrap();
    assert!(noticed(&loaded, "debezium.sink.kafka.producer.acks"));
}

#[test]
fn unknown_keys_name_line_and_nearest() {
    refused(
        "debezium.source.slot.nam=x",
        &[".properties:25 (debezium.source.slot.nam)", "did you mean `debezium.source.slot.name`?"],
    );
    refused(
        "debezium.transforms.outbox.route.by.feld=x",
        &["unknown key", "did you mean `debezium.transforms.outbox.route.by.field`?"],
    );
    refused("something.else=1", &["unknown key `something.else`", "docs/debezium.md"]);
}

#[test]
fn all_problems_of_a_file_are_reported_at_once() {
    let error = recipe_and(
        "debezium.source.slot.nam=x\ndebezium.sink.rabbitmq.autoCreateRoutingKey=true\n\
         debezium.source.database.port=many\ndebezium.source.slot.name=Upper",
    )
    .unwrap_err();
    let text = error.to_string();
    for part in ["slot.nam`", "autoCreateRoutingKey", "source.port"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn what_asks_for_nothing_is_accepted() {
    for harmless in [
        "debezium.source.slot.drop.on.stop=false",
        "debezium.source.provide.transaction.metadata=false",
        "debezium.sink.rabbitmq.autoCreateRoutingKey=false",
        "debezium.source.lsn.flush.mode=connector",
    ] {
        let loaded = recipe_and(harmless).unwrap();
        assert!(loaded.notices.is_empty(), "{harmless}: {:?}", loaded.notices);
    }
    for ignored in ["debezium.source.tombstones.on.delete=false", "debezium.source.heartbeat.interval.ms=1000"] {
        assert!(noticed(&recipe_and(ignored).unwrap(), ignored.split('=').next().unwrap()));
    }
}

#[test]
fn strict_compatibility_is_debeziums_and_refuses_what_it_cannot_do() {
    let loaded = recipe_and("tailwater.compatibility=strict").unwrap();
    let route = &parts(&loaded).1.route;
    assert!(route.key_schemas && route.value_schemas && route.header_schemas, "as there when nothing is written");
    let off = "tailwater.compatibility=strict\ndebezium.format.schemas.enable=false\n";
    let loaded = recipe_and(off).unwrap();
    let (source, pipeline, sink) = parts(&loaded);
    assert_eq!(pipeline.route.compatibility, Compatibility::Strict);
    assert_eq!((pipeline.route.header_format, pipeline.route.key_format()), (Format::Json, Format::Json));
    assert!(!pipeline.route.value_schemas && !pipeline.route.header_schemas);
    assert_eq!(pipeline.route.outbox.id_column.as_deref(), Some("id"));
    assert_eq!(sink.routing_key, RoutingKey::Static("".into()));
    assert_eq!(sink.null_value.as_deref(), Some("default"));
    assert!(source.catalog);
    refused(&format!("{off}debezium.source.decimal.handling.mode=string"), &["strict compatibility"]);
    recipe_and(&format!("{off}debezium.source.decimal.handling.mode=precise")).unwrap();
    recipe_and("debezium.source.decimal.handling.mode=string").unwrap();
}

#[test]
fn our_own_settings_have_keys_too() {
    let loaded = recipe_and(
        "tailwater.delivery.on_rejected=dead-letter\ntailwater.sink.dead_letter_exchange=dead\n\
         tailwater.state_dir=/var/lib/tailwater\ntailwater.sink.management_url=http://guest:guest@localhost:15672\n\
         quarkus.http.port=9000",
    )
    .unwrap();
    let (_, _, sink) = parts(&loaded);
    assert_eq!(sink.dead_letter_exchange.as_deref(), Some("dead"));
    assert_eq!(loaded.config.state_dir.to_str(), Some("/var/lib/tailwater"));
    assert_eq!(loaded.config.http.listen.unwrap().to_string(), "127.0.0.1:9000");
    refused("tailwater.delivery.on_rejcted=stop", &["did you mean `on_rejected`?"]);
    refused("quarkus.http.host=0.0.0.0", &["http.token"]);
}

#[test]
fn variables_override_the_file() {
    let loaded = load_with(
        RECIPE,
        &[
            ("DEBEZIUM_SOURCE_DATABASE_PASSWORD", "from-environment"),
            ("DEBEZIUM_SINK_RABBITMQ_ROUTINGKEY_SOURCE", "key"),
            ("DEBEZIUM_TRANSFORMS_OUTBOX_ROUTE_BY_FIELD", "kind"),
            ("DEBEZIUM_VERSION", "3.6"),
            ("TAILWATER_PIPELINES__OUTBOX__SINK__EXCHANGE", "other"),
        ],
    )
    .unwrap();
    let (source, pipeline, sink) = parts(&loaded);
    assert_eq!(source.connection.password.as_ref().unwrap().expose(), "from-environment");
    assert_eq!((&sink.routing_key, sink.exchange.as_str()), (&RoutingKey::Key, "other"));
    assert_eq!(pipeline.route.outbox.route_by, "kind");
    assert!(noticed(&loaded, "DEBEZIUM_VERSION"));
    let origin = loaded.origins.of("pipelines.outbox.source.password").to_string();
    assert_eq!(origin, "environment variable DEBEZIUM_SOURCE_DATABASE_PASSWORD");
    let error = load_with(RECIPE, &[("DEBEZIUM_SOURCE_SLOT_NAM", "x")]).unwrap_err().to_string();
    assert!(error.contains("DEBEZIUM_SOURCE_SLOT_NAM") && error.contains("debezium.source.slot.name"), "{error}");
}

#[test]
fn variables_alone_are_enough() {
    let form = |key: &str| key.to_uppercase().replace(['.', '-'], "_");
    let environment =
        RECIPE.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (form(k), v.to_owned())).collect();
    let loaded = load(&Inputs { environment, ..Inputs::default() }).unwrap();
    assert_eq!(parts(&loaded).0.slot, "outbox_slot");
}

#[test]
fn values_refer_to_variables_and_other_keys() {
    let lines = "debezium.source.database.password=${DB_PASSWORD}\ndebezium.sink.rabbitmq.exchange=${debezium.source.topic.prefix}.x\n\
        debezium.source.database.user=${DB_USER:fallback}";
    let loaded = load_with(&format!("{RECIPE}{lines}"), &[("DB_PASSWORD", "hidden")]).unwrap();
    let (source, _, sink) = parts(&loaded);
    assert_eq!(source.connection.password.as_ref().unwrap().expose(), "hidden");
    assert_eq!(source.connection.user.as_deref(), Some("fallback"));
    assert_eq!(sink.exchange, "outbox.x");
    let text =
        load_with(&format!("{RECIPE}debezium.sink.rabbitmq.exchange=${{NOT_SET}}"), &[]).unwrap_err().to_string();
    assert!(text.contains("NOT_SET"), "{text}");
}

#[test]
fn a_properties_file_is_known_by_its_content_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.conf");
    std::fs::write(&file, RECIPE).unwrap();
    load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap();
}

#[test]
fn secrets_of_a_file_do_not_show() {
    let loaded = recipe_and(
        "debezium.source.database.password=s3cret-word\ndebezium.sink.rabbitmq.connection.password=s3cret-too",
    )
    .unwrap();
    let shown = format!("{loaded:?}{:?}", tailwater::cli::check::effective(&loaded));
    assert!(!shown.contains("s3cret"), "{shown}");
    let text = recipe_and("debezium.source.database.password=s3cret-${odd}").unwrap_err().to_string();
    assert!(!text.contains("s3cret") && !text.contains("odd"), "{text}");
}
