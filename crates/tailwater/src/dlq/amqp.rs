//! A RabbitMQ message as a letter, and the properties it is replayed with. Pure.
//!
//! Two kinds have different marks: what a consumer rejects has RabbitMQ's `x-death` (the broker's manual, "Dead Letter
//! Exchanges"), what the relay could not publish has [`address::REASON`] and its companions.

use super::{Letter, Origin};
use crate::sinks::rabbitmq::address::{HEADERS_DROPPED, ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY, REASON};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

/// How often a quorum queue has had the message back; absent the first time.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The relay's own marks: they belong to the letter, not to the message.
const MARKS: [&str; 5] = [REASON, ORIGINAL_EXCHANGE, ORIGINAL_ROUTING_KEY, HEADERS_DROPPED, DELIVERY_COUNT];

/// Reads a message that lies at the given place of its queue.
pub fn letter(place: usize, properties: &BasicProperties, body: Bytes) -> Letter {
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let (reason, origin, died_at) = match ours(headers) {
        Some((reason, origin)) => (Some(reason), origin, None),
        None => deaths(headers),
    };
    let key = match &origin {
        Some(Origin::Rabbitmq { routing_key, .. }) => Some(routing_key.clone()),
        _ => None,
    };
    let short = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    Letter {
        place: format!("#{place}"),
        message_id: short(properties.message_id()).filter(|id| !id.is_empty()),
        event_type: short(properties.kind()),
        key,
        reason,
        origin,
        died_at,
        made_at: properties.timestamp().and_then(|at| i64::try_from(at).ok()),
        content_type: short(properties.content_type()),
        headers: table(headers),
        body,
        incomplete: headers.contains_key(HEADERS_DROPPED),
    }
}

/// How often a quorum queue has had this message back.
pub fn returns(properties: &BasicProperties) -> u64 {
    let count = properties.headers().as_ref().and_then(|headers| headers.inner().get(DELIVERY_COUNT).map(value));
    count.and_then(|count| count.as_u64()).unwrap_or(0)
}

/// The message as it was: persistent, its own id and headers, without the marks of the relay. `x-death` stays: it counts
/// how often the message has died, and RabbitMQ goes on counting.
pub fn replayed(properties: &BasicProperties) -> BasicProperties {
    without(&MARKS, properties)
}

/// The letter as it is, marks included, for the same queue once more.
pub fn renewed(properties: &BasicProperties) -> BasicProperties {
    without(&[DELIVERY_COUNT], properties)
}

fn without(marks: &[&str], properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().as_ref().map(FieldTable::inner).into_iter().flatten() {
        if !marks.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    // RabbitMQ refuses a `user_id` that is not the publisher's own.
    let mut replayed = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    macro_rules! keep {
        ($($get:ident $set:ident),*) => { $(if let Some(value) = properties.$get() {
            replayed = replayed.$set(value.clone());
        })* };
    }
    keep!(message_id with_message_id, kind with_type, content_type with_content_type,
          content_encoding with_content_encoding, correlation_id with_correlation_id, reply_to with_reply_to,
          timestamp with_timestamp, priority with_priority, app_id with_app_id);
    replayed
}

fn ours(headers: &FieldTable) -> Option<(String, Option<Origin>)> {
    let text = |name: &str| headers.inner().get(name).and_then(text);
    let reason = text(REASON)?;
    let origin = text(ORIGINAL_EXCHANGE).zip(text(ORIGINAL_ROUTING_KEY));
    let origin = origin.map(|(exchange, routing_key)| Origin::Rabbitmq { exchange, routing_key, queue: None });
    Some((reason, origin))
}

/// `x-death` has one entry for each queue and reason, the latest first; the place before the first death is the origin.
fn deaths(headers: &FieldTable) -> (Option<String>, Option<Origin>, Option<i64>) {
    let get = |name: &str| headers.inner().get(name).and_then(text);
    let Some(AMQPValue::FieldArray(all)) = headers.inner().get("x-death") else { return (None, None, None) };
    let entries: Vec<&FieldTable> = all.as_slice().iter().filter_map(AMQPValue::as_field_table).collect();
    let of = |entry: &FieldTable, name: &str| entry.inner().get(name).and_then(text);
    let (Some(last), Some(oldest)) = (entries.first(), entries.last()) else { return (None, None, None) };
    let first = entries.iter().find(|entry| {
        get("x-first-death-queue").is_some_and(|queue| of(entry, "queue") == Some(queue))
            && of(entry, "reason") == get("x-first-death-reason")
    });
    let first = first.unwrap_or(oldest);
    let why = of(last, "reason").unwrap_or_else(|| "unknown".into());
    let reason = format!("{why} in {}", of(last, "queue").unwrap_or_default());
    let keys = first.inner().get("routing-keys").and_then(AMQPValue::as_array);
    let routing_key = keys.and_then(|keys| keys.as_slice().first()).and_then(text);
    let origin = of(first, "exchange").zip(routing_key).map(|(exchange, routing_key)| Origin::Rabbitmq {
        exchange,
        routing_key,
        queue: of(first, "queue"),
    });
    let died_at = match last.inner().get("time") {
        Some(AMQPValue::Timestamp(at)) => i64::try_from(*at).ok(),
        _ => None,
    };
    (Some(reason), origin, died_at)
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn table(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, field)| (name.to_string(), value(field))).collect()
}

fn value(field: &AMQPValue) -> Value {
    match field {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::DecimalValue(value) => json!(format!("{value:?}")),
        AMQPValue::ShortString(value) => json!(value.as_str()),
        AMQPValue::LongString(value) => json!(String::from_utf8_lossy(value.as_bytes())),
        AMQPValue::FieldArray(values) => Value::Array(values.as_slice().iter().map(self::value).collect()),
        AMQPValue::FieldTable(values) => Value::Object(table(values)),
        AMQPValue::ByteArray(bytes) => json!(String::from_utf8_lossy(bytes.as_slice())),
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldArray;

    fn string(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn fields(all: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in all {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn death(queue: &str, reason: &str, exchange: &str, key: &str, time: u64) -> AMQPValue {
        let keys = AMQPValue::FieldArray(FieldArray::from(vec![string(key)]));
        AMQPValue::FieldTable(fields(&[
            ("queue", string(queue)),
            ("reason", string(reason)),
            ("exchange", string(exchange)),
            ("routing-keys", keys),
            ("time", AMQPValue::Timestamp(time)),
            ("count", AMQPValue::LongLongInt(1)),
        ]))
    }

    fn of(headers: FieldTable) -> Letter {
        letter(1, &BasicProperties::default().with_headers(headers), Bytes::new())
    }

    /// A retry queue in between: the place of the *first* death is where it came from, the last death is the reason.
    #[test]
    fn a_message_that_died_twice_goes_back_to_where_it_was_first() {
        let all = vec![
            death("retry", "expired", "", "retry", 200),
            death("orders", "rejected", "events", "order.placed", 100),
        ];
        let letter = of(fields(&[
            ("x-death", AMQPValue::FieldArray(FieldArray::from(all))),
            ("x-first-death-queue", string("orders")),
            ("x-first-death-reason", string("rejected")),
        ]));
        assert_eq!(letter.reason.as_deref(), Some("expired in retry"));
        assert_eq!(letter.died_at, Some(200));
        let queue = Some("orders".into());
        let origin = Origin::Rabbitmq { exchange: "events".into(), routing_key: "order.placed".into(), queue };
        assert_eq!((letter.origin, letter.key.as_deref()), (Some(origin), Some("order.placed")));
    }

    #[test]
    fn the_relays_own_letters_say_where_they_were_to_go() {
        let letter = of(fields(&[
            (REASON, string("no queue takes it")),
            (ORIGINAL_EXCHANGE, string("events")),
            (ORIGINAL_ROUTING_KEY, string("order.placed")),
            (HEADERS_DROPPED, AMQPValue::Boolean(true)),
        ]));
        assert_eq!(letter.reason.as_deref(), Some("no queue takes it"));
        assert!(
            letter.incomplete
                && matches!(&letter.origin, Some(Origin::Rabbitmq { exchange, .. }) if exchange == "events")
        );
    }

    #[test]
    fn what_has_no_marks_has_no_origin_and_is_shown_all_the_same() {
        let letter = of(fields(&[("tenant", AMQPValue::LongInt(4)), ("x-death", AMQPValue::Void)]));
        assert_eq!((letter.origin.clone(), letter.reason.clone(), letter.id()), (None, None, "#1"));
        assert_eq!(Value::Object(letter.headers), json!({"tenant": 4, "x-death": null}));
    }

    #[test]
    fn a_replay_is_the_message_without_the_letters_marks() {
        let headers = fields(&[
            ("tenant", AMQPValue::LongInt(4)),
            (REASON, string("why")),
            (ORIGINAL_EXCHANGE, string("events")),
            (DELIVERY_COUNT, AMQPValue::LongLongInt(3)),
        ]);
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("m1".into())
            .with_type("order.placed".into())
            .with_user_id("somebody".into())
            .with_timestamp(5);
        assert_eq!(returns(&properties), 3);
        let expected = BasicProperties::default()
            .with_headers(fields(&[("tenant", AMQPValue::LongInt(4))]))
            .with_message_id("m1".into())
            .with_type("order.placed".into())
            .with_timestamp(5)
            .with_delivery_mode(2);
        assert_eq!(replayed(&properties), expected);
    }
}
