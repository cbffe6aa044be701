//! Dead letters: look at them without harm, send them back to where they came from, remove them.
//!
//! A replay is published and confirmed *before* the original is taken away, so a crash in between gives a duplicate with the
//! same message id and never a loss. Not here: how letters get there (the broker's policies, the relay's `on_rejected`), and
//! what a person sees (`cli/dlq`).

mod amqp;
pub mod filter;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "kafka")]
mod marks;
pub mod rabbitmq;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::time::Duration;
use tailwater_core::Failure;

/// A dead letter.
#[derive(Clone, Debug, Default)]
pub struct Letter {
    /// Where it lies: `#3`, the third of a queue when it was looked at; `0:17`, partition and offset in a topic.
    pub place: String,
    /// The event's id, the same in every repetition.
    pub message_id: Option<String>,
    pub event_type: Option<String>,
    /// Kafka: the record's key. RabbitMQ: the routing key it had at first.
    pub key: Option<String>,
    /// Why it is here.
    pub reason: Option<String>,
    pub origin: Option<Origin>,
    /// When it became a dead letter, seconds since 1970.
    pub died_at: Option<i64>,
    /// The message's own time, seconds since 1970.
    pub made_at: Option<i64>,
    pub content_type: Option<String>,
    pub headers: Map<String, Value>,
    pub body: Bytes,
    /// Headers of the original were lost on the way here.
    pub incomplete: bool,
}

/// Where a letter was before it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Rabbitmq { exchange: String, routing_key: String, queue: Option<String> },
    Kafka { topic: String, partition: Option<i32> },
}

impl Letter {
    /// What a person types to name it: the message id, or its place if it has none.
    pub fn id(&self) -> &str {
        self.message_id.as_deref().unwrap_or(&self.place)
    }

    /// Seconds since it died, or since it was made where nobody wrote down when it died.
    pub fn age(&self, now_s: i64) -> Option<Duration> {
        self.died_at.or(self.made_at).map(|at| Duration::from_secs(now_s.saturating_sub(at).max(0).unsigned_abs()))
    }

    /// Time since a consumer may have handled it for the first time: what an inbox's retention is to be compared with.
    pub fn age_of_first_delivery(&self, now_s: i64) -> Option<Duration> {
        let first = match (self.made_at, self.died_at) {
            (Some(made), Some(died)) => Some(made.min(died)),
            (made, died) => made.or(died),
        };
        first.map(|at| Duration::from_secs(now_s.saturating_sub(at).max(0).unsigned_abs()))
    }
}

/// What is to become of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Leave,
    /// Publish it where it came from, then remove it. `body`: instead of its own.
    Replay {
        body: Option<Bytes>,
    },
    Remove,
}

/// Where a replay goes, if not to the origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// RabbitMQ: straight to the queue it was rejected from, past all others that are bound to the exchange.
    pub only_queue: bool,
    /// RabbitMQ: another exchange, another routing key. Kafka: another topic.
    pub exchange: Option<String>,
    pub routing_key: Option<String>,
    pub topic: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub seen: usize,
    pub replayed: usize,
    pub removed: usize,
    /// Letters that were to be replayed and could not be: id and reason. They are where they were.
    pub kept: Vec<(String, String)>,
    /// What a person should know about the looking itself.
    pub notes: Vec<String>,
}

impl Outcome {
    /// A letter that was to go stays where it is.
    fn keep(&mut self, letter: &Letter, why: impl Into<String>) {
        self.kept.push((letter.id().to_owned(), why.into()));
    }

    /// Waits between two replays, not before the first.
    async fn pace(&self, pause: Option<Duration>) {
        if let Some(pause) = pause.filter(|_| self.replayed > 0) {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Why a letter was not published.
enum Unsent {
    /// The broker does not take this one; others may go through.
    Refused(String),
    Failed(Failure),
}

impl Unsent {
    /// Why this one stays, unless it is the end for all.
    fn reason(self) -> Result<String, Failure> {
        match self {
            Unsent::Refused(why) => Ok(why),
            Unsent::Failed(failure) => Err(failure),
        }
    }
}

/// Asked about each letter.
pub type Decide<'a> = dyn FnMut(&Letter) -> Decision + Send + 'a;

/// A queue or a topic of dead letters.
#[async_trait]
pub trait DeadLetters {
    /// What people call it.
    fn name(&self) -> String;

    /// Asks about each letter that was there at the start, once and in order, does what was decided, and leaves the rest
    /// as it was, for others to see. `pause`: time between two replays.
    ///
    /// After an error everything that was not replayed or removed is still there; a letter may then have been replayed
    /// *and* still be there.
    async fn each(
        &mut self,
        decide: &mut Decide<'_>,
        redirect: &Redirect,
        pause: Option<Duration>,
    ) -> Result<Outcome, Failure>;
}
