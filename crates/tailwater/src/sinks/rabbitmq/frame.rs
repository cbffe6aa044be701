//! AMQP 0-9-1 on the wire: the few methods a publisher speaks, laid out by hand into one buffer.
//!
//! Only bytes here: no socket, no state. Reading never panics and never reads past a frame; what it does not know it
//! names by class and method. Layout: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First bytes of a connection.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Bytes around a frame's payload: type, channel, length, end octet.
pub const FRAME_OVERHEAD: usize = 8;
/// A heartbeat, complete.
pub const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, END];
/// A short string's limit: exchange, routing key, header names, the properties `message_id` and `type`.
pub const SHORT_MAX: usize = 255;

const END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// Bytes that are no AMQP.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FrameError {
    #[error("the peer does not speak AMQP 0-9-1 (it answered `{0}`)")]
    NotAmqp(String),
    #[error("a frame of {0} bytes is larger than the agreed {1}")]
    TooLarge(usize, usize),
    #[error("a frame does not end where its length says")]
    NoEnd,
    #[error("a frame's content ends too early")]
    Short,
}

/// One frame as it was read.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Method {
        channel: u16,
        method: Method,
    },
    /// Body size of the content that follows (a returned message).
    Header {
        channel: u16,
        body_size: u64,
        properties: Bytes,
    },
    Body {
        channel: u16,
        length: usize,
    },
    Heartbeat,
}

/// What a broker may say to a publisher.
#[derive(Debug, PartialEq)]
pub enum Method {
    Start { mechanisms: String },
    Tune { channel_max: u16, frame_max: u32, heartbeat: u16 },
    OpenOk,
    Close(Close),
    CloseOk,
    Blocked { reason: String },
    Unblocked,
    ChannelOpenOk,
    ChannelFlow { active: bool },
    ChannelClose(Close),
    ChannelCloseOk,
    ExchangeDeclareOk,
    QueueDeclareOk { queue: String, messages: u32, consumers: u32 },
    QueueBindOk,
    ConfirmSelectOk,
    Ack { tag: u64, multiple: bool },
    Nack { tag: u64, multiple: bool },
    Return { code: u16, text: String, exchange: String, routing_key: String },
    Other { class: u16, method: u16 },
}

/// Why a channel or a connection was closed by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub text: String,
    /// Class and method that caused it; (60, 40) = a publish, (0, 0) = none.
    pub cause: (u16, u16),
}

/// Takes one whole frame off the front of `input`; `None`: not all of it has arrived. `max` is the agreed frame_max.
pub fn decode(input: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    if input.len() < 7 {
        return Ok(None);
    }
    // A broker that wants another protocol version answers with its own header and closes (section 4.2.2).
    if input.starts_with(b"AMQP") || !matches!(input[0], METHOD | HEADER | BODY | 8) {
        return Err(FrameError::NotAmqp(input.iter().take(8).map(|b| b.escape_ascii().to_string()).collect()));
    }
    let length = u32::from_be_bytes([input[3], input[4], input[5], input[6]]) as usize;
    if length + FRAME_OVERHEAD > max {
        return Err(FrameError::TooLarge(length + FRAME_OVERHEAD, max));
    }
    if input.len() < length + FRAME_OVERHEAD {
        input.reserve(length + FRAME_OVERHEAD - input.len());
        return Ok(None);
    }
    if input[7 + length] != END {
        return Err(FrameError::NoEnd);
    }
    let mut frame = input.split_to(length + FRAME_OVERHEAD).freeze();
    let kind = frame.get_u8();
    let channel = frame.get_u16();
    frame.advance(4);
    let mut payload = Reader(frame.split_to(length));
    Ok(Some(match kind {
        METHOD => Frame::Method { channel, method: payload.method()? },
        HEADER => {
            payload.u32()?;
            Frame::Header { channel, body_size: payload.u64()?, properties: payload.0 }
        }
        BODY => Frame::Body { channel, length },
        _ => Frame::Heartbeat,
    }))
}

struct Reader(Bytes);

impl Reader {
    fn need(&self, n: usize) -> Result<(), FrameError> {
        if self.0.len() < n { Err(FrameError::Short) } else { Ok(()) }
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }

    fn bytes(&mut self, n: usize) -> Result<Bytes, FrameError> {
        self.need(n)?;
        Ok(self.0.split_to(n))
    }

    fn short(&mut self) -> Result<String, FrameError> {
        let n = self.u8()? as usize;
        Ok(String::from_utf8_lossy(&self.bytes(n)?).into_owned())
    }

    fn long(&mut self) -> Result<Bytes, FrameError> {
        let n = self.u32()? as usize;
        self.bytes(n)
    }

    fn close(&mut self) -> Result<Close, FrameError> {
        Ok(Close { code: self.u16()?, text: self.short()?, cause: (self.u16()?, self.u16()?) })
    }

    fn method(&mut self) -> Result<Method, FrameError> {
        let (class, method) = (self.u16()?, self.u16()?);
        Ok(match (class, method) {
            (10, 10) => {
                self.u16()?; // protocol version
                self.long()?; // server properties
                Method::Start { mechanisms: String::from_utf8_lossy(&self.long()?).into_owned() }
            }
            (10, 30) => Method::Tune { channel_max: self.u16()?, frame_max: self.u32()?, heartbeat: self.u16()? },
            (10, 41) => Method::OpenOk,
            (10, 50) => Method::Close(self.close()?),
            (10, 51) => Method::CloseOk,
            (10, 60) => Method::Blocked { reason: self.short()? },
            (10, 61) => Method::Unblocked,
            (20, 11) => Method::ChannelOpenOk,
            (20, 20) => Method::ChannelFlow { active: self.u8()? & 1 != 0 },
            (20, 40) => Method::ChannelClose(self.close()?),
            (20, 41) => Method::ChannelCloseOk,
            (40, 11) => Method::ExchangeDeclareOk,
            (50, 11) => Method::QueueDeclareOk { queue: self.short()?, messages: self.u32()?, consumers: self.u32()? },
            (50, 21) => Method::QueueBindOk,
            (60, 50) => Method::Return {
                code: self.u16()?,
                text: self.short()?,
                exchange: self.short()?,
                routing_key: self.short()?,
            },
            (60, 80) => Method::Ack { tag: self.u64()?, multiple: self.u8()? & 1 != 0 },
            // Bit 1 (requeue) is set as well by RabbitMQ: only bit 0 means `multiple` (observed on 3.10).
            (60, 120) => Method::Nack { tag: self.u64()?, multiple: self.u8()? & 1 != 0 },
            (85, 11) => Method::ConfirmSelectOk,
            _ => Method::Other { class, method },
        })
    }
}

/// The `message_id` among a content header's properties (as `Frame::Header` has them), `None` where there is none.
///
/// A return carries all properties as they were sent, so only those that we send can come before it.
pub fn message_id_of(properties: &Bytes) -> Result<Option<Bytes>, FrameError> {
    let mut reader = Reader(properties.clone());
    let flags = reader.u16()?;
    if flags & property::CONTENT_TYPE != 0 {
        reader.short()?;
    }
    if flags & property::CONTENT_ENCODING != 0 {
        reader.short()?;
    }
    if flags & property::HEADERS != 0 {
        reader.long()?;
    }
    if flags & property::DELIVERY_MODE != 0 {
        reader.u8()?;
    }
    if flags & property::PRIORITY != 0 {
        reader.u8()?;
    }
    for text in [property::CORRELATION_ID, property::REPLY_TO, property::EXPIRATION] {
        if flags & text != 0 {
            reader.short()?;
        }
    }
    if flags & property::MESSAGE_ID == 0 {
        return Ok(None);
    }
    let n = reader.u8()? as usize;
    reader.bytes(n).map(Some)
}

/// Flags of the properties of class `basic`, in the order in which they are laid out.
pub mod property {
    pub const CONTENT_TYPE: u16 = 1 << 15;
    pub const CONTENT_ENCODING: u16 = 1 << 14;
    pub const HEADERS: u16 = 1 << 13;
    pub const DELIVERY_MODE: u16 = 1 << 12;
    pub const PRIORITY: u16 = 1 << 11;
    pub const CORRELATION_ID: u16 = 1 << 10;
    pub const REPLY_TO: u16 = 1 << 9;
    pub const EXPIRATION: u16 = 1 << 8;
    pub const MESSAGE_ID: u16 = 1 << 7;
    pub const TIMESTAMP: u16 = 1 << 6;
    pub const TYPE: u16 = 1 << 5;
}

/// Appends frames to a buffer that is written as a whole.
pub struct Writer<'a>(pub &'a mut BytesMut);

impl Writer<'_> {
    /// One method frame; `arguments` appends what follows class and method.
    pub fn method(&mut self, channel: u16, class: u16, method: u16, arguments: impl FnOnce(&mut Writer<'_>)) {
        self.frame(METHOD, channel, |w| {
            w.0.put_u16(class);
            w.0.put_u16(method);
            arguments(w);
        });
    }

    /// A content header: class, body size, then what `properties` appends (flags first). Returns the frame's whole size.
    pub fn content_header(
        &mut self,
        channel: u16,
        body_size: usize,
        properties: impl FnOnce(&mut Writer<'_>),
    ) -> usize {
        let start = self.0.len();
        self.frame(HEADER, channel, |w| {
            w.0.put_u16(60);
            w.0.put_u16(0); // weight: unused
            w.0.put_u64(body_size as u64);
            properties(w);
        });
        self.0.len() - start
    }

    /// The body, split into frames of at most `frame_max` bytes, their overhead included; no frame for an empty body.
    pub fn body(&mut self, channel: u16, body: &[u8], frame_max: usize) {
        for chunk in body.chunks(frame_max - FRAME_OVERHEAD) {
            self.frame(BODY, channel, |w| w.0.put_slice(chunk));
        }
    }

    fn frame(&mut self, kind: u8, channel: u16, content: impl FnOnce(&mut Writer<'_>)) {
        self.0.put_u8(kind);
        self.0.put_u16(channel);
        self.sized(content);
        self.0.put_u8(END);
    }

    /// Four bytes of length, then that many bytes: a frame's payload, a table.
    pub fn sized(&mut self, content: impl FnOnce(&mut Writer<'_>)) {
        let at = self.0.len();
        self.0.put_u32(0);
        content(&mut Writer(self.0));
        let length = u32::try_from(self.0.len() - at - 4).expect("a frame's payload is far below 4 GiB");
        self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.put_u16(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.put_u32(value);
    }

    pub fn u64(&mut self, value: u64) {
        self.0.put_u64(value);
    }

    /// A short string: at most 255 bytes, checked by the caller where a user's text is concerned.
    pub fn short(&mut self, text: &str) {
        let length = u8::try_from(text.len()).expect("short strings are checked before they are laid out");
        self.0.put_u8(length);
        self.0.put_slice(text.as_bytes());
    }

    /// A long string: four bytes of length, then the bytes.
    pub fn long(&mut self, bytes: &[u8]) {
        self.sized(|w| w.0.put_slice(bytes));
    }

    /// A table's field with a long string as value.
    pub fn text_field(&mut self, name: &str, value: &str) {
        self.short(name);
        self.u8(b'S');
        self.long(value.as_bytes());
    }

    /// A table's field with a boolean as value.
    pub fn bool_field(&mut self, name: &str, value: bool) {
        self.short(name);
        self.u8(b't');
        self.u8(u8::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        decode(&mut BytesMut::from(bytes), 131_072)
    }

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut Writer(&mut out));
        out
    }

    #[test]
    fn an_ack_as_it_stands_on_the_wire() {
        let bytes = [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0xCE];
        let got = one(&bytes).unwrap().unwrap();
        assert_eq!(got, Frame::Method { channel: 1, method: Method::Ack { tag: 256, multiple: true } });
    }

    #[test]
    fn a_nack_with_the_requeue_bit_is_not_a_multiple_one() {
        for (bits, multiple) in [(2, false), (3, true)] {
            let frame = written(|w| {
                w.method(1, 60, 120, |w| {
                    w.u64(7);
                    w.u8(bits);
                })
            });
            let method = Method::Nack { tag: 7, multiple };
            assert_eq!(one(&frame).unwrap().unwrap(), Frame::Method { channel: 1, method });
        }
    }

    #[test]
    fn a_frame_is_taken_only_when_all_of_it_has_arrived() {
        let whole = written(|w| w.method(1, 20, 11, |w| w.u32(0)));
        let mut input = BytesMut::new();
        for byte in &whole[..whole.len() - 1] {
            input.put_u8(*byte);
            assert_eq!(decode(&mut input, 4096), Ok(None));
        }
        input.put_u8(whole[whole.len() - 1]);
        let method = Method::ChannelOpenOk;
        assert_eq!(decode(&mut input, 4096), Ok(Some(Frame::Method { channel: 1, method })));
        assert!(input.is_empty());
    }

    #[test]
    fn what_is_not_amqp_is_said() {
        assert!(matches!(one(b"HTTP/1.1 400"), Err(FrameError::NotAmqp(text)) if text.starts_with("HTTP")));
        assert!(matches!(one(b"AMQP\x00\x01\x00\x00"), Err(FrameError::NotAmqp(_))));
        assert_eq!(one(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::NoEnd));
        assert_eq!(one(&[1, 0, 1, 0, 0, 0, 2, 0, 60, END]), Err(FrameError::Short));
        assert_eq!(one(&[3, 0, 1, 1, 0, 0, 0]), Err(FrameError::TooLarge((1 << 24) + 8, 131_072)));
    }

    #[test]
    fn a_body_is_split_so_that_no_frame_exceeds_frame_max() {
        let body = vec![b'x'; 10_000];
        let mut out = written(|w| w.body(1, &body, 4096));
        let mut lengths = vec![];
        while let Some(frame) = decode(&mut out, 4096).unwrap() {
            let Frame::Body { length, .. } = frame else { panic!("{frame:?}") };
            lengths.push(length);
        }
        assert_eq!(lengths, [4088, 4088, 1824]);
        assert!(written(|w| w.body(1, b"", 4096)).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut input, 4096) {}
            let _ = message_id_of(&Bytes::from(bytes));
        }

        #[test]
        fn no_method_makes_the_reader_panic(
            class in prop_oneof![Just(10u16), Just(20), Just(40), Just(50), Just(60), Just(85)],
            method in 10u16..125,
            rest in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut frame = written(|w| w.method(1, class, method, |w| w.0.put_slice(&rest)));
            let _ = decode(&mut frame, 4096);
        }
    }
}
