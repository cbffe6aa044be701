//! What tests ask of a RabbitMQ node by AMQP: declare, bind, count, drain. An ordinary client, not the relay's own.

use crate::RabbitMq;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use std::time::Duration;

/// A message as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Received {
    pub exchange: String,
    pub routing_key: String,
    pub redelivered: bool,
    pub message_id: Option<String>,
    pub kind: Option<String>,
    pub content_type: Option<String>,
    pub delivery_mode: Option<u8>,
    pub timestamp: Option<u64>,
    pub headers: FieldTable,
    pub body: Vec<u8>,
}

impl Received {
    /// A header's text, whatever string type it came as.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            AMQPValue::LongInt(number) => Some(number.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A connection with one channel. A failed declaration closes the channel: use a new one then.
#[derive(Debug)]
pub struct Rabbit {
    connection: Connection,
    channel: Channel,
}

impl Rabbit {
    /// Connects as `guest`.
    pub async fn connect(node: &RabbitMq) -> Rabbit {
        Rabbit::connect_to(&node.url()).await
    }

    /// Connects to any AMQP URL.
    pub async fn connect_to(url: &str) -> Rabbit {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        let connection = connection.unwrap_or_else(|error| panic!("cannot connect to RabbitMQ: {error}"));
        let channel = connection.create_channel().await.expect("a channel can be opened");
        Rabbit { connection, channel }
    }

    /// The channel, for what is not offered here.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The connection, for more channels.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A durable topic exchange.
    pub async fn exchange(&self, name: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let done =
            self.channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await;
        done.unwrap_or_else(|error| panic!("cannot declare exchange {name}: {error}"));
    }

    /// A durable classic queue, bound to `exchange` by each of `keys`.
    pub async fn queue(&self, name: &str, exchange: &str, keys: &[&str]) {
        self.queue_with(name, FieldTable::default()).await;
        for key in keys {
            self.bind(name, exchange, key).await;
        }
    }

    /// A durable queue with arguments (`x-queue-type`, `x-max-length`, …).
    pub async fn queue_with(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let done = self.channel.queue_declare(name.into(), options, arguments).await;
        done.unwrap_or_else(|error| panic!("cannot declare queue {name}: {error}"));
    }

    /// Binds a queue.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let done = self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none).await;
        done.unwrap_or_else(|error| panic!("cannot bind {queue}: {error}"));
    }

    /// Removes a binding.
    pub async fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        let done = self.channel.queue_unbind(queue.into(), exchange.into(), key.into(), FieldTable::default()).await;
        done.unwrap_or_else(|error| panic!("cannot unbind {queue}: {error}"));
    }

    /// Deletes a queue with its messages.
    pub async fn delete_queue(&self, name: &str) {
        let done = self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await;
        done.unwrap_or_else(|error| panic!("cannot delete {name}: {error}"));
    }

    /// Empties a queue.
    pub async fn purge(&self, name: &str) {
        let done = self.channel.queue_purge(name.into(), QueuePurgeOptions::default()).await;
        done.unwrap_or_else(|error| panic!("cannot purge {name}: {error}"));
    }

    /// Messages ready in a queue, exactly (passive declaration).
    pub async fn count(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let state = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        state.unwrap_or_else(|error| panic!("no queue {queue}: {error}")).message_count()
    }

    /// Takes everything that is in the queue now, in order; empty if there is nothing.
    pub async fn drain(&self, queue: &str) -> Vec<Received> {
        let mut all = Vec::new();
        loop {
            let count = self.count(queue).await as usize;
            if count == 0 {
                return all;
            }
            all.extend(self.take(queue, count, Duration::from_secs(60)).await);
        }
    }

    /// Takes exactly `count` messages, in order, waiting for those that are still to come; panics after `limit`.
    pub async fn take(&self, queue: &str, count: usize, limit: Duration) -> Vec<Received> {
        let channel = self.connection.create_channel().await.expect("a channel can be opened");
        let prefetch = u16::try_from(count).unwrap_or(u16::MAX);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("qos is accepted");
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.into(), "".into(), options, none).await;
        let mut consumer = consumer.unwrap_or_else(|error| panic!("cannot consume from {queue}: {error}"));
        let mut all = Vec::with_capacity(count);
        let end = tokio::time::Instant::now() + limit;
        while all.len() < count {
            let next = tokio::time::timeout_at(end, consumer.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{} of {count} messages in {queue} after {limit:?}", all.len()));
            let delivery = next.expect("the consumer is not cancelled").expect("the connection holds");
            let last = all.len() + 1 == count;
            if last || (all.len() + 1).is_multiple_of(500) {
                // What was prefetched beyond the count goes back when the channel closes.
                delivery.acker.ack(BasicAckOptions { multiple: true }).await.expect("the connection holds");
            }
            all.push(received(&delivery));
        }
        channel.close(200, "done".into()).await.expect("the connection holds");
        all
    }
}

fn received(delivery: &lapin::message::Delivery) -> Received {
    let properties = &delivery.properties;
    Received {
        exchange: delivery.exchange.to_string(),
        routing_key: delivery.routing_key.to_string(),
        redelivered: delivery.redelivered,
        message_id: properties.message_id().as_ref().map(ToString::to_string),
        kind: properties.kind().as_ref().map(ToString::to_string),
        content_type: properties.content_type().as_ref().map(ToString::to_string),
        delivery_mode: *properties.delivery_mode(),
        timestamp: *properties.timestamp(),
        headers: properties.headers().clone().unwrap_or_default(),
        body: delivery.data.to_vec(),
    }
}
