//! From a message to librdkafka's queue: what both kinds of publishers do alike. Knows topics, sizes and partitions; keeps no
//! account of what is in flight.

use crate::config::KafkaConfig;
use crate::context::ClientError;
use crate::failure::{Identity, KafkaProblem, rejection};
use crate::partition;
use crate::producer::Producer;
use crate::record::{batch_bytes, dead_letter, record};
use crate::sink::Observer;
use crate::topics::{Answer, Topic, Topics, Verdict};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tailwater_core::{Message, Slice};
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

/// What became of one attempt to send.
pub enum Sent {
    Yes,
    /// Refused before it was sent.
    No(String),
    /// Not now.
    Wait,
}

/// Messages that were pushed and are not settled. Indexes count from 0 at the opening of the publisher.
#[derive(Debug, Default)]
pub struct Backlog {
    /// With the index of their first message.
    slices: VecDeque<(u64, Slice)>,
    pushed: u64,
    settled: u64,
    /// Index of the next message to send.
    pub next: u64,
}

impl Backlog {
    pub fn push(&mut self, slice: Slice) {
        if !slice.messages.is_empty() {
            let first = self.pushed;
            self.pushed += slice.messages.len() as u64;
            self.slices.push_back((first, slice));
        }
    }

    /// Something is still to be sent.
    pub fn waits(&self) -> bool {
        self.next < self.pushed
    }

    /// The slice of a message that is not settled, and its place in it.
    pub fn find(&self, index: u64) -> (&Slice, usize) {
        let at = self.slices.partition_point(|(first, _)| *first <= index);
        let (first, slice) = &self.slices[at.checked_sub(1).expect("an unsettled message has a slice")];
        (slice, (index - first) as usize)
    }

    /// All below are settled.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    pub fn settle(&mut self, durable: usize) {
        self.settled += durable as u64;
        while self.slices.front().is_some_and(|(first, slice)| first + slice.messages.len() as u64 <= self.settled) {
            self.slices.pop_front();
        }
    }

    fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.slices.iter().flat_map(|(_, slice)| slice.messages.iter()).map(|message| &message.topic)
    }
}

/// One publisher's way to the cluster.
pub struct Outlet {
    pub shared: Arc<Shared>,
    pub producer: Producer,
    lane: u32,
    batch_bytes: usize,
    known: HashMap<Arc<str>, (Verdict, Instant)>,
    looking: Option<oneshot::Receiver<Answer>>,
    refreshed: Instant,
    full_until: Option<Instant>,
    away: bool,
}

impl Outlet {
    pub fn new(shared: Arc<Shared>, producer: Producer, lane: u32, batch_bytes: usize) -> Self {
        let (known, refreshed) = (HashMap::new(), Instant::now());
        Outlet { shared, producer, lane, batch_bytes, known, looking: None, refreshed, full_until: None, away: false }
    }

    /// Hands over one message; its delivery comes back with `index`. `open`: messages in flight; `backlog`: where topics of
    /// coming messages are seen.
    pub fn send(
        &mut self,
        message: &Message,
        index: u64,
        open: usize,
        backlog: &Backlog,
    ) -> Result<Sent, KafkaProblem> {
        if self.full_until.is_some_and(|until| Instant::now() < until) {
            return Ok(Sent::Wait);
        }
        let name = self.topic_of(message).clone();
        let Some(verdict) = self.topic(&name) else {
            if self.looking.is_none() {
                self.look_up(backlog);
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
            if open > 0 {
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
            Some(topic) => dead_letter(message, topic, index as usize),
            None => record(message, partition, index as usize),
        };
        match self.producer.native.send(record) {
            Ok(()) => Ok(Sent::Yes),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                self.full_until = Some(Instant::now() + QUEUE_FULL_PAUSE);
                Ok(Sent::Wait)
            }
            Err((KafkaError::MessageProduction(code @ (Code::MessageSizeTooLarge | Code::InvalidTopic)), _)) => {
                Ok(Sent::No(rejection(code, &name, &self.shared.identity)))
            }
            Err((error, _)) => Err(self.broken().unwrap_or_else(|| KafkaProblem::call("hand over a message")(error))),
        }
    }

    /// The topic that a message goes to.
    pub fn topic_of<'a>(&'a self, message: &'a Message) -> &'a Arc<str> {
        self.shared.fixed_topic.as_ref().unwrap_or(&message.topic)
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
    fn look_up(&mut self, backlog: &Backlog) {
        let mut names: Vec<Arc<str>> = self.shared.fixed_topic.clone().into_iter().collect();
        if names.is_empty() {
            for topic in backlog.topics() {
                if !self.known.contains_key(topic) && !names.contains(topic) {
                    names.push(topic.clone());
                }
            }
        }
        self.looking = Some(self.shared.topics.look_up(names));
    }

    /// T40: partitions are counted again from time to time.
    pub fn refresh(&mut self) {
        if self.looking.is_none() && self.refreshed.elapsed() >= self.shared.config.topics.refresh {
            self.refreshed = Instant::now();
            let there = self.known.iter().filter(|(_, (verdict, _))| verdict.is_ok());
            let names: Vec<Arc<str>> = there.map(|(name, _)| name.clone()).collect();
            if !names.is_empty() {
                self.looking = Some(self.shared.topics.look_up(names));
            }
        }
    }

    fn looked_up(
        &mut self,
        answer: Result<Answer, oneshot::error::RecvError>,
        needed: bool,
    ) -> Result<(), KafkaProblem> {
        self.looking = None;
        let lost = KafkaProblem::Call { doing: "look up topics", code: Code::Unknown };
        let found = match answer.unwrap_or(Err(lost)) {
            Ok(found) => found,
            Err(problem) if needed => return Err(problem),
            Err(problem) => {
                tracing::warn!(error = %problem, "look at the topics again later");
                return Ok(());
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
        Ok(())
    }

    /// The producer is broken for good, and why.
    pub fn broken(&self) -> Option<KafkaProblem> {
        let error = self.producer.events.lock().broken.clone();
        let error = self.producer.fatal().or(error)?;
        Some(KafkaProblem::Client { doing: "publish", error })
    }

    /// Takes what was delivered, or not, since the last call; says whether the cluster can be reached.
    pub fn deliveries(&mut self) -> (Vec<(usize, Option<Code>)>, bool) {
        let (deliveries, away, broken) = {
            let mut events = self.producer.events.lock();
            (std::mem::take(&mut events.deliveries), events.away.clone(), events.broken.is_some())
        };
        if deliveries.iter().any(|(_, outcome)| outcome.is_none()) {
            self.shared.observer.seen();
        }
        self.note_absence(away);
        (deliveries, broken)
    }

    fn note_absence(&mut self, away: Option<ClientError>) {
        match away {
            Some(error) if !self.away => {
                self.away = true;
                let servers = &self.shared.identity.servers;
                tracing::warn!(lane = self.lane, %servers, error = %error.reason, "no broker can be reached; the client tries again");
                self.shared.observer.away(self.lane, &error.reason);
            }
            None if self.away => {
                self.away = false;
                tracing::info!(lane = self.lane, "brokers can be reached again");
                self.shared.observer.back(self.lane);
            }
            _ => {}
        }
    }

    /// Waits for something new. `needed`: messages wait for the look-up that is under way. Cancel-safe.
    pub async fn wait(&mut self, needed: bool) -> Result<(), KafkaProblem> {
        let refresh = self.refreshed + self.shared.config.topics.refresh;
        let wake = self.full_until.unwrap_or(refresh).min(refresh);
        tokio::select! {
            _ = self.producer.events.changed.notified() => Ok(()),
            answer = async { self.looking.as_mut().expect("guarded").await }, if self.looking.is_some() => {
                self.looked_up(answer, needed)
            }
            _ = sleep_until(wake) => Ok(()),
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if self.away {
            self.shared.observer.back(self.lane);
        }
        self.shared.observer.gone();
    }
}
