//! TOML, environment and flags: what is accepted, where values come from, and what is said about mistakes.
#![allow(clippy::unwrap_used)] // a panic is a failed test

use std::io::Write;
use tailwater::config::SinkConfig;
use tailwater::config::flags::Flags;
use tailwater::config::load::{Inputs, load};
use tailwater::config::origin::{ConfigError, Loaded, Origin};

const ORDERS: &str = r#"
state_dir = "/var/lib/tailwater"

[http]
listen = ""

[pipelines.orders.source]
type = "postgres"
host = "db1"
user = "relay"
password = "s3cret-word"
dbname = "shop"
connect_timeout = "3s"
slot = "orders"
publication = "orders"
table = "public.outbox"

[pipelines.orders.sink]
type = "rabbitmq"
urls = ["amqp://guest:gue5t-word@mq1:5672"]
exchange = "events"
routing_key = { static = "fixed" }

[[pipelines.orders.sink.topology.exchanges]]
name = "events"

[[pipelines.orders.sink.topology.queues]]
name = "reports"
type = "quorum"
dead_letter = { routing_key = "reports-dlq" }

[pipelines.orders.prune]
"#;

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(&Inputs {
        file: Some(file.path().to_owned()),
        environment: environment.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        ..Inputs::default()
    })
}

fn problems(text: &str, environment: &[(&str, &str)]) -> String {
    load_text(text, environment).unwrap_err().to_string()
}

#[test]
fn a_whole_file_becomes_a_typed_configuration() {
    let loaded = load_text(ORDERS, &[]).unwrap();
    assert_eq!(loaded.config.http.listen, None);
    let orders = &loaded.config.pipelines["orders"];
    let source = orders.source.log().unwrap();
    assert_eq!(source.connection.host.as_deref(), Some("db1"));
    assert_eq!(source.connection.connect_timeout, Some(std::time::Duration::from_secs(3)));
    assert_eq!(source.slot, "orders");
    let SinkConfig::Rabbitmq(sink) = &orders.sink else { panic!("not rabbitmq") };
    assert_eq!(sink.topology.queues[0].dead_letter.as_ref().unwrap().routing_key.as_deref(), Some("reports-dlq"));
    assert_eq!(orders.prune, Some(Default::default()), "an empty table asks for the defaults");
}

#[test]
fn each_value_knows_its_line() {
    let loaded = load_text(ORDERS, &[("TAILWATER_PIPELINES__ORDERS__SINK__EXCHANGE", "others")]).unwrap();
    let origin = |path: &str| loaded.origins.of(path).to_string();
    assert!(origin("pipelines.orders.source.slot").ends_with(".toml:14"), "{}", origin("pipelines.orders.source.slot"));
    assert!(origin("pipelines.orders.sink.topology.queues.0.name").ends_with(".toml:28"));
    assert_eq!(
        origin("pipelines.orders.sink.exchange"),
        "environment variable TAILWATER_PIPELINES__ORDERS__SINK__EXCHANGE"
    );
    assert_eq!(origin("pipelines.orders.delivery.window"), "default");
}

#[test]
fn an_unknown_key_names_line_and_nearest() {
    let text = problems(&ORDERS.replace("publication =", "publicaton ="), &[]);
    let wanted = ".toml:15: unknown key `publicaton` in `pipelines.orders.source`: did you mean `publication`?";
    assert!(text.contains(wanted), "{text}");
    let text = problems(&ORDERS.replace("name = \"reports\"", "nam = \"reports\""), &[]);
    assert!(text.contains("unknown key `nam`"), "{text}");
    let text = problems(&ORDERS.replace("[http]", "[htpp]"), &[]);
    assert!(text.contains("unknown key `htpp` at the top: did you mean `http`?"), "{text}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let wrong = ORDERS
        .replace("connect_timeout = \"3s\"", "connect_timeout = \"3 fortnights\"")
        .replace("type = \"quorum\"", "type = \"quorom\"")
        .replace("host =", "hots =");
    let text = problems(&wrong, &[("TAILWATER_PIPELINES__ORDERS__DELIVERY__WINDOW", "many")]);
    for part in ["hots", "fortnights", "quorom", "DELIVERY__WINDOW"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    let wrong = ORDERS
        .replace("slot = \"orders\"", "slot = \"Orders-1\"")
        .replace("listen = \"\"", "listen = \"0.0.0.0:8083\"")
        .replace("amqp://guest", "http://guest");
    let text = problems(&wrong, &[("TAILWATER_PIPELINES__ORDERS__DELIVERY__WINDOW", "0")]);
    for part in ["source.slot", "http.listen", "http.token", "sink.urls", "delivery.window"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_type_mistake_is_reported_at_its_line() {
    let text = problems(&ORDERS.replace("slot = \"orders\"", "slot = 5"), &[]);
    assert!(text.contains(".toml:14: pipelines.orders.source.slot: invalid type"), "{text}");
    let text = problems("[pipelines.orders", &[]);
    assert!(text.contains(".toml:1"), "{text}");
}

#[test]
fn environment_values_take_the_type_of_the_setting() {
    let loaded = load_text(
        ORDERS,
        &[
            ("TAILWATER_STATE_DIR", "/srv/42"),
            ("TAILWATER_PIPELINES__ORDERS__SINK__URLS", "amqp://a:5672, amqps://b"),
            ("TAILWATER_PIPELINES__ORDERS__SINK__ROUTING_KEY", "key"),
            ("TAILWATER_PIPELINES__ORDERS__SOURCE__PORT", "5433"),
            ("TAILWATER_PIPELINES__ORDERS__SOURCE__PASSWORD", "12345"),
            ("TAILWATER_PIPELINES__ORDERS__ROUTE__OUTBOX__EXPAND_JSON", "true"),
            ("TAILWATER_PIPELINES__ORDERS__DELIVERY__CONFIRM_INTERVAL", "1s"),
            ("TAILWATER_PORT_8083_TCP", "tcp://10.0.0.1:8083"),
        ],
    )
    .unwrap();
    let orders = &loaded.config.pipelines["orders"];
    let source = orders.source.log().unwrap();
    assert_eq!(source.connection.port, Some(5433));
    assert_eq!(source.connection.password.as_ref().unwrap().expose(), "12345");
    let SinkConfig::Rabbitmq(sink) = &orders.sink else { panic!("not rabbitmq") };
    assert_eq!(sink.urls.iter().map(|u| u.expose()).collect::<Vec<_>>(), ["amqp://a:5672", "amqps://b"]);
    assert!(orders.route.outbox.expand_json);
    assert_eq!(orders.delivery.confirm_interval, std::time::Duration::from_secs(1));
    assert_eq!(loaded.notices.len(), 1, "{:?}", loaded.notices);
    assert_eq!(loaded.notices[0].key, "TAILWATER_PORT_8083_TCP");
}

#[test]
fn a_misspelt_variable_is_an_error_that_names_the_nearest() {
    let text = problems(ORDERS, &[("TAILWATER_PIPELINES__ORDERS__SINK__EXCHAGE", "x")]);
    assert!(text.contains("TAILWATER_PIPELINES__ORDERS__SINK__EXCHAGE: unknown key `exchage`"), "{text}");
    assert!(text.contains("did you mean `exchange`?"), "{text}");
}

#[test]
fn secrets_do_not_show() {
    let loaded = load_text(ORDERS, &[]).unwrap();
    let json = serde_json::to_string(&loaded.config).unwrap();
    let shown = format!("{loaded:?}{json}{:?}", tailwater::cli::check::effective(&loaded));
    assert!(!shown.contains("s3cret-word") && !shown.contains("gue5t-word"), "{shown}");
    // nor in the complaint about a value of the wrong type
    let text = problems(&ORDERS.replace("password = \"s3cret-word\"", "password = 778899"), &[]);
    assert!(text.contains("source.password") && !text.contains("778899"), "{text}");
    let text = problems(
        &ORDERS.replace("urls = [\"amqp://guest:gue5t-word@mq1:5672\"]", "urls = \"amqp://g:gue5t-word@mq1\""),
        &[],
    );
    assert!(text.contains("sink.urls") && !text.contains("gue5t"), "{text}");
}

fn without_file(from: &str, to: &str, more: Flags) -> Result<Loaded, ConfigError> {
    let flag = |name: &str, value: &str| Some((value.to_owned(), Origin::Flag(name.into())));
    load(&Inputs { flags: Flags { from: flag("--from", from), to: flag("--to", to), ..more }, ..Inputs::default() })
}

#[test]
fn from_and_to_need_no_file() {
    let loaded = without_file("postgres://relay@localhost/shop", "amqp://localhost", Flags::default()).unwrap();
    let outbox = &loaded.config.pipelines["outbox"];
    let source = outbox.source.log().unwrap();
    let names = [&source.slot, &source.publication, &source.table];
    assert_eq!(names, ["outbox", "outbox", "outbox"]);
    let SinkConfig::Rabbitmq(sink) = &outbox.sink else { panic!("not rabbitmq") };
    assert_eq!(sink.exchange, "events");
    assert!(outbox.route.outbox.expand_json, "JSON goes out as JSON");
    let more = Flags { slot: Some("mine".into()), table: Some("app.events".into()), ..Flags::default() };
    let loaded = without_file("postgres:///shop", "stdout", more).unwrap();
    let source = loaded.config.pipelines["outbox"].source.log().unwrap();
    assert_eq!((source.slot.as_str(), source.table.as_str()), ("mine", "app.events"));
    assert_eq!(loaded.origins.of("pipelines.outbox.source.slot").to_string(), "flag --slot");
}

#[test]
fn a_password_in_an_argument_is_advised_against() {
    let loaded = without_file("postgres://relay:pw@localhost/shop", "amqp://u:pw@localhost", Flags::default()).unwrap();
    let keys: Vec<_> = loaded.notices.iter().map(|n| n.key.as_str()).collect();
    assert_eq!(keys, ["--from", "--to"]);
    assert!(loaded.notices.iter().all(|n| !n.text.contains("pw")));
    assert!(without_file("postgres://relay@localhost/shop", "stdout", Flags::default()).unwrap().notices.is_empty());
}

#[test]
fn nothing_given_says_what_to_give() {
    let text = load(&Inputs::default()).unwrap_err().to_string();
    assert!(text.contains("--config FILE") && text.contains("--from"), "{text}");
    assert!(without_file("mysql://x", "nats://y", Flags::default()).unwrap_err().problems.len() >= 2);
}

const CHANGES: &str = r#"
[http]
listen = ""

[pipelines.shop.source]
type = "postgres"
url = "postgres://relay@db/shop"
slot = "shop"
publication = "shop"
tables = { include = "public.orders" }

[pipelines.shop.sink]
type = "stdout"

[pipelines.shop.route]
kind = "changes"
topic_prefix = "shop"
changes = { decimal = "string", tombstones_on_delete = false }

[[pipelines.shop.route.transforms]]
type = "regex_router"
regex = '(.*)\.public\.(.*)'
replacement = "$1_$2"
predicate = { topic_name_matches = ".*orders" }
"#;

#[test]
fn change_events_have_a_route_of_their_own() {
    let loaded = load_text(CHANGES, &[]).unwrap();
    let pipeline = &loaded.config.pipelines["shop"];
    assert_eq!(pipeline.route.kind, tailwater::config::RouteKind::Changes);
    assert!(!pipeline.route.changes.tombstones_on_delete);
    assert_eq!(pipeline.route.transforms.len(), 1);
    assert_eq!(pipeline.route.key_format(), tailwater_core::route::Format::Json);
    let variable = ("TAILWATER_PIPELINES__SHOP__ROUTE__CHANGES__DECIMAL", "double");
    assert!(load_text(CHANGES, &[variable]).is_ok());
}

#[test]
fn settings_of_a_route_that_do_not_go_together_are_refused_by_name() {
    let poll = "type = \"postgres-poll\"\ntable = \"outbox\"";
    for (from, to, tells) in [
        ("kind = \"changes\"\n", "", "route.changes: says how change events are written"),
        ("kind = \"changes\"\n", "", "source.table: name the outbox table"),
        ("slot = \"shop\"", "slot = \"shop\"\ntable = \"outbox\"", "source.table: names an outbox"),
        ("topic_prefix", "outbox = { route_by = \"x\" }\ntopic_prefix", "route.outbox: says how an outbox is read"),
        ("topic_prefix", "only_topics = \"x\"\ntopic_prefix", "source.tables"),
        ("topic_prefix", "value_format = \"binary\"\nvalue_schemas = true\ntopic_prefix", "route.value_schemas"),
        ("topic_prefix", "header_format = \"binary\"\ntopic_prefix", "route.header_format"),
        ("decimal = \"string\"", "decimal = \"odd\"", "route.changes.decimal"),
        ("decimal = \"string\"", "decimals = \"string\"", "did you mean `decimal`?"),
        ("decimal = \"string\"", "skipped_operations = \"x\"", "route.changes.skipped_operations"),
        ("regex_router", "regex_rooter", "regex_router"),
        ("replacement", "replacment", "replacement"),
        ("'(.*)\\.public\\.(.*)'", "'('", "route.transforms"),
        ("[pipelines.shop.route]", "[pipelines.shop.prune]\n[pipelines.shop.route]", "not ours to delete"),
        (
            "type = \"postgres\"\nurl = \"postgres://relay@db/shop\"\nslot = \"shop\"\npublication = \"shop\"\ntables = { include = \"public.orders\" }",
            &format!("{poll}\nurl = \"postgres://relay@db/shop\""),
            "source.type: a polled table tells no updates and deletes",
        ),
    ] {
        let text = problems(&CHANGES.replacen(from, to, 1), &[]);
        assert!(text.contains(tells), "{to}: `{tells}` is missing in: {text}");
    }
}
