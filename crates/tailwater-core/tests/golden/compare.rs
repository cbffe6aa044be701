//! Recorded records and ours, side by side: everything but what differs from run to run.

use crate::case::{Case, Outcome};
use crate::pointer;
use crate::settings::{RoutingKey, Settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fancy_regex::Regex;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use tailwater_core::{HeaderValue, Message};

/// Whether the outcome is what was recorded. Where Debezium failed: what it had put out before is the beginning of ours,
/// the bad event is rejected, and all the rest is still routed.
pub fn check(case: &Case, settings: &Settings, outcome: &Outcome) -> Result<(), String> {
    let failed = case.recorded["status"] == "failed";
    match outcome.rejected.first() {
        None if failed => return Err("Debezium failed on an event that is not rejected here".into()),
        Some(reason) if !failed && !settings.tolerant => return Err(format!("rejected: {reason}")),
        _ => {}
    }
    if case.recorded.get("messages").is_some() {
        return amqp(case, settings, &outcome.messages, failed);
    }
    kafka(case, settings.partitions, &outcome.messages, failed)
}

type Stream<'a, T> = BTreeMap<(String, i64), Vec<&'a T>>;

/// Records by topic and partition, in their order.
fn kafka(case: &Case, partitions: u32, messages: &[Message], failed: bool) -> Result<(), String> {
    let mut expected: Stream<'_, Json> = BTreeMap::new();
    for record in case.recorded["records"].as_array().unwrap() {
        let place = (record["topic"].as_str().unwrap().to_owned(), record["partition"].as_i64().unwrap());
        expected.entry(place).or_default().push(record);
    }
    let mut ours: Stream<'_, Message> = BTreeMap::new();
    for message in messages {
        ours.entry((message.topic.to_string(), partition(message, partitions))).or_default().push(message);
    }
    if !failed && !expected.keys().eq(ours.keys()) {
        return Err(format!("topics {:?} instead of {:?}", ours.keys(), expected.keys()));
    }
    for (place, records) in &expected {
        let messages = ours.get(place).map(Vec::as_slice).unwrap_or_default();
        if messages.len() < records.len() || (!failed && messages.len() > records.len()) {
            return Err(format!("{place:?} has {} records instead of {}", messages.len(), records.len()));
        }
        for (index, (record, message)) in records.iter().zip(messages).enumerate() {
            same_record(record, message).map_err(|difference| format!("{place:?} record {index}: {difference}"))?;
        }
    }
    Ok(())
}

fn same_record(record: &Json, message: &Message) -> Result<(), String> {
    let volatile: Vec<&Json> = record["volatile"].as_array().into_iter().flatten().collect();
    same_bytes("key", &record["key"], message.key.as_deref(), &volatile)?;
    same_bytes("value", &record["value"], message.payload.as_deref(), &volatile)?;
    let headers = record["headers"].as_array().unwrap();
    let names: Vec<&str> = headers.iter().map(|header| header[0].as_str().unwrap()).collect();
    let our_names: Vec<&str> = message.headers.0.iter().map(|header| &*header.name).collect();
    if names != our_names {
        return Err(format!("headers {our_names:?} instead of {names:?}"));
    }
    for (index, (header, ours)) in headers.iter().zip(&message.headers.0).enumerate() {
        if !volatile.iter().any(|v| v["part"] == "header" && v["index"] == index) {
            same_bytes(&format!("header {}", ours.name), &header[1], header_bytes(&ours.value)?, &[])?;
        }
    }
    let ms = message.timestamp.0.div_euclid(1000);
    if !volatile.iter().any(|v| v["part"] == "timestamp") && record["timestamp"]["ms"] != ms {
        return Err(format!("time {ms} instead of {}", record["timestamp"]["ms"]));
    }
    Ok(())
}

/// Strict headers are texts, always.
fn header_bytes(value: &HeaderValue) -> Result<Option<&[u8]>, String> {
    match value {
        HeaderValue::Text(text) => Ok(Some(text)),
        HeaderValue::Null => Ok(None),
        other => Err(format!("a header is typed: {other:?}")),
    }
}

fn same_bytes(part: &str, recorded: &Json, ours: Option<&[u8]>, volatile: &[&Json]) -> Result<(), String> {
    let expected = bytes(recorded);
    let mut ours = ours.map(<[u8]>::to_vec);
    let mut expected = expected;
    for mask in volatile.iter().filter(|v| v["part"] == part) {
        if let Some(pointer) = mask["path"].as_str() {
            for side in [&mut expected, &mut ours].into_iter().flatten() {
                let span = std::str::from_utf8(side).ok().and_then(|text| pointer::span(text, pointer));
                if let Some(span) = span {
                    side.splice(span, *b"0");
                }
            }
            continue;
        }
        let Some(pattern) = mask["regex"].as_str() else { return Err(format!("a mask of {part} is not understood")) };
        let pattern = Regex::new(pattern).unwrap();
        for side in [&mut expected, &mut ours].into_iter().flatten() {
            if let Ok(text) = std::str::from_utf8(side) {
                *side = pattern.replace_all(text, "*").into_owned().into_bytes();
            }
        }
    }
    if expected == ours {
        return Ok(());
    }
    let show = |side: &Option<Vec<u8>>| side.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("{part} is {:?} instead of {:?}", show(&ours), show(&expected)))
}

fn bytes(recorded: &Json) -> Option<Vec<u8>> {
    match (&recorded["utf8"], &recorded["base64"]) {
        (Json::String(text), _) => Some(text.clone().into_bytes()),
        (_, Json::String(text)) => Some(BASE64.decode(text).unwrap()),
        _ => None,
    }
}

/// Messages of the RabbitMQ sink: routing key, body and headers. A table has no order, and null is the text `null`.
fn amqp(case: &Case, settings: &Settings, messages: &[Message], failed: bool) -> Result<(), String> {
    let recorded = case.recorded["messages"].as_array().unwrap();
    if messages.len() < recorded.len() || (!failed && messages.len() > recorded.len()) {
        return Err(format!("{} messages instead of {}", messages.len(), recorded.len()));
    }
    for (expected, ours) in recorded.iter().zip(messages) {
        let rabbitmq = &settings.rabbitmq;
        let key = ours.key.as_deref().unwrap_or_default();
        let routing_key = match rabbitmq.source {
            RoutingKey::Key => key,
            RoutingKey::Topic => ours.topic.as_bytes(),
            RoutingKey::Static => rabbitmq.routing_key.as_bytes(),
        };
        let exchange = rabbitmq.exchange.as_deref().filter(|name| !name.is_empty()).unwrap_or(&ours.topic);
        if expected["exchange"] != exchange {
            return Err(format!("exchange {exchange:?} instead of {}", expected["exchange"]));
        }
        if expected["routing_key"].as_str().map(str::as_bytes) != Some(routing_key) {
            return Err(format!(
                "routing key {:?} instead of {}",
                String::from_utf8_lossy(routing_key),
                expected["routing_key"]
            ));
        }
        let body = ours.payload.as_deref().unwrap_or(rabbitmq.null_value.as_bytes());
        same_bytes("body", &expected["body"], Some(body), &masks(expected))?;
        same_table(expected, ours)?;
    }
    Ok(())
}

fn masks(record: &Json) -> Vec<&Json> {
    record["volatile"].as_array().into_iter().flatten().collect()
}

fn same_table(expected: &Json, ours: &Message) -> Result<(), String> {
    let headers = expected["headers"].as_array().unwrap();
    if headers.len() != ours.headers.0.len() {
        return Err(format!("{} headers instead of {}", ours.headers.0.len(), headers.len()));
    }
    for (index, header) in headers.iter().enumerate() {
        let name = header[0].as_str().unwrap();
        let Some(found) = ours.headers.0.iter().find(|h| &*h.name == name) else {
            return Err(format!("no header {name}"));
        };
        if header[1] != "S" {
            return Err(format!("header {name} is no long string"));
        }
        if !masks(expected).iter().any(|v| v["part"] == "header" && v["index"] == index) {
            let value = header_bytes(&found.value)?.unwrap_or(b"null");
            same_bytes(&format!("header {name}"), &header[2], Some(value), &[])?;
        }
    }
    Ok(())
}

/// Kafka's default partitioner: the placed partition, else murmur2 of the key.
fn partition(message: &Message, partitions: u32) -> i64 {
    match (message.partition, &message.key) {
        (Some(partition), _) => i64::from(partition),
        (None, Some(key)) => i64::from((murmur2(key) & 0x7FFF_FFFF) % partitions),
        (None, None) => 0,
    }
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mut hash: u32 = 0x9747_B28C ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}
