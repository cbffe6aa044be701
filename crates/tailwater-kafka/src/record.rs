//! A message as a Kafka record: what its parts become, how large it is. Sends nothing.

use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use std::borrow::Cow;
use tailwater_core::Message;
use tailwater_core::message::{HeaderValue, Headers};

/// Frame of a batch around a single record, and a record's own numbers at their largest (KIP-98, message format 2).
const FRAME_BYTES: usize = 61 + 40;
const HEADER_BYTES: usize = 10;

/// Bytes of a batch that holds this message alone, uncompressed: never less than the broker will count.
pub fn batch_bytes(message: &Message) -> usize {
    let headers = message
        .headers
        .0
        .iter()
        .map(|header| header.name.len() + bytes(&header.value).map_or(0, |b| b.len()) + HEADER_BYTES);
    let body = message.key.as_ref().map_or(0, |b| b.len()) + message.payload.as_ref().map_or(0, |b| b.len());
    FRAME_BYTES + body + headers.sum::<usize>()
}

/// Header of a dead letter: where the event was to go.
pub const ORIGINAL_TOPIC: &str = "x-tailwater-original-topic";

/// The record of a dead letter: key, payload and headers as they are, its id where no header says it, its topic as a header.
pub fn dead_letter<'a>(message: &'a Message, topic: &'a str, opaque: usize) -> BaseRecord<'a, [u8], [u8], usize> {
    let mut record = record(message, None, opaque);
    let mut headers = record.headers.take().unwrap_or_default();
    if !message.headers.0.iter().any(|header| &*header.name == "id") {
        headers = headers.insert(KafkaHeader { key: "id", value: Some(message.id.0.as_bytes()) });
    }
    record.headers = Some(headers.insert(KafkaHeader { key: ORIGINAL_TOPIC, value: Some(message.topic.as_bytes()) }));
    record.topic = topic;
    record
}

/// The record of a message; `opaque` comes back with the delivery.
pub fn record(message: &Message, partition: Option<i32>, opaque: usize) -> BaseRecord<'_, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, opaque);
    record.partition = partition;
    record.key = message.key.as_deref();
    record.payload = message.payload.as_deref();
    record.timestamp = timestamp_ms(message);
    record.headers = headers(&message.headers);
    record
}

/// ms since 1970; none: the moment of sending. Kafka knows nothing before 1970, and librdkafka takes 0 for "now".
fn timestamp_ms(message: &Message) -> Option<i64> {
    Some(message.timestamp.0 / 1000).filter(|ms| *ms > 0)
}

fn headers(headers: &Headers) -> Option<OwnedHeaders> {
    if headers.0.is_empty() {
        return None;
    }
    let mut out = OwnedHeaders::new_with_capacity(headers.0.len());
    for header in &headers.0 {
        let value = bytes(&header.value);
        out = out.insert(KafkaHeader { key: &header.name, value: value.as_deref() });
    }
    Some(out)
}

/// Kafka's headers are bytes: numbers and booleans as text, as `SimpleHeaderConverter` of Kafka Connect writes them.
fn bytes(value: &HeaderValue) -> Option<Cow<'_, [u8]>> {
    match value {
        HeaderValue::Null => None,
        HeaderValue::Bool(value) => Some(Cow::Borrowed(if *value { b"true" } else { b"false" })),
        HeaderValue::Int(value) => Some(Cow::Owned(value.to_string().into_bytes())),
        HeaderValue::Float(value) => Some(Cow::Owned(format!("{value:?}").into_bytes())),
        HeaderValue::Text(value) | HeaderValue::Bytes(value) => Some(Cow::Borrowed(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tailwater_core::{MessageId, Timestamp};

    #[test]
    fn headers_are_text_of_their_value_and_null_stays_null() {
        let table = [
            (HeaderValue::Null, None),
            (HeaderValue::Bool(true), Some("true")),
            (HeaderValue::Int(-5), Some("-5")),
            (HeaderValue::Float(1.0), Some("1.0")),
            (HeaderValue::Text(Bytes::from_static(b"x")), Some("x")),
        ];
        for (value, expected) in table {
            assert_eq!(bytes(&value).as_deref(), expected.map(str::as_bytes));
        }
    }

    #[test]
    fn moments_that_kafka_cannot_say_are_left_to_it() {
        let mut message = Message {
            id: MessageId("1".into()),
            topic: "t".into(),
            event_type: None,
            key: None,
            headers: Headers::default(),
            content_type: "text/plain",
            payload: None,
            partition: None,
            timestamp: Timestamp(1_700_000_000_123_456),
        };
        assert_eq!(timestamp_ms(&message), Some(1_700_000_000_123));
        message.timestamp = Timestamp(-1_000_000);
        assert_eq!(timestamp_ms(&message), None);
    }
}
