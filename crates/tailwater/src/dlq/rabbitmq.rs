//! A RabbitMQ queue of dead letters, read by `basic.get` on a channel of its own.
//!
//! Every letter is taken and held until all have been seen; then what is left goes back with *one* nack for all. That keeps
//! the order on classic queues and on quorum queues; parts that are put back, or a closed connection, would turn a quorum queue
//! round (observed on RabbitMQ 3.10). Meanwhile others see an empty queue.
//!
//! A quorum queue counts how often a message comes back, and drops it, or dead-letters it again, beyond its delivery limit. So
//! a letter that has come back often is not put back but published anew at the end of the same queue, with confirms, and then
//! removed: see [`RETURNS_MAX`].
//!
//! Streams cannot be read this way and need not be: they forget nothing.

use super::{DeadLetters, Decide, Decision, Letter, Origin, Outcome, Redirect, Unsent, amqp};
use crate::sinks::rabbitmq::config::RabbitmqConfig;
use crate::sinks::rabbitmq::connect::{Endpoint, connect, endpoints};
use crate::sinks::rabbitmq::failure::{AmqpError, classify};
use async_trait::async_trait;
use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use std::path::Path;
use std::time::Duration;
use tailwater_core::Failure;

/// A letter that a quorum queue has had back so often is published anew instead of put back: half of the delivery limit that
/// RabbitMQ 4 sets by itself (20). A lower limit, set by hand on a queue of dead letters, cannot be seen by AMQP.
pub const RETURNS_MAX: u64 = 9;
/// Limit on connecting, logging in and looking for the queue.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Limit on one answer of the broker; a broker under an alarm confirms nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A queue, and the messages that were in it when it was opened.
pub struct Queue {
    connection: Connection,
    reader: Channel,
    /// In confirm mode; made when needed, again after the broker has closed it.
    publisher: Option<Channel>,
    name: String,
    ready: u32,
    consumers: u32,
}

impl Queue {
    /// Connects to the first endpoint that answers; the queue must exist.
    pub async fn open(config: &RabbitmqConfig, name: &str) -> Result<Queue, Failure> {
        // The relay's own client goes first: it can tell a wrong certificate, password or virtual host from a lost connection.
        let mut first =
            connect(config, "tailwater dlq").await.map_err(|(error, identity)| classify(error, &identity))?;
        first.say_goodbye().await;
        let known = endpoints(config).map_err(|error| classify(error, &first.identity))?;
        let endpoint = known.into_iter().find(|endpoint| endpoint.to_string() == first.endpoint);
        let endpoint = endpoint.expect("it is one of those that were tried");
        let opened = tokio::time::timeout(CONNECT_LIMIT, Queue::at(&endpoint, config.ca_file.as_deref(), name)).await;
        opened.unwrap_or_else(|_| {
            let doing = format!("open the queue at {endpoint}");
            let late = AmqpError::Timeout { doing, limit_s: CONNECT_LIMIT.as_secs_f32() };
            Err(classify(late, &endpoint.identity()))
        })
    }

    async fn at(endpoint: &Endpoint, ca_file: Option<&Path>, name: &str) -> Result<Queue, Failure> {
        let tls = trusted(ca_file)?;
        let properties = ConnectionProperties::default().with_connection_name("tailwater dlq".into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| failed("start the client", error))?;
        let connection = Connection::connect_uri_with_config(uri(endpoint), properties, tls, runtime).await;
        let connection = connection.map_err(|error| failed(&format!("connect to {endpoint}"), error))?;
        let reader = connection.create_channel().await.map_err(|error| failed("open a channel", error))?;
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let seen = reader.queue_declare(name.into(), look, FieldTable::default()).await;
        let seen = seen.map_err(|error| match code(&error) {
            Some(404) => Failure::fatal(
                format!("see what there is: rabbitmqctl list_queues -p '{}' name messages", endpoint.virtual_host),
                format!("there is no queue {name} in the virtual host {}", endpoint.virtual_host),
            ),
            _ => failed("look for the queue", error),
        })?;
        let (ready, consumers) = (seen.message_count(), seen.consumer_count());
        Ok(Queue { connection, reader, publisher: None, name: name.into(), ready, consumers })
    }

    async fn get(&mut self) -> Result<Option<Delivery>, Failure> {
        let got = self.reader.basic_get(self.name.as_str().into(), BasicGetOptions { no_ack: false });
        match answered(got).await {
            Ok(got) => Ok(got.map(|message| message.delivery)),
            Err(Unanswered::Broker(error)) if code(&error) == Some(540) => Err(Failure::fatal(
                "read it with a consumer from an offset of your choice: a stream keeps what was read",
                format!("{} is a stream", self.name),
            )),
            Err(error) => Err(error.into_failure("read the queue")),
        }
    }

    async fn remove(&self, delivery_tag: u64) -> Result<(), Failure> {
        let ack = self.reader.basic_ack(delivery_tag, BasicAckOptions { multiple: false });
        answered(ack).await.map_err(|error| error.into_failure("remove a letter"))
    }

    /// Publishes and waits for the confirm.
    async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Unsent> {
        let publisher = match self.publisher.take() {
            Some(channel) => channel,
            None => self.confirming().await.map_err(Unsent::Failed)?,
        };
        let mandatory = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (short(exchange)?, short(routing_key)?);
        let confirmed = answered(async {
            publisher.basic_publish(exchange.clone(), key.clone(), mandatory, body, properties).await?.await
        })
        .await;
        match confirmed {
            Ok(Confirmation::Ack(None)) => {
                self.publisher = Some(publisher);
                Ok(())
            }
            Ok(Confirmation::Ack(Some(_))) => {
                self.publisher = Some(publisher);
                Err(Unsent::Refused(format!("no queue is bound to exchange `{exchange}` for routing key `{key}`")))
            }
            Ok(Confirmation::Nack(_)) => Err(Unsent::Refused("the broker refused it (a full queue?)".into())),
            Ok(Confirmation::NotRequested) => unreachable!("the channel is in confirm mode"),
            // The channel is gone, the connection may be well: this one cannot be published, others may.
            Err(Unanswered::Broker(error)) if code(&error).is_some() && self.connection.status().connected() => {
                Err(Unsent::Refused(format!("the broker refuses it: {error}")))
            }
            Err(error) => Err(Unsent::Failed(error.into_failure("publish a letter"))),
        }
    }

    async fn confirming(&self) -> Result<Channel, Failure> {
        let channel = self.connection.create_channel().await.map_err(|error| failed("open a channel", error))?;
        let selected = channel.confirm_select(ConfirmSelectOptions::default()).await;
        selected.map_err(|error| failed("ask for confirms", error))?;
        Ok(channel)
    }

    /// Everything that is held goes back to where it was, but for what a delivery limit threatens: that is published anew.
    async fn put_back(&mut self, worn: Vec<Delivery>, outcome: &mut Outcome) -> Result<(), Failure> {
        let name = self.name.clone();
        for delivery in &worn {
            let properties = delivery.properties.clone();
            match self.publish("", &name, &delivery.data, amqp::renewed(&properties)).await {
                Ok(()) => self.remove(delivery.delivery_tag).await?,
                Err(unsent) => {
                    let why = unsent.reason()?;
                    outcome.notes.push(format!("a letter that came back often could not be renewed: {why}"));
                }
            }
        }
        if !worn.is_empty() {
            outcome.notes.push(format!(
                "{} letters had come back to this quorum queue {RETURNS_MAX} times or more; they were published anew at its \
                 end, so that no delivery limit drops them",
                worn.len()
            ));
        }
        let all = BasicNackOptions { multiple: true, requeue: true };
        answered(self.reader.basic_nack(0, all)).await.map_err(|error| error.into_failure("put the letters back"))
    }

    async fn replay(
        &mut self,
        delivery: &Delivery,
        letter: &Letter,
        body: Option<&Bytes>,
        to: &Redirect,
    ) -> Result<(), Unsent> {
        let (exchange, routing_key) = address(letter, to).map_err(Unsent::Refused)?;
        let body = body.map_or(&delivery.data[..], |body| &body[..]);
        self.publish(&exchange, &routing_key, body, amqp::replayed(&delivery.properties)).await
    }
}

#[async_trait]
impl DeadLetters for Queue {
    fn name(&self) -> String {
        format!("queue {}", self.name)
    }

    async fn each(
        &mut self,
        decide: &mut Decide<'_>,
        redirect: &Redirect,
        pause: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        if self.consumers > 0 {
            outcome
                .notes
                .push(format!("{} consumers read this queue, too: they may take letters away", self.consumers));
        }
        let (mut held, mut worn) = (false, Vec::new());
        // No more than there were: what was put back, or arrives meanwhile, would come round again.
        for place in 1..=self.ready as usize {
            let Some(delivery) = self.get().await? else { break };
            outcome.seen += 1;
            let letter = amqp::letter(place, &delivery.properties, Bytes::copy_from_slice(&delivery.data));
            match decide(&letter) {
                Decision::Remove => {
                    self.remove(delivery.delivery_tag).await?;
                    outcome.removed += 1;
                    continue;
                }
                Decision::Replay { body } => {
                    outcome.pace(pause).await;
                    match self.replay(&delivery, &letter, body.as_ref(), redirect).await {
                        Ok(()) => {
                            // Confirmed: from here on a crash gives a duplicate with the same id.
                            self.remove(delivery.delivery_tag).await?;
                            outcome.replayed += 1;
                            continue;
                        }
                        Err(unsent) => outcome.keep(&letter, unsent.reason()?),
                    }
                }
                Decision::Leave => {}
            }
            held = true;
            if amqp::returns(&delivery.properties) >= RETURNS_MAX {
                worn.push(delivery);
            }
        }
        if held {
            self.put_back(worn, &mut outcome).await?;
        }
        // The broker has read everything before it answers this.
        let closed = answered(self.reader.close(200, "done".into())).await;
        closed.map_err(|error| error.into_failure("close the channel"))?;
        self.reader = self.connection.create_channel().await.map_err(|error| failed("open a channel", error))?;
        Ok(outcome)
    }
}

/// Exchange and routing key of a replay.
fn address(letter: &Letter, to: &Redirect) -> Result<(String, String), String> {
    let Some(Origin::Rabbitmq { exchange, routing_key, queue }) = &letter.origin else {
        return match (&to.exchange, &to.routing_key) {
            (Some(exchange), Some(routing_key)) => Ok((exchange.clone(), routing_key.clone())),
            _ => Err("it does not say where it came from: give --exchange and --routing-key".into()),
        };
    };
    if to.only_queue {
        let queue = queue.clone().ok_or("it does not say which queue it was rejected from")?;
        return Ok((String::new(), queue)); // the default exchange: a queue by its name
    }
    let or = |wanted: &Option<String>, own: &String| wanted.clone().unwrap_or_else(|| own.clone());
    Ok((or(&to.exchange, exchange), or(&to.routing_key, routing_key)))
}

fn short(text: &str) -> Result<lapin::types::ShortString, Unsent> {
    let long = |_| Unsent::Refused(format!("a name of {} bytes; AMQP allows 255", text.len()));
    lapin::types::ShortString::try_new(text).map_err(long)
}

fn uri(endpoint: &Endpoint) -> AMQPUri {
    let (user, password) = endpoint.credentials();
    AMQPUri {
        scheme: if endpoint.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: user.into(), password: password.into() },
            host: endpoint.host.clone(),
            port: endpoint.port,
        },
        vhost: endpoint.virtual_host.clone(),
        query: lapin::uri::AMQPQueryString { heartbeat: Some(10), ..Default::default() },
    }
}

/// The given authority beside those of the operating system.
fn trusted(ca_file: Option<&Path>) -> Result<OwnedTLSConfig, Failure> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| Failure::fatal("correct `ca_file`", format!("read {}: {error}", path.display())))
    };
    Ok(OwnedTLSConfig { identity: None, cert_chain: ca_file.map(read).transpose()? })
}

/// Why there was no good answer.
enum Unanswered {
    Broker(lapin::Error),
    Silent,
}

impl Unanswered {
    fn into_failure(self, doing: &str) -> Failure {
        match self {
            Unanswered::Broker(error) => failed(doing, error),
            Unanswered::Silent => Failure::retry(format!(
                "{doing}: the broker does not answer within {} s (a memory or disk alarm blocks publishers)",
                ANSWER_LIMIT.as_secs()
            )),
        }
    }
}

async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, Unanswered> {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => answer.map_err(Unanswered::Broker),
        Err(_) => Err(Unanswered::Silent),
    }
}

/// AMQP reply code, if it was the broker that said no.
fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.kind().get_id()),
        _ => None,
    }
}

/// The one table: an error of the client → what the caller does.
fn failed(doing: &str, error: lapin::Error) -> Failure {
    let said = format!("{doing}: {error}");
    match code(&error) {
        Some(403) => Failure::fatal(
            "check user and password, and the user's rights: read on the queue, write on the exchange (rabbitmqctl list_permissions)",
            said,
        ),
        Some(530) => Failure::fatal("the virtual host does not exist, or the user may not enter it", said),
        Some(405) => Failure::fatal("another connection holds the queue exclusively: end it", said),
        _ => Failure::retry(said),
    }
}
