//! Declarations over AMQP: exchange, queue, binding; and whether one exists.
//!
//! A passive declaration shows existence only, whatever type or arguments are given, and needs no permission (observed on
//! RabbitMQ 3.10). An active one never changes what exists: it passes if equal and closes the channel with 406 if not.

use super::config::{Binding, DeadLetterBy, Exchange, Queue, QueueKind};
use super::connect::{CHANNEL, Connection};
use super::failure::AmqpError;
use super::frame::{SHORT_MAX, Writer};

const PASSIVE: u8 = 1;
const DURABLE: u8 = 2;

/// The arguments a queue is declared with.
pub fn arguments(queue: &Queue) -> Vec<(&'static str, String)> {
    let mut arguments = vec![];
    if queue.kind == QueueKind::Quorum {
        arguments.push(("x-queue-type", "quorum".to_owned()));
    }
    if let Some(dead_letter) = queue.dead_letter.as_ref().filter(|d| d.by == DeadLetterBy::Argument) {
        arguments.push(("x-dead-letter-exchange", dead_letter.exchange.clone()));
        if let Some(key) = &dead_letter.routing_key {
            arguments.push(("x-dead-letter-routing-key", key.clone()));
        }
    }
    arguments
}

/// Makes an exchange; equal to an existing one: nothing happens.
pub async fn exchange(connection: &mut Connection, exchange: &Exchange) -> Result<(), AmqpError> {
    named(&[&exchange.name, &exchange.kind])?;
    let bits = if exchange.durable { DURABLE } else { 0 };
    declare_exchange(connection, &exchange.name, &exchange.kind, bits).await
}

/// Does an exchange of this name exist?
pub async fn exchange_exists(connection: &mut Connection, name: &str) -> Result<bool, AmqpError> {
    named(&[name])?;
    let seen = declare_exchange(connection, name, "topic", PASSIVE).await;
    found(connection, seen).await
}

/// The exchange exists, or the broker's own 404 as an error.
pub async fn require_exchange(connection: &mut Connection, name: &str) -> Result<(), AmqpError> {
    named(&[name])?;
    declare_exchange(connection, name, "topic", PASSIVE).await
}

async fn declare_exchange(connection: &mut Connection, name: &str, kind: &str, bits: u8) -> Result<(), AmqpError> {
    let write = |w: &mut Writer<'_>| {
        w.method(CHANNEL, 40, 10, |w| {
            w.u16(0);
            w.short(name);
            w.short(kind);
            w.u8(bits);
            w.sized(|_| {});
        })
    };
    connection.call(CHANNEL, "exchange.declare-ok", write).await.map(|_| ())
}

/// Makes a queue; equal to an existing one: nothing happens.
pub async fn queue(connection: &mut Connection, queue: &Queue) -> Result<(), AmqpError> {
    named(&[&queue.name])?;
    let bits = if queue.durable { DURABLE } else { 0 };
    declare_queue(connection, &queue.name, bits, &arguments(queue)).await
}

/// Does a queue of this name exist?
pub async fn queue_exists(connection: &mut Connection, name: &str) -> Result<bool, AmqpError> {
    named(&[name])?;
    let seen = declare_queue(connection, name, PASSIVE, &[]).await;
    found(connection, seen).await
}

async fn declare_queue(
    connection: &mut Connection,
    name: &str,
    bits: u8,
    arguments: &[(&'static str, String)],
) -> Result<(), AmqpError> {
    let write = |w: &mut Writer<'_>| {
        w.method(CHANNEL, 50, 10, |w| {
            w.u16(0);
            w.short(name);
            w.u8(bits);
            w.sized(|w| arguments.iter().for_each(|(name, value)| w.text_field(name, value)));
        })
    };
    connection.call(CHANNEL, "queue.declare-ok", write).await.map(|_| ())
}

/// Binds a queue; a repeat is nothing.
pub async fn binding(connection: &mut Connection, binding: &Binding) -> Result<(), AmqpError> {
    named(&[&binding.queue, &binding.exchange, &binding.routing_key])?;
    let write = |w: &mut Writer<'_>| {
        w.method(CHANNEL, 50, 20, |w| {
            w.u16(0);
            w.short(&binding.queue);
            w.short(&binding.exchange);
            w.short(&binding.routing_key);
            w.u8(0);
            w.sized(|_| {});
        })
    };
    connection.call(CHANNEL, "queue.bind-ok", write).await.map(|_| ())
}

/// 404 closes the channel: it is opened again, and the answer is "no".
async fn found(connection: &mut Connection, seen: Result<(), AmqpError>) -> Result<bool, AmqpError> {
    match seen {
        Ok(()) => Ok(true),
        Err(AmqpError::Channel(close)) if close.code == 404 => {
            connection.reopen_channel().await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn named(names: &[&str]) -> Result<(), AmqpError> {
    match names.iter().find(|name| name.len() > SHORT_MAX) {
        Some(name) => {
            let start: String = name.chars().take(40).collect();
            Err(AmqpError::Config(format!("the name `{start}…` is longer than {SHORT_MAX} bytes")))
        }
        None => Ok(()),
    }
}
