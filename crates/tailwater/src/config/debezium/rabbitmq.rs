//! The RabbitMQ side of a file: where the broker is, and the routing key.

use super::super::flags::PIPELINE;
use super::super::origin::Origin;
use super::super::settings::nearest;
use super::{Mapper, keys};
use serde_json::json;

const SOURCE: &str = "debezium.sink.rabbitmq.routingKey.source";
const FIXED: &str = "debezium.sink.rabbitmq.routingKey";
const FROM_TOPIC: &str = "debezium.sink.rabbitmq.routingKeyFromTopicName";

impl Mapper<'_> {
    pub(super) fn rabbitmq(&mut self) {
        const TYPE: &str = "debezium.sink.type";
        let origin = self.origin(TYPE);
        match self.value(TYPE).map(str::to_owned) {
            Some(kind) if kind == "rabbitmq" => {}
            Some(kind) if keys::OTHER_SINKS.contains(&kind.as_str()) => {
                self.problem(TYPE, format!("`{kind}` is not part of this version: write rabbitmq or kafka"));
            }
            Some(kind) => self.problem(TYPE, format!("there is no sink `{kind}`: write rabbitmq or kafka")),
            None => self.problem(TYPE, format!("is missing: write {TYPE}=rabbitmq")),
        }
        self.set("sink.type", "rabbitmq", origin);
        self.broker();
        self.routing_key();
        if self.strict && self.value("debezium.sink.rabbitmq.null.value").is_none() {
            self.set("sink.null_value", "default", Origin::Chosen("strict compatibility"));
        }
        if !self.strict {
            let text = "an event that no queue takes holds the relay until it is routable (Debezium: it is confirmed and lost)";
            self.decide("tailwater.delivery.on_rejected", text);
        }
    }

    fn broker(&mut self) {
        const HOST: &str = "debezium.sink.rabbitmq.connection.host";
        const PORT: &str = "debezium.sink.rabbitmq.connection.port";
        let tls = self.is_true("debezium.sink.rabbitmq.connection.ssl.enabled");
        let host = match self.value(HOST) {
            Some(v6) if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
            Some(host) => host.to_owned(),
            None => "localhost".into(),
        };
        let port = self.value(PORT).unwrap_or(if tls { "5671" } else { "5672" }).to_owned();
        if port.parse::<u16>().is_ok_and(|port| port > 0) {
            let origin = match self.origin(HOST) {
                Origin::Default => Origin::Chosen("debezium.sink.rabbitmq.connection.host is absent"),
                origin => origin,
            };
            let url = format!("{}://{host}:{port}", if tls { "amqps" } else { "amqp" });
            let path = format!("pipelines.{PIPELINE}.sink.urls");
            self.collected.settings.set_value(&path, json!([url]), origin);
        } else {
            self.problem(PORT, format!("`{port}` is not a port: write a number from 1 to 65535"));
        }
    }

    fn routing_key(&mut self) {
        let fixed = self.value(FIXED).map(str::to_owned);
        let static_key = |key: &str| json!({ "static": key }).to_string();
        let source = self.value(SOURCE).map(str::to_lowercase);
        let origin = self.origin(SOURCE);
        match (source.as_deref(), fixed) {
            (Some("topic" | "key"), _) => {
                let source = source.unwrap_or_default();
                self.set("sink.routing_key", &source, origin);
            }
            (Some("static"), fixed) => {
                let fixed = fixed.unwrap_or_default();
                if fixed.is_empty() {
                    self.decide(
                        SOURCE,
                        "the routing key is empty, as asked: a topic exchange takes that for no queue at all",
                    );
                }
                self.set("sink.routing_key", &static_key(&fixed), origin);
            }
            (Some(other), _) => {
                let known = ["static", "topic", "key"];
                let hint =
                    nearest(other, known.into_iter()).map(|n| format!(", did you mean {n}?")).unwrap_or_default();
                self.problem(SOURCE, format!("`{other}` is none of static, topic, key{hint}"));
            }
            (None, Some(fixed)) if !fixed.is_empty() => {
                let origin = self.origin(FIXED);
                self.set("sink.routing_key", &static_key(&fixed), origin);
            }
            (None, _) if self.strict => {
                self.set("sink.routing_key", &static_key(""), Origin::Chosen("strict compatibility"));
                self.decide(
                    SOURCE,
                    "the routing key is empty, as Debezium has it: write topic unless the exchange is a fanout",
                );
            }
            (None, _) => {
                let from_topic = self.is_true(FROM_TOPIC);
                let key = if from_topic { FROM_TOPIC } else { SOURCE };
                self.set("sink.routing_key", "topic", Origin::Chosen("the routed topic"));
                self.decide(
                    key,
                    "the routing key is the routed topic (Debezium: empty, and the broker drops every message)",
                );
            }
        }
    }
}
