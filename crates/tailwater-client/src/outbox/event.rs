//! What an event says, and the names under which it says so.

use super::Error;
use serde_json::{Map, Value};
use std::fmt;
use uuid::Uuid;

/// An event to publish.
#[derive(Clone, PartialEq)]
pub struct Event {
    id: String,
    event_type: String,
    aggregate: Option<(String, String)>,
    payload: Value,
    traceparent: Option<String>,
    columns: Vec<(String, Value)>,
}

/// The names of the columns (of the members, in a logical message). The default is what Debezium's outbox router reads when
/// nothing else is configured. A field that an event does not have is not written, and its column need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns<'a> {
    /// [`Event::id`]; `id`.
    pub id: &'a str,
    /// First part of [`Event::about`], by which the relay routes; `aggregatetype`.
    pub aggregate_type: &'a str,
    /// Second part of [`Event::about`], the message's key; `aggregateid`.
    pub aggregate_id: &'a str,
    /// What happened; `type`.
    pub event_type: &'a str,
    /// `payload`.
    pub payload: &'a str,
    /// [`Event::traceparent`]; `traceparent`. A header, if the relay places it there (`traceparent:header`).
    pub traceparent: &'a str,
}

impl Default for Columns<'_> {
    fn default() -> Self {
        Columns {
            id: "id",
            aggregate_type: "aggregatetype",
            aggregate_id: "aggregateid",
            event_type: "type",
            payload: "payload",
            traceparent: "traceparent",
        }
    }
}

impl<'a> Columns<'a> {
    pub(super) fn names(&self) -> [&'a str; 6] {
        [self.id, self.aggregate_type, self.aggregate_id, self.event_type, self.payload, self.traceparent]
    }
}

impl Event {
    /// `event_type` says what happened, e.g. `order.placed`; `payload` is what the consumer needs to know, normally an
    /// object. The id is a new UUID of version 7 (RFC 9562), which grows with time and so is kind to the index.
    pub fn new(event_type: impl Into<String>, payload: impl Into<Value>) -> Event {
        Event {
            id: Uuid::now_v7().to_string(),
            event_type: event_type.into(),
            aggregate: None,
            payload: payload.into(),
            traceparent: None,
            columns: Vec::new(),
        }
    }

    /// An id of your own: the same for every attempt to say the same thing. Consumers recognise a repeated event by it.
    pub fn with_id(self, id: impl Into<String>) -> Event {
        Event { id: id.into(), ..self }
    }

    /// What the event is about: events with the same `aggregate_id` stay in order.
    pub fn about(self, aggregate_type: impl Into<String>, aggregate_id: impl Into<String>) -> Event {
        Event { aggregate: Some((aggregate_type.into(), aggregate_id.into())), ..self }
    }

    /// The trace that the event belongs to, as the header `traceparent` of W3C Trace Context has it.
    pub fn traceparent(self, traceparent: impl Into<String>) -> Event {
        Event { traceparent: Some(traceparent.into()), ..self }
    }

    /// A further column of the table, or member of the message. The server converts the value to the column's type: dates
    /// and uuids are given as text.
    pub fn column(mut self, name: impl Into<String>, value: impl Into<Value>) -> Event {
        self.columns.push((name.into(), value.into()));
        self
    }

    /// The event's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As the outbox has it: the value of each column by its name.
    pub(super) fn fields(&self, columns: &Columns<'_>) -> Result<Map<String, Value>, Error> {
        if self.traceparent.as_deref().is_some_and(|text| !is_traceparent(text)) {
            return Err(Error::Traceparent);
        }
        let text = |value: &str| Value::String(value.to_owned());
        let mut all = vec![(columns.id, text(&self.id)), (columns.event_type, text(&self.event_type))];
        if let Some((kind, id)) = &self.aggregate {
            all.extend([(columns.aggregate_type, text(kind)), (columns.aggregate_id, text(id))]);
        }
        all.push((columns.payload, self.payload.clone()));
        all.extend(self.traceparent.as_deref().map(|value| (columns.traceparent, text(value))));
        all.extend(self.columns.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut fields = Map::new();
        for (name, value) in all {
            if fields.insert(name.to_owned(), value).is_some() {
                return Err(Error::Twice(name.to_owned()));
            }
        }
        Ok(fields)
    }
}

/// Without the payload: a log is no place for it.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("id", &self.id).field("event_type", &self.event_type).finish_non_exhaustive()
    }
}

/// W3C Trace Context, section 3.2.2: version, trace id, parent id, flags; lower-case hex; neither id is all zeros.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let [version, trace, parent, flags] = parts[..] else { return false };
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && [trace, parent].iter().all(|id| id.bytes().any(|b| b != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_says_only_what_it_was_told() {
        let event = Event::new("order.placed", json!({"number": 17})).with_id("e1");
        let fields = event.fields(&Columns::default()).unwrap();
        assert_eq!(Value::Object(fields), json!({"id": "e1", "type": "order.placed", "payload": {"number": 17}}));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let fields = event.about("order", "17").traceparent(trace).column("tenant", 4).fields(&Columns::default());
        assert_eq!(
            Value::Object(fields.unwrap()),
            json!({"id": "e1", "type": "order.placed", "aggregatetype": "order", "aggregateid": "17",
                   "payload": {"number": 17}, "traceparent": trace, "tenant": 4})
        );
    }

    #[test]
    fn a_column_that_is_given_twice_is_an_error() {
        let event = Event::new("a", json!({})).column("payload", 1);
        assert!(matches!(event.fields(&Columns::default()), Err(Error::Twice(name)) if name == "payload"));
    }

    #[test]
    fn only_a_whole_traceparent_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in [
            "",
            &good[1..],
            &good.to_uppercase(),
            &good.replace("00f067aa0ba902b7", "0000000000000000"),
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn ids_grow() {
        let ids: Vec<Event> = (0..100).map(|_| Event::new("a", json!(1))).collect();
        assert!(ids.is_sorted_by(|a, b| a.id() < b.id()));
    }
}
