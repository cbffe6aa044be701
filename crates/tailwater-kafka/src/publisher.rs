//! One lane's path to the cluster (rules P1–P6 of `tailwater_core::seams`).
//!
//! ```text
//!   push ─▶ slices ─fill─▶ librdkafka ─delivery─▶ window ─▶ Settled
//!              │ topic unknown: look it up, meanwhile nothing passes
//!              └ too large, no such topic or partition: rejected before it is sent
//! ```
//! A delivery that fails ends the publisher before anything behind it can pass (`enable.gapless.guarantee`); the lane sends
//! everything unsettled again, in order. Alone in flight, a message that is to blame is a rejection.

use crate::config::KafkaConfig;
use crate::failure::{Identity, KafkaProblem, blames_message, classify, rejection};
use crate::partition;
use crate::producer::{Producer, is_echo};
use crate::record::{batch_bytes, dead_letter, record};
use crate::sink::Observer;
use crate::topics::{Answer, Topic, Topics, Verdict};
use crate::window::Window;
use async_trait::async_trait;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tailwater_core::{Failure, Message, Publisher, Rejection, Settled, Slice};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
/// A topic that was not there is looked up again after so long.
const ABSENCE: Duration = Duration::from_secs(5);

/// What publishers of one sink share.
pub struct Shared {
    pub config: Arc<KafkaConfig>,
    pub identity: Arc<Identity>,
    pub topics: Arc<Topics>,
    pub observer: Arc<dyn Observer>,
    /// Largest batch that every topic met so far takes, bytes.
    pub batch_bytes: AtomicUsize,
    /// Dead letters go here, whatever their topic.
    pub fixed_topic: Option<Arc<str>>,
}

pub struct KafkaPublisher {
    shared: Arc<Shared>,
    lane: u32,
    producer: Producer,
    batch_bytes: usize,
    window: Window,
    /// Slices that hold unsettled messages, with the index of their first.
    slices: VecDeque<(u64, Arc<[Message]>)>,
    /// Index of the next message to send; of the next to be pushed.
    next: u64,
    pushed: u64,
    /// All below were reported durable.
    settled: u64,
    known: HashMap<Arc<str>, (Verdict, Instant)>,
    looking: Option<oneshot::Receiver<Answer>>,
    refreshed: Instant,
    full_until: Option<Instant>,
    rejected: Vec<Rejection>,
    away: bool,
    failed: Option<KafkaProblem>,
    dead: bool,
}

/// What became of one attempt to send.
enum Sent {
    Yes,
    /// Refused before it was sent.
    No(String),
    /// Not now.
    Wait,
}

impl KafkaPublisher {
    pub fn new(shared: Arc<Shared>, lane: u32, producer: Producer, batch_bytes: usize) -> Self {
        KafkaPublisher {
            shared,
            lane,
            producer,
            batch_bytes,
            window: Window::default(),
            slices: VecDeque::new(),
            next: 0,
            pushed: 0,
            settled: 0,
            known: HashMap::new(),
            looking: None,
            refreshed: Instant::now(),
            full_until: None,
            rejected: vec![],
            away: false,
            failed: None,
            dead: false,
        }
    }

    fn message(&self, index: u64) -> (Arc<[Message]>, usize) {
        let at = self.slices.partition_point(|(first, _)| *first <= index);
        let (first, messages) = &self.slices[at.checked_sub(1).expect("an unsettled message has a slice")];
        (messages.clone(), (index - first) as usize)
    }

    /// Hands to the client library what may travel now.
    fn fill(&mut self) -> Result<(), KafkaProblem> {
        if self.full_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.full_until = None;
        while self.next < self.pushed {
            let (messages, offset) = self.message(self.next);
            for message in &messages[offset..] {
                match self.send(message)? {
                    Sent::Yes => self.window.sent(self.next),
                    Sent::No(reason) => {
                        self.window.reject(self.next);
                        self.rejected.push(Rejection { index: self.next, id: message.id.clone(), reason });
                    }
                    Sent::Wait => return Ok(()),
                }
                self.next += 1;
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &Message) -> Result<Sent, KafkaProblem> {
        let name = self.shared.fixed_topic.as_ref().unwrap_or(&message.topic).clone();
        let Some(verdict) = self.topic(&name) else {
            if self.looking.is_none() {
                self.look_up();
            }
            return Ok(Sent::Wait);
        };
        let topic = match verdict {
            Ok(topic) => topic,
            Err(reason) => return Ok(Sent::No(reason)),
        };
        let size = batch_bytes(message);
        let limit = topic.limit.min(self.shared.config.max_message_bytes.unwrap_or(usize::MAX));
        if size > limit {
            let why = rejection(Code::MessageSizeTooLarge, &name, &self.shared.identity);
            return Ok(Sent::No(format!("{size} bytes, {limit} are allowed: {why}")));
        }
        if topic.limit < self.batch_bytes {
            if self.window.open() > 0 {
                return Ok(Sent::Wait);
            }
            self.shared.batch_bytes.fetch_min(topic.limit, Relaxed);
            return Err(KafkaProblem::SmallerBatches { topic: name.to_string(), limit: topic.limit });
        }
        let partition = match self.partition(message, &name, topic) {
            Ok(partition) => partition,
            Err(reason) => return Ok(Sent::No(reason)),
        };
        let record = match &self.shared.fixed_topic {
            Some(topic) => dead_letter(message, topic, self.next as usize),
            None => record(message, partition, self.next as usize),
        };
        match self.producer.native.send(record) {
            Ok(()) => Ok(Sent::Yes),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                self.full_until = Some(Instant::now() + QUEUE_FULL_PAUSE);
                Ok(Sent::Wait)
            }
            Err((KafkaError::MessageProduction(code), _))
                if code == Code::MessageSizeTooLarge || code == Code::InvalidTopic =>
            {
                Ok(Sent::No(rejection(code, &name, &self.shared.identity)))
            }
            Err((error, _)) => Err(self.broken().unwrap_or_else(|| KafkaProblem::call("hand over a message")(error))),
        }
    }

    fn partition(&self, message: &Message, name: &str, topic: Topic) -> Result<Option<i32>, String> {
        if self.shared.fixed_topic.is_some() {
            return Ok(None);
        }
        let chosen = match (message.partition, self.shared.config.pin_partitions, &message.key) {
            (Some(partition), ..) => Some(partition),
            (None, Some(pinned), Some(key)) => Some(partition::of_key(key, pinned)),
            _ => None,
        };
        match chosen {
            Some(partition) if !(0..topic.partitions).contains(&partition) => Err(format!(
                "partition {partition} was asked for, and topic `{name}` has partitions 0 to {} (kafka-topics.sh \
                 --bootstrap-server {} --alter --topic {name} --partitions {})",
                topic.partitions - 1,
                self.shared.identity.servers,
                i64::from(partition) + 1
            )),
            chosen => Ok(chosen),
        }
    }

    fn topic(&mut self, name: &Arc<str>) -> Option<Verdict> {
        let (verdict, at) = self.known.get(name)?;
        if verdict.is_err() && at.elapsed() > ABSENCE {
            self.known.remove(name);
            return None;
        }
        Some(verdict.clone())
    }

    /// Looks up every topic that waiting messages name and nothing is known of.
    fn look_up(&mut self) {
        let mut names: Vec<Arc<str>> = Vec::new();
        if let Some(fixed) = &self.shared.fixed_topic {
            names.push(fixed.clone());
        } else {
            for message in self.slices.iter().flat_map(|(_, messages)| messages.iter()) {
                if !self.known.contains_key(&message.topic) && !names.contains(&message.topic) {
                    names.push(message.topic.clone());
                }
            }
        }
        self.looking = Some(self.shared.topics.look_up(names));
    }

    /// T40: partitions are counted again from time to time.
    fn refresh(&mut self) {
        if self.looking.is_none() && self.refreshed.elapsed() >= self.shared.config.topics.refresh {
            self.refreshed = Instant::now();
            let names: Vec<Arc<str>> =
                self.known.iter().filter(|(_, (v, _))| v.is_ok()).map(|(n, _)| n.clone()).collect();
            if !names.is_empty() {
                self.looking = Some(self.shared.topics.look_up(names));
            }
        }
    }

    fn looked_up(&mut self, answer: Result<Answer, oneshot::error::RecvError>) {
        self.looking = None;
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(problem)) if self.waits_for_topic() => {
                self.failed.get_or_insert(problem);
                return;
            }
            Ok(Err(problem)) => return tracing::warn!(error = %problem, "look at the topics again later"),
            Err(_) => {
                self.failed.get_or_insert(KafkaProblem::Call { doing: "look up topics", code: Code::Unknown });
                return;
            }
        };
        for (name, verdict) in found {
            if let (Some((Ok(before), _)), Ok(now)) = (self.known.get(&name), &verdict)
                && before.partitions != now.partitions
            {
                self.shared.topics.partitions_changed(&name, before.partitions, now.partitions);
            }
            if verdict.is_ok() {
                *self.producer.topic.lock().expect("no panic while the lock is held") = Some(name.clone());
            }
            self.known.insert(name, (verdict, Instant::now()));
        }
    }

    fn waits_for_topic(&self) -> bool {
        self.next < self.pushed
    }

    fn broken(&self) -> Option<KafkaProblem> {
        let error = self.producer.events.lock().broken.clone();
        let error = self.producer.fatal().or(error)?;
        Some(KafkaProblem::Client { doing: "publish", error })
    }

    /// Takes in what the client library reported.
    fn absorb(&mut self) {
        let (deliveries, away, broken) = {
            let mut events = self.producer.events.lock();
            (std::mem::take(&mut events.deliveries), events.away.clone(), events.broken.is_some())
        };
        if deliveries.iter().any(|(_, outcome)| outcome.is_none()) {
            self.shared.observer.seen();
        }
        for (index, outcome) in deliveries {
            match outcome {
                None => self.window.delivered(index as u64),
                Some(code) => self.refused(index as u64, code),
            }
        }
        if broken
            && self
                .failed
                .as_ref()
                .is_none_or(|problem| matches!(problem, KafkaProblem::Delivery { code, .. } if is_echo(*code)))
        {
            self.failed = self.broken();
        }
        match away {
            Some(error) if !self.away => {
                self.away = true;
                tracing::warn!(lane = self.lane, error = %error.reason, "no broker can be reached; the client tries again");
                self.shared.observer.away(self.lane, &error.reason);
            }
            None if self.away => {
                self.away = false;
                self.shared.observer.back(self.lane);
            }
            _ => {}
        }
    }

    /// A delivery failed: for the message's own fault if it is alone, else nobody knows whose.
    fn refused(&mut self, index: u64, code: Code) {
        let (messages, offset) = self.message(index);
        let message = &messages[offset];
        let topic = self.shared.fixed_topic.clone().unwrap_or_else(|| message.topic.clone());
        let alone = self.window.open() == 1 && self.next == self.pushed;
        if blames_message(code) && alone && self.failed.is_none() {
            self.window.reject(index);
            let reason = rejection(code, &topic, &self.shared.identity);
            self.rejected.push(Rejection { index, id: message.id.clone(), reason });
            self.failed = Some(KafkaProblem::OneRefused(code));
            return;
        }
        let replaces = match &self.failed {
            None => true,
            Some(KafkaProblem::Delivery { code, .. }) => is_echo(*code),
            Some(_) => false,
        };
        if replaces {
            self.failed = Some(KafkaProblem::Delivery { topic: topic.to_string(), code });
        }
    }

    fn forget_settled(&mut self, durable: usize) {
        self.settled += durable as u64;
        while self.slices.front().is_some_and(|(first, messages)| first + messages.len() as u64 <= self.settled) {
            self.slices.pop_front();
        }
    }

    async fn wait(&mut self) {
        let refresh = self.refreshed + self.shared.config.topics.refresh;
        let wake = self.full_until.unwrap_or(refresh).min(refresh);
        tokio::select! {
            _ = self.producer.events.changed.notified() => {}
            answer = async { self.looking.as_mut().expect("guarded").await }, if self.looking.is_some() => self.looked_up(answer),
            _ = sleep_until(wake) => {}
        }
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn push(&mut self, slice: Slice) {
        if slice.messages.is_empty() {
            return;
        }
        self.window.push(slice.messages.len());
        let first = self.pushed;
        self.pushed += slice.messages.len() as u64;
        self.slices.push_back((first, slice.messages));
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.dead {
            return Err(Failure::retry("this publisher has failed and is to be dropped"));
        }
        loop {
            self.absorb();
            if self.failed.is_none() {
                self.failed = self.fill().err();
                self.refresh();
            }
            let durable = self.window.take_durable();
            self.forget_settled(durable);
            if durable > 0 || !self.rejected.is_empty() {
                return Ok(Settled { durable, rejected: std::mem::take(&mut self.rejected) });
            }
            if let Some(problem) = self.failed.take() {
                self.dead = true;
                return Err(classify(problem, &self.shared.identity));
            }
            self.wait().await;
        }
    }

    fn release(&mut self, index: u64) {
        self.window.release(index);
    }
}

impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        if self.away {
            self.shared.observer.back(self.lane);
        }
        self.shared.observer.gone();
    }
}
