//! One message → exchange, routing key, properties, body: what of it goes where in AMQP.
//!
//! What AMQP cannot carry (a routing key above 255 bytes, headers larger than a frame) is a reason in a sentence, never a
//! panic and never a cut. Only a dead letter is cut to fit, because it must arrive.

use super::config::{RabbitmqConfig, RoutingKey};
use super::connect::CHANNEL;
use super::frame::{SHORT_MAX, Writer, property};
use bytes::{Bytes, BytesMut};
use tailwater_core::route::Compatibility;
use tailwater_core::{Header, HeaderValue, Message};

/// Header of a dead letter: the exchange and the routing key it was meant for, and why it is here. The last one is added
/// by who publishes the dead letter.
pub const ORIGINAL_EXCHANGE: &str = "x-tailwater-original-exchange";
pub const ORIGINAL_ROUTING_KEY: &str = "x-tailwater-original-routing-key";
pub const REASON: &str = "x-tailwater-reason";
/// Set where a dead letter's own headers were too large to carry.
pub const HEADERS_DROPPED: &str = "x-tailwater-headers-dropped";

/// The part of the configuration that says where messages go.
#[derive(Clone, Debug)]
pub struct Addressing {
    /// `None`: the topic names the exchange, as Debezium has it.
    pub exchange: Option<String>,
    routing_key: RoutingKey,
    null_value: Bytes,
    /// Debezium's messages have no property but `delivery_mode`; `message_id` is the listed exception.
    bare: bool,
    /// These are dead letters: the addressing they were refused under.
    original: Option<Box<Addressing>>,
}

impl Addressing {
    pub fn new(config: &RabbitmqConfig, compatibility: Compatibility) -> Self {
        Addressing {
            exchange: (!config.exchange.is_empty()).then(|| config.exchange.clone()),
            routing_key: config.routing_key.clone(),
            null_value: config.null_value.clone().unwrap_or_default().into(),
            bare: compatibility == Compatibility::Strict,
            original: None,
        }
    }

    /// For dead letters; `None` where no exchange for them is configured. The empty exchange is AMQP's default exchange.
    pub fn dead_letters(config: &RabbitmqConfig) -> Option<Self> {
        let original = Addressing::new(config, Compatibility::Default);
        Some(Addressing {
            exchange: Some(config.dead_letter_exchange.clone()?),
            routing_key: match &config.dead_letter_routing_key {
                Some(key) => RoutingKey::Static(key.clone()),
                None => original.routing_key.clone(),
            },
            null_value: Bytes::new(),
            bare: false,
            original: Some(Box::new(original)),
        })
    }

    /// Exchange of this message.
    pub fn exchange<'a>(&'a self, message: &'a Message) -> &'a str {
        self.exchange.as_deref().unwrap_or(&message.topic)
    }

    /// Routing key of this message; `Err`: it has none that AMQP can carry.
    pub fn routing_key<'a>(&'a self, message: &'a Message) -> Result<&'a str, String> {
        let key = match &self.routing_key {
            RoutingKey::Topic => &*message.topic,
            RoutingKey::Static(key) => key,
            // No key: the empty routing key, as Debezium has it. `mandatory` tells where that leads nowhere.
            RoutingKey::Key => std::str::from_utf8(message.key.as_deref().unwrap_or_default())
                .map_err(|_| "the key, which is the routing key here, is not UTF-8 text".to_owned())
                .or_else(|e| if self.original.is_some() { Ok("") } else { Err(e) })?,
        };
        match self.original {
            Some(_) => Ok(cut(key)),
            None => Ok(key),
        }
    }

    /// Body of this message.
    pub fn body<'a>(&'a self, message: &'a Message) -> &'a [u8] {
        message.payload.as_deref().unwrap_or(&self.null_value)
    }

    /// Appends the message as frames; `Err`: why it cannot be sent, `out` is as before.
    pub fn encode(&self, message: &Message, frame_max: usize, out: &mut BytesMut) -> Result<(), String> {
        let exchange = self.exchange(message);
        let routing_key = self.routing_key(message)?;
        let mut headers = self.headers(message);
        if self.original.is_none() {
            check(exchange, routing_key, message, &headers)?;
        }
        let start = out.len();
        let mut writer = Writer(out);
        writer.method(CHANNEL, 60, 40, |w| {
            w.u16(0);
            w.short(cut(exchange));
            w.short(routing_key);
            w.u8(1); // mandatory: what no queue takes comes back
        });
        let body = self.body(message);
        let after_method = writer.0.len();
        let mut size = writer.content_header(CHANNEL, body.len(), |w| self.properties(message, &headers, w));
        if size > frame_max && self.original.is_some() {
            out.truncate(after_method);
            headers = self.headers_of_last_resort(message);
            size = Writer(out).content_header(CHANNEL, body.len(), |w| self.properties(message, &headers, w));
        }
        if size > frame_max {
            out.truncate(start);
            return Err(format!(
                "headers and properties take {size} bytes, and AMQP wants them in one frame of {frame_max}: move what is \
                 large from headers into the payload, or raise the broker's frame_max"
            ));
        }
        Writer(out).body(CHANNEL, body, frame_max);
        Ok(())
    }

    fn properties(&self, message: &Message, headers: &[Header], w: &mut Writer<'_>) {
        let id = short(&message.id.0);
        let event_type = message.event_type.as_deref().and_then(short).filter(|_| !self.bare);
        let seconds = u64::try_from(message.timestamp.0.div_euclid(1_000_000)).ok().filter(|_| !self.bare);
        let mut flags = property::DELIVERY_MODE;
        for (present, flag) in [
            (!self.bare, property::CONTENT_TYPE),
            (!headers.is_empty(), property::HEADERS),
            (id.is_some(), property::MESSAGE_ID),
            (seconds.is_some(), property::TIMESTAMP),
            (event_type.is_some(), property::TYPE),
        ] {
            flags |= if present { flag } else { 0 };
        }
        w.u16(flags);
        if !self.bare {
            w.short(message.content_type);
        }
        if !headers.is_empty() {
            w.sized(|w| headers.iter().for_each(|header| field(header, w)));
        }
        w.u8(2); // persistent
        if let Some(id) = id {
            w.short(id);
        }
        if let Some(seconds) = seconds {
            w.u64(seconds);
        }
        if let Some(event_type) = event_type {
            w.short(event_type);
        }
    }

    /// The message's headers, each name once (the last one placed wins, as in Debezium's table), and a dead letter's own.
    fn headers(&self, message: &Message) -> Vec<Header> {
        let own = &message.headers.0;
        let mut headers: Vec<Header> = vec![];
        for (i, header) in own.iter().enumerate() {
            let again = own[i + 1..].iter().any(|later| later.name == header.name);
            // A dead letter's `CC` would send it to further queues, and one that is no array is refused.
            let unfit = self.original.is_some() && (header.name.len() > SHORT_MAX || is_copy(&header.name));
            if !again && !unfit {
                headers.push(header.clone());
            }
        }
        if let Some(original) = &self.original {
            headers.extend(original.origin(message));
        }
        headers
    }

    fn origin(&self, message: &Message) -> [Header; 2] {
        let text = |name: &str, value: &str| Header {
            name: name.into(),
            value: HeaderValue::Text(Bytes::copy_from_slice(value.as_bytes())),
        };
        [
            text(ORIGINAL_EXCHANGE, self.exchange(message)),
            text(ORIGINAL_ROUTING_KEY, self.routing_key(message).unwrap_or_default()),
        ]
    }

    fn headers_of_last_resort(&self, message: &Message) -> Vec<Header> {
        let reason = message.headers.0.iter().find(|h| &*h.name == REASON).cloned();
        let mut headers = vec![Header { name: HEADERS_DROPPED.into(), value: HeaderValue::Bool(true) }];
        headers.extend(reason);
        if let Some(original) = &self.original {
            let origin = original.origin(message);
            headers.extend(origin.into_iter().filter(|h| h.value.len() < 4096));
        }
        headers
    }
}

fn check(exchange: &str, routing_key: &str, message: &Message, headers: &[Header]) -> Result<(), String> {
    let id = &message.id.0;
    let event_type = message.event_type.as_deref().unwrap_or_default();
    for (what, text) in
        [("routing key", routing_key), ("exchange name", exchange), ("event id", id), ("event type", event_type)]
    {
        if text.len() > SHORT_MAX {
            return Err(format!("the {what} has {} bytes, and AMQP allows {SHORT_MAX}: make it shorter", text.len()));
        }
    }
    for header in headers {
        if header.name.len() > SHORT_MAX {
            return Err(format!("a header's name has {} bytes, and AMQP allows {SHORT_MAX}", header.name.len()));
        }
        if is_copy(&header.name) {
            return Err(format!(
                "RabbitMQ takes the header `{}` for a list of further routing keys: rename it",
                header.name
            ));
        }
    }
    Ok(())
}

fn is_copy(name: &str) -> bool {
    name == "CC" || name == "BCC"
}

fn short(text: &str) -> Option<&str> {
    (text.len() <= SHORT_MAX).then_some(text)
}

/// At most 255 bytes, at a character's edge.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHORT_MAX)]
}

/// A field of a table, typed as RabbitMQ reads it (AMQP 0-9-1 errata, section 3).
fn field(header: &Header, w: &mut Writer<'_>) {
    w.short(&header.name);
    match &header.value {
        HeaderValue::Null => w.u8(b'V'),
        HeaderValue::Bool(value) => {
            w.u8(b't');
            w.u8(u8::from(*value));
        }
        HeaderValue::Int(value) => {
            w.u8(b'l');
            w.u64(*value as u64);
        }
        HeaderValue::Float(value) => {
            w.u8(b'd');
            w.u64(value.to_bits());
        }
        HeaderValue::Text(value) => {
            w.u8(b'S');
            w.long(value);
        }
        HeaderValue::Bytes(value) => {
            w.u8(b'x');
            w.long(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Frame, decode, message_id_of};
    use super::*;
    use tailwater_core::{Headers, MessageId, Timestamp};

    fn message() -> Message {
        Message {
            id: MessageId("id-1".into()),
            topic: "report.created".into(),
            event_type: Some("ReportCreated".into()),
            key: Some(Bytes::from_static(b"user-7")),
            headers: Headers::default(),
            content_type: "application/json",
            payload: Some(Bytes::from_static(b"{}")),
            partition: None,
            timestamp: Timestamp(1_700_000_000_500_000),
        }
    }

    fn config() -> RabbitmqConfig {
        RabbitmqConfig { exchange: "events".into(), ..RabbitmqConfig::default() }
    }

    fn encoded(addressing: &Addressing, message: &Message) -> Result<BytesMut, String> {
        let mut out = BytesMut::new();
        addressing.encode(message, 4096, &mut out).map(|()| out)
    }

    #[test]
    fn a_message_as_it_stands_on_the_wire() {
        let mut m = message();
        m.headers.push("n", HeaderValue::Int(1));
        m.headers.push("n", HeaderValue::Int(2));
        let bytes = encoded(&Addressing::new(&config(), Compatibility::Default), &m).unwrap();
        let expected = [
            &b"\x01\x00\x01\x00\x00\x00\x1d\x00\x3c\x00\x28\x00\x00\x06events\x0ereport.created\x01\xce"[..],
            b"\x02\x00\x01\x00\x00\x00\x4a\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xb0\xe0\x10application/json",
            b"\x00\x00\x00\x0b\x01nl\x00\x00\x00\x00\x00\x00\x00\x02\x02\x04id-1\x00\x00\x00\x00\x65\x53\xf1\x00\x0dReportCreated\xce",
            b"\x03\x00\x01\x00\x00\x00\x02{}\xce",
        ]
        .concat();
        assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn strict_sends_no_property_that_debezium_does_not_send_but_the_id() {
        let mut bytes = encoded(&Addressing::new(&config(), Compatibility::Strict), &message()).unwrap();
        decode(&mut bytes, 4096).unwrap();
        let Frame::Header { properties, .. } = decode(&mut bytes, 4096).unwrap().unwrap() else { panic!() };
        assert_eq!(&properties[..], b"\x10\x80\x02\x04id-1");
        assert_eq!(message_id_of(&properties).unwrap().unwrap(), "id-1");
    }

    #[test]
    fn where_messages_go() {
        let m = message();
        let with = |exchange: &str, routing_key| RabbitmqConfig { exchange: exchange.into(), routing_key, ..config() };
        for (exchange, key, expected) in [
            ("events", RoutingKey::Topic, ("events", "report.created")),
            ("", RoutingKey::Topic, ("report.created", "report.created")),
            ("events", RoutingKey::Key, ("events", "user-7")),
            ("events", RoutingKey::Static("all".into()), ("events", "all")),
        ] {
            let addressing = Addressing::new(&with(exchange, key), Compatibility::Default);
            assert_eq!((addressing.exchange(&m), addressing.routing_key(&m).unwrap()), expected);
        }
        let by_key = Addressing::new(&with("events", RoutingKey::Key), Compatibility::Default);
        assert_eq!(by_key.routing_key(&Message { key: None, ..message() }), Ok(""));
        assert!(by_key.routing_key(&Message { key: Some(Bytes::from_static(b"\xff")), ..message() }).is_err());
    }

    #[test]
    fn what_amqp_cannot_carry_is_a_reason_and_leaves_the_buffer_alone() {
        let addressing = Addressing::new(&config(), Compatibility::Default);
        let long: std::sync::Arc<str> = "x".repeat(256).into();
        let mut huge = message();
        huge.headers.push("h", HeaderValue::Text(Bytes::from(vec![b'x'; 5000])));
        let mut copy = message();
        copy.headers.push("CC", HeaderValue::Null);
        for (m, reason) in [
            (Message { topic: long.clone(), ..message() }, "routing key has 256 bytes"),
            (Message { id: MessageId(long.clone()), ..message() }, "event id has 256 bytes"),
            (Message { event_type: Some(long), ..message() }, "event type has 256 bytes"),
            (huge, "in one frame of 4096"),
            (copy, "`CC`"),
        ] {
            let mut out = BytesMut::from(&b"before"[..]);
            let got = addressing.encode(&m, 4096, &mut out).unwrap_err();
            assert!(got.contains(reason), "{got}");
            assert_eq!(&out[..], b"before");
        }
    }

    #[test]
    fn a_dead_letter_fits_whatever_was_wrong_with_it() {
        let config = RabbitmqConfig { dead_letter_exchange: Some("dead".into()), ..config() };
        let addressing = Addressing::dead_letters(&config).unwrap();
        let long: std::sync::Arc<str> = "ä".repeat(200).into();
        let mut m = Message { topic: long.clone(), id: MessageId(long.clone()), event_type: Some(long), ..message() };
        m.headers.push("CC", HeaderValue::Null);
        m.headers.push(REASON, HeaderValue::Text(Bytes::from_static(b"because")));
        let bytes = encoded(&addressing, &m).unwrap();
        let text = bytes.escape_ascii().to_string();
        assert!(text.contains(REASON) && text.contains(ORIGINAL_ROUTING_KEY) && text.contains("dead"), "{text}");
        assert!(!text.contains("CC"));
        m.headers.push("h", HeaderValue::Text(Bytes::from(vec![b'x'; 5000])));
        let text = encoded(&addressing, &m).unwrap().escape_ascii().to_string();
        assert!(text.contains(REASON) && text.contains(HEADERS_DROPPED));
        assert!(Addressing::dead_letters(&RabbitmqConfig::default()).is_none());
    }
}
