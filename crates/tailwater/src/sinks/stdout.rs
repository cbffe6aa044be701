//! JSON lines on standard output: one object per message. Durable once written and flushed.
//!
//! Needs nothing but a reader. It refuses nothing: bytes that are no text are written as `{"base64":"…"}`.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::sync::Arc;
use tailwater_core::message::{HeaderValue, Headers, Timestamp};
use tailwater_core::{Failure, Message, Publisher, Settled, Sink, Slice};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, OwnedMutexGuard};

type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Writes one JSON object per message and line: `id, topic, type, key, headers, payload, timestamp`.
pub struct StdoutSink {
    output: Arc<Mutex<Output>>,
}

impl StdoutSink {
    /// To the process's standard output.
    pub fn new() -> Self {
        StdoutSink::to(Box::new(tokio::io::stdout()))
    }

    /// To any other place: a file, a pipe, a test's buffer. All lanes share it, whole lines at a time.
    pub fn to(output: Output) -> Self {
        StdoutSink { output: Arc::new(Mutex::new(output)) }
    }
}

impl Default for StdoutSink {
    fn default() -> Self {
        StdoutSink::new()
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn open(&self, _lane: u32) -> Result<Box<dyn Publisher>, Failure> {
        Ok(Box::new(Lines { output: self.output.clone(), held: None, buffer: Vec::new(), written: 0, messages: 0 }))
    }
}

struct Lines {
    output: Arc<Mutex<Output>>,
    /// Kept from the first byte of a run of lines to its flush, so that lanes never mix inside a line.
    held: Option<OwnedMutexGuard<Output>>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are with the output already.
    written: usize,
    /// Messages in `buffer`.
    messages: usize,
}

#[async_trait]
impl Publisher for Lines {
    fn push(&mut self, slice: Slice) {
        for message in slice.messages.iter() {
            write_line(message, &mut self.buffer);
        }
        self.messages += slice.messages.len();
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.messages == 0 {
            return std::future::pending().await;
        }
        if self.held.is_none() {
            self.held = Some(self.output.clone().lock_owned().await);
        }
        let output = self.held.as_mut().expect("taken above");
        // `write` either moves bytes and says how many, or is dropped having moved none: safe to cancel (P4).
        while self.written < self.buffer.len() {
            match output.write(&self.buffer[self.written..]).await {
                Ok(0) => return Err(gone(std::io::ErrorKind::WriteZero.into())),
                Ok(n) => self.written += n,
                Err(error) => return Err(gone(error)),
            }
        }
        output.flush().await.map_err(gone)?;
        self.held = None;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        self.written = 0;
        Ok(Settled { durable: std::mem::take(&mut self.messages), rejected: vec![] })
    }

    fn release(&mut self, index: u64) {
        unreachable!("nothing is refused here, so nothing is released: {index}")
    }
}

fn gone(error: std::io::Error) -> Failure {
    Failure::fatal("start it again with a reader on standard output that stays, or write to a file", error)
}

/// Appends the message as one line, newline included.
pub fn write_line(message: &Message, out: &mut Vec<u8>) {
    let line = Line {
        id: &message.id.0,
        topic: &message.topic,
        event_type: message.event_type.as_deref(),
        key: message.key.as_deref().map(Text),
        headers: Fields(&message.headers),
        payload: Payload { json: message.content_type.contains("json"), bytes: message.payload.as_deref() },
        timestamp: timestamp(message.timestamp),
    };
    let start = out.len();
    serde_json::to_writer(&mut *out, &line).expect("a line has string keys and writes to memory");
    // JSON text may be laid out over several lines; a raw line feed can only be white space there.
    for byte in &mut out[start..] {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    topic: &'a str,
    #[serde(rename = "type")]
    event_type: Option<&'a str>,
    key: Option<Text<'a>>,
    headers: Fields<'a>,
    payload: Payload<'a>,
    timestamp: String,
}

/// Text as a string, other bytes as `{"base64":…}`.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(self.0))?;
        map.end()
    }
}

struct Payload<'a> {
    json: bool,
    bytes: Option<&'a [u8]>,
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = self.bytes else { return serializer.serialize_none() };
        if self.json
            && let Ok(raw) = serde_json::from_slice::<&RawValue>(bytes)
        {
            return raw.serialize(serializer);
        }
        Text(bytes).serialize(serializer)
    }
}

struct Fields<'a>(&'a Headers);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for header in &self.0.0 {
            match &header.value {
                HeaderValue::Null => map.serialize_entry(&*header.name, &())?,
                HeaderValue::Bool(v) => map.serialize_entry(&*header.name, v)?,
                HeaderValue::Int(v) => map.serialize_entry(&*header.name, v)?,
                HeaderValue::Float(v) => map.serialize_entry(&*header.name, v)?,
                HeaderValue::Text(v) | HeaderValue::Bytes(v) => map.serialize_entry(&*header.name, &Text(v))?,
            }
        }
        map.end()
    }
}

/// RFC 3339, to the microsecond; a moment outside its years as plain µs.
fn timestamp(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0).map_or_else(|_| at.0.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tailwater_core::MessageId;

    fn message(content_type: &'static str, payload: Option<&[u8]>) -> Message {
        Message {
            id: MessageId("7".into()),
            topic: "report.created".into(),
            event_type: Some("ReportCreated".into()),
            key: Some(Bytes::from_static(b"k")),
            headers: Headers::default(),
            content_type,
            payload: payload.map(Bytes::copy_from_slice),
            partition: None,
            timestamp: Timestamp(1_700_000_000_123_456),
        }
    }

    fn line(message: &Message) -> String {
        let mut out = vec![];
        write_line(message, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_embedded_as_it_is() {
        let got = line(&message("application/json", Some(b"{\"n\":1.00,\n \"big\":123456789012345678901}")));
        assert_eq!(
            got,
            "{\"id\":\"7\",\"topic\":\"report.created\",\"type\":\"ReportCreated\",\"key\":\"k\",\"headers\":{},\
             \"payload\":{\"n\":1.00,  \"big\":123456789012345678901},\"timestamp\":\"2023-11-14T22:13:20.123456Z\"}\n"
        );
    }

    #[test]
    fn what_is_not_json_is_text_or_base64_and_nothing_is_null() {
        assert!(line(&message("application/json", Some(b"{oops"))).contains("\"payload\":\"{oops\""));
        assert!(line(&message("text/plain", Some(b"a\nb"))).contains("\"payload\":\"a\\nb\""));
        let bytes = &[0xff, 0x00][..];
        assert!(line(&message("application/octet-stream", Some(bytes))).contains("\"payload\":{\"base64\":\"/wA=\"}"));
        assert!(line(&message("application/json", None)).contains("\"payload\":null"));
    }

    #[test]
    fn headers_keep_their_types() {
        let mut m = message("application/json", None);
        m.headers.push("n", HeaderValue::Int(-5));
        m.headers.push("t", HeaderValue::Text(Bytes::from_static(b"x\"y")));
        m.headers.push("z", HeaderValue::Null);
        assert!(line(&m).contains("\"headers\":{\"n\":-5,\"t\":\"x\\\"y\",\"z\":null}"));
    }
}
