//! A queue of the demo's own: made, read by `basic.get`, deleted. Enough of a consumer to count what arrived, and no more.

use crate::sinks::rabbitmq::config::{Binding, Exchange, Queue, QueueKind, RabbitmqConfig, Topology};
use crate::sinks::rabbitmq::connect::{CHANNEL, Connection, connect};
use crate::sinks::rabbitmq::failure::AmqpError;
use crate::sinks::rabbitmq::frame::{Frame, Method, Writer, decode, message_id_of};
use crate::sinks::rabbitmq::topology;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An exchange and a queue of the same name that takes everything.
pub struct DemoQueue {
    connection: Connection,
    name: String,
}

impl DemoQueue {
    /// Makes both.
    pub async fn make(config: &RabbitmqConfig, name: &str) -> Result<DemoQueue, AmqpError> {
        let mut connection = connect(config, "tailwater demo").await.map_err(|(error, _)| error)?;
        let topology = Topology {
            declare: true,
            exchanges: vec![Exchange { name: name.into(), kind: "topic".into(), durable: true }],
            queues: vec![Queue { name: name.into(), kind: QueueKind::Classic, durable: true, dead_letter: None }],
            bindings: vec![Binding { exchange: name.into(), queue: name.into(), routing_key: "#".into() }],
        };
        topology::ensure(&mut connection, &topology).await?;
        Ok(DemoQueue { connection, name: name.into() })
    }

    /// Takes the next message and gives its id; `None`: the queue is empty now.
    pub async fn take(&mut self) -> Result<Option<String>, AmqpError> {
        let queue = self.name.clone();
        self.send(|w| {
            w.method(CHANNEL, 60, 70, |w| {
                w.u16(0);
                w.short(&queue);
                w.u8(1); // no-ack: what was read is gone
            })
        })
        .await?;
        if self.answer(&[(60, 71), (60, 72)]).await? == (60, 72) {
            return Ok(None);
        }
        let (id, mut left) = loop {
            if let Frame::Header { body_size, properties, .. } = self.frame().await? {
                break (message_id_of(&properties)?, body_size);
            }
        };
        while left > 0 {
            if let Frame::Body { length, .. } = self.frame().await? {
                left = left.saturating_sub(length as u64);
            }
        }
        Ok(Some(id.map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default()))
    }

    /// Deletes queue and exchange.
    pub async fn delete(mut self) -> Result<(), AmqpError> {
        let name = self.name.clone();
        for (class, method) in [(50, 40), (40, 20)] {
            self.send(|w| {
                w.method(CHANNEL, class, method, |w| {
                    w.u16(0);
                    w.short(&name);
                    w.u8(0);
                })
            })
            .await?;
            self.answer(&[(class, method + 1)]).await?;
        }
        self.connection.say_goodbye().await;
        Ok(())
    }

    async fn send(&mut self, method: impl FnOnce(&mut Writer<'_>)) -> Result<(), AmqpError> {
        let mut out = BytesMut::new();
        method(&mut Writer(&mut out));
        let written = self.connection.stream.write_all(&out).await;
        written.map_err(AmqpError::io(format!("write to {}", self.connection.endpoint)))
    }

    /// The next of the awaited methods, by class and number (AMQP 0-9-1, section 1.4).
    async fn answer(&mut self, awaited: &[(u16, u16)]) -> Result<(u16, u16), AmqpError> {
        loop {
            match self.frame().await? {
                Frame::Method { method: Method::Other { class, method }, .. } if awaited.contains(&(class, method)) => {
                    return Ok((class, method));
                }
                Frame::Method { method: Method::Close(close), .. } => return Err(AmqpError::Connection(close)),
                Frame::Method { method: Method::ChannelClose(close), .. } => return Err(AmqpError::Channel(close)),
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, AmqpError> {
        loop {
            if let Some(frame) = decode(&mut self.connection.input, self.connection.frame_max)? {
                return Ok(frame);
            }
            let read = self.connection.stream.read_buf(&mut self.connection.input).await;
            if read.map_err(AmqpError::io(format!("read from {}", self.connection.endpoint)))? == 0 {
                return Err(AmqpError::Eof);
            }
        }
    }
}
