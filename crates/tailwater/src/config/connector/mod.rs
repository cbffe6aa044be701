//! A connector's configuration, as it is posted to Kafka Connect for Debezium's PostgreSQL connector → one pipeline.
//!
//! The map is flat, its values are texts. What Debezium Server's files know under `debezium.…` is mapped there; here is what
//! belongs to Connect: the class, converters, error handling, topic creation. Where Connect takes Kafka from its worker,
//! the pipeline takes the process's own (`[kafka]`).

mod check;

pub use check::{POSTGRES, definitions};

use super::load::Collected;
use super::origin::Problem;
use super::{Config, KafkaConfig, PipelineConfig, SinkConfig, debezium, validate};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tailwater_core::Failure;

/// What is said instead of a secret; sent back, it means the secret that is known already.
pub const MASK: &str = "********";

/// A pipeline made of a connector's configuration, and what its author should know.
#[derive(Debug)]
pub struct Connector {
    pub pipeline: PipelineConfig,
    /// One line each: decisions taken, keys without a meaning here.
    pub remarks: Vec<String>,
}

/// One thing that is wrong: the key, if it is one key's, and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub key: Option<String>,
    pub text: String,
}

/// The pipeline of a connector; or everything that is wrong with it. Connects to nothing.
pub fn pipeline(map: &Map<String, Value>, process: &Config) -> Result<Connector, Vec<Wrong>> {
    let keys = texts(map);
    let wrong = check::shape(&keys);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut collected = Collected::default();
    debezium::read_connector(&keys, &mut collected);
    let whole = |text: String| Wrong { key: key_of(&keys, &text), text };
    let plain = |problem: &Problem| whole(plain_words(&problem.text));
    if !collected.problems.is_empty() {
        return Err(collected.problems.iter().map(plain).collect());
    }
    let Collected { settings, decisions, notices, .. } = collected;
    let (mut config, origins) = settings.build().map_err(|problems| problems.iter().map(plain).collect::<Vec<_>>())?;
    config.kafka = process.kafka.clone();
    config.http = process.http.clone();
    let problems = validate::all(&config, &origins);
    if !problems.is_empty() {
        return Err(problems.iter().map(plain).collect());
    }
    let mut pipeline = config.pipelines.into_values().next().expect("a connector is one pipeline");
    if let (SinkConfig::Kafka(sink), Some(process)) = (&mut pipeline.sink, &process.kafka) {
        // as Connect has it from its worker: servers, log-in, and how it publishes. Only the fence is the connector's own.
        *sink = KafkaConfig { transactional_id: None, ..process.clone() };
    }
    let decided =
        decisions.iter().map(|decision| format!("{}: {}", plain_words(&decision.key), plain_words(&decision.text)));
    let noticed = notices.iter().map(|notice| format!("{}: {}", plain_words(&notice.key), plain_words(&notice.text)));
    Ok(Connector { pipeline, remarks: decided.chain(noticed).collect() })
}

/// As [`pipeline`], for a definition that was stored.
pub fn restore(map: &Map<String, Value>, process: &Config) -> Result<PipelineConfig, Failure> {
    pipeline(map, process).map(|connector| connector.pipeline).map_err(|wrong| {
        let texts: Vec<String> = wrong.into_iter().map(|wrong| wrong.text).collect();
        Failure::fatal("PUT a corrected configuration to /connectors/NAME/config, or DELETE it", texts.join("; "))
    })
}

/// Numbers and booleans are texts here, as Connect has it.
pub fn texts(map: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    map.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Whether a key's value is nobody's business.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "secret", "sasl.jaas.config", "token", "passphrase"].iter().any(|word| key.contains(word))
}

/// The map with secrets masked: the only form in which it ever leaves the process.
pub fn masked(map: &Map<String, Value>) -> Map<String, Value> {
    let shown = |(key, value): (&String, &Value)| match is_secret(key) {
        true => (key.clone(), Value::from(MASK)),
        false => (key.clone(), value.clone()),
    };
    map.iter().map(shown).collect()
}

/// Whether it stands for a secret.
pub fn is_mask(key: &str, value: &Value) -> bool {
    is_secret(key) && value.as_str() == Some(MASK)
}

/// Where a mask came back, the secret that stood there before.
pub fn unmasked(mut map: Map<String, Value>, before: Option<&Map<String, Value>>) -> Map<String, Value> {
    for (key, value) in &mut map {
        if is_mask(key, value)
            && let Some(known) = before.and_then(|before| before.get(key))
        {
            *value = known.clone();
        }
    }
    map
}

/// The names that a connector's author knows, instead of those of a file or of ours.
fn plain_words(text: &str) -> String {
    text.replace("debezium.source.", "")
        .replace("debezium.", "")
        .replace(&format!("pipelines.{}.", super::flags::PIPELINE), "")
}

/// The key that a text begins with or quotes.
fn key_of(keys: &BTreeMap<String, String>, text: &str) -> Option<String> {
    let named = |key: &&String| {
        text.starts_with(&format!("{key}:")) || text.contains(&format!("`{key}`")) || text.contains(&format!("({key})"))
    };
    keys.keys().find(named).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(extra: Value) -> Map<String, Value> {
        let mut whole = json!({
            "name": "orders", "connector.class": POSTGRES, "tasks.max": "1", "plugin.name": "pgoutput",
            "database.hostname": "db", "database.port": "5432", "database.user": "debezium",
            "database.password": "dbz", "database.dbname": "shop", "topic.prefix": "shop", "slot.name": "s",
            "publication.name": "p", "publication.autocreate.mode": "disabled", "table.include.list": "public.outbox",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
            "transforms": "outbox", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        });
        let Value::Object(whole) = &mut whole else { unreachable!() };
        let Value::Object(extra) = extra else { unreachable!() };
        for (key, value) in extra {
            match value {
                Value::Null => drop(whole.remove(&key)),
                value => drop(whole.insert(key, value)),
            }
        }
        whole.clone()
    }

    fn process() -> Config {
        let kafka = KafkaConfig {
            bootstrap_servers: vec!["kafka:9092".into()],
            exactly_once: true,
            transactional_id: Some("shared".into()),
            ..KafkaConfig::default()
        };
        Config { kafka: Some(kafka), ..Config::default() }
    }

    #[test]
    fn a_connector_is_a_pipeline_to_the_processs_kafka() {
        let connector = pipeline(&map(json!({})), &process()).unwrap();
        let source = connector.pipeline.source.log().unwrap();
        assert_eq!((source.slot.as_str(), source.table.as_str()), ("s", "public.outbox"));
        let SinkConfig::Kafka(sink) = &connector.pipeline.sink else { panic!("not Kafka") };
        assert_eq!(sink.bootstrap_servers, ["kafka:9092"]);
        // published as the process says; an id that connectors shared would make them fence each other
        assert_eq!((sink.exactly_once, sink.transactional_id.as_deref()), (true, None));
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_the_connector() {
        for (extra, tells) in [
            (json!({"database.hostname": null}), "The 'database.hostname' value is invalid: A value is required"),
            (json!({"tasks.max": "0"}), "Value must be at least 1"),
            (json!({"table.inklude.list": "x"}), "did you mean `table.include.list`?"),
            (json!({"key.converter": "io.confluent.connect.avro.AvroConverter"}), "AvroConverter"),
            (json!({"transforms.outbox.type": "com.example.Nope"}), "com.example.Nope"),
        ] {
            let wrong = pipeline(&map(extra), &process()).unwrap_err();
            assert!(wrong.iter().any(|wrong| wrong.text.contains(tells)), "{tells}: {wrong:?}");
            assert!(wrong.iter().all(|wrong| !wrong.text.contains("debezium.source")), "{wrong:?}");
        }
        let without = pipeline(&map(json!({})), &Config::default()).unwrap_err();
        assert!(without.iter().any(|wrong| wrong.text.contains("bootstrap_servers")), "{without:?}");
    }

    #[test]
    fn secrets_leave_masked_and_a_mask_that_comes_back_means_the_known_one() {
        let whole = map(json!({"database.password": "s3cret", "producer.override.sasl.jaas.config": "x"}));
        let shown = masked(&whole);
        assert!(!serde_json::to_string(&shown).unwrap().contains("s3cret"));
        assert_eq!(shown["producer.override.sasl.jaas.config"], MASK);
        assert_eq!(unmasked(shown, Some(&whole)), whole);
    }
}
