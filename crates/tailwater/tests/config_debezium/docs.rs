//! What the documentation says is what the code does.

use super::changes::plain;
use super::*;
use tailwater::config::debezium::docs::markdown;
use tailwater::config::debezium::keys;

#[test]
fn names_in_the_table_are_unique_and_found() {
    let mut names: Vec<&str> = keys::all().map(|key| key.name).collect();
    for name in &names {
        let written = name.replace("<n>", "x").replace('*', "some.thing");
        assert_eq!(keys::find(&written).map(|key| key.name), Some(*name), "{name}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// The list of keys in docs/debezium.md is the table's. After a change: TAILWATER_TEST_WRITE_DOCS=1 writes it.
#[test]
fn the_documented_list_is_the_table_in_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/debezium.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- keys: begin -->\n", "<!-- keys: end -->");
    let (before, rest) = text.split_once(begin).expect("the list's beginning is marked");
    let (listed, after) = rest.split_once(end).expect("the list's end is marked");
    let wanted = format!("\n{}\n", markdown());
    if std::env::var_os("TAILWATER_TEST_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert!(
        listed == wanted,
        "docs/debezium.md is not what the table says: run this test with TAILWATER_TEST_WRITE_DOCS=1"
    );
}

/// Every decision that the code can take is explained in docs/debezium.md.
#[test]
fn each_decision_is_documented() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/debezium.md")).unwrap();
    let (_, decisions) = text.split_once("## Decisions").expect("a chapter on decisions");
    let chapter = decisions.split("\n## ").next().unwrap();
    let files = [
        RECIPE.to_owned(),
        RECIPE.replace("debezium.source.plugin.name=pgoutput\n", ""),
        RECIPE
            .replace("slot.name=outbox_slot", "slot.retry.delay.ms=1")
            .replace("publication.name=outbox_pub", "read.only=true"),
        format!("{RECIPE}debezium.transforms.outbox.route.tombstone.on.empty.payload=true\n"),
        format!("{RECIPE}debezium.sink.rabbitmq.routingKey.source=key\n"),
        format!("{RECIPE}debezium.sink.rabbitmq.routingKeyFromTopicName=true\n"),
        kafka_recipe(""),
        kafka_recipe("debezium.format.key=json"),
        plain(""),
        format!("{RECIPE}debezium.source.snapshot.mode=when_needed\nquarkus.http.port=1\n"),
    ];
    for file in files {
        for decision in load_with(&file, &[]).unwrap().decisions {
            let key = decision.key.replace("transforms.outbox.", "transforms.<n>.");
            assert!(chapter.contains(&format!("| `{key}` |")), "{key} is missing in the chapter on decisions");
        }
    }
}
