//! What is known of topics: whether they exist, how many partitions, how large a message may be; makes them if asked.
//!
//! A look-up runs on a thread of its own: the client library blocks, and the async runtime would wait for it at its end.

use crate::client;
use crate::config::KafkaConfig;
use crate::context::{Context, Events};
use crate::failure::{Identity, KafkaProblem, rejection};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Brokers refuse larger batches unless configured otherwise (`message.max.bytes`, Kafka 4.3).
const DEFAULT_LIMIT: usize = 1_048_588;
/// How long a topic that is not there is waited for: the broker may be making it at our asking.
const APPEARANCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(100);
/// The administrator's connection is closed after so long without a look-up.
const ADMIN_IDLE: Duration = Duration::from_secs(10);

/// What matters of a topic that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    pub partitions: i32,
    /// Largest batch that the broker takes, bytes.
    pub limit: usize,
}

/// A topic, or why no message can go there now.
pub type Verdict = Result<Topic, String>;
pub type Answer = Result<Vec<(Arc<str>, Verdict)>, KafkaProblem>;

type Admin = AdminClient<Context>;

/// Looks topics up for all publishers of a sink.
pub struct Topics {
    config: Arc<KafkaConfig>,
    identity: Arc<Identity>,
    admin: Mutex<Option<(Arc<Admin>, Instant)>>,
    /// Differences that were said already.
    said: Mutex<HashSet<String>>,
}

impl Topics {
    pub fn new(config: Arc<KafkaConfig>, identity: Arc<Identity>) -> Self {
        Topics { config, identity, admin: Mutex::new(None), said: Mutex::default() }
    }

    /// Starts a look-up; the answer comes through the channel.
    pub fn look_up(self: &Arc<Self>, names: Vec<Arc<str>>) -> oneshot::Receiver<Answer> {
        let (send, receive) = oneshot::channel();
        let (this, runtime) = (self.clone(), Handle::current());
        let work = move || {
            let answer = this.find(&names, &runtime);
            let _ = send.send(answer); // the publisher may be gone
            std::thread::sleep(ADMIN_IDLE);
            this.close_idle();
        };
        std::thread::Builder::new().name("kafka-topics".into()).spawn(work).expect("a thread can be started");
        receive
    }

    fn admin(&self) -> Result<Arc<Admin>, KafkaProblem> {
        let mut admin = self.admin.lock().expect("no panic while the lock is held");
        if let Some((admin, used)) = admin.as_mut() {
            *used = Instant::now();
            return Ok(admin.clone());
        }
        let config = client::connection(&self.config)?;
        let context = Context { events: Arc::new(Events::default()) };
        let made = Admin::from_config_and_context(&config, context).map_err(KafkaProblem::call("look up topics"))?;
        let made = Arc::new(made);
        *admin = Some((made.clone(), Instant::now()));
        Ok(made)
    }

    fn close_idle(&self) {
        let mut admin = self.admin.lock().expect("no panic while the lock is held");
        let idle = admin.as_ref().is_some_and(|(_, used)| used.elapsed() >= ADMIN_IDLE);
        let closed = if idle { admin.take() } else { None };
        drop(admin);
        drop(closed); // blocks until its connections are closed
    }

    fn find(&self, names: &[Arc<str>], runtime: &Handle) -> Answer {
        let admin = self.admin()?;
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push((name.clone(), self.find_one(&admin, name, runtime)?));
        }
        let there: Vec<Arc<str>> = found.iter().filter(|(_, v)| v.is_ok()).map(|(name, _)| name.clone()).collect();
        let configs = self.describe(&admin, &there, runtime);
        for (name, verdict) in &mut found {
            let Ok(topic) = verdict else { continue };
            if let Some(config) = configs.get(&**name) {
                topic.limit = limit(config).unwrap_or(DEFAULT_LIMIT);
                self.compare_config(name, config);
            }
            self.compare_partitions(name, topic.partitions);
        }
        Ok(found)
    }

    fn find_one(&self, admin: &Admin, name: &str, runtime: &Handle) -> Result<Verdict, KafkaProblem> {
        let doing = "look up topics";
        let begin = Instant::now();
        let mut made = false;
        if let Some(code) = illegal(name) {
            return Ok(Err(rejection(code, name, &self.identity)));
        }
        loop {
            let metadata = admin
                .inner()
                .fetch_metadata(Some(name), self.config.connect_timeout)
                .map_err(KafkaProblem::call(doing))?;
            let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
                return Err(KafkaProblem::Call { doing, code: Code::UnknownTopic });
            };
            let code = match topic.error() {
                None if !topic.partitions().is_empty() => {
                    let partitions = topic.partitions().len() as i32;
                    return Ok(Ok(Topic { partitions, limit: DEFAULT_LIMIT }));
                }
                None => Code::LeaderNotAvailable,
                Some(error) => Code::from(error),
            };
            let limit = match code {
                Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                    if self.config.topics.create && !made {
                        if let Some(refused) = self.create(admin, name, runtime)? {
                            return Ok(Err(refused));
                        }
                        made = true;
                    }
                    if made { self.config.connect_timeout } else { APPEARANCE }
                }
                Code::TopicAuthorizationFailed | Code::InvalidTopic => {
                    return Ok(Err(rejection(code, name, &self.identity)));
                }
                _ => self.config.connect_timeout,
            };
            if begin.elapsed() >= limit {
                let gone = matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition);
                return if gone {
                    Ok(Err(rejection(code, name, &self.identity)))
                } else {
                    Err(KafkaProblem::Call { doing, code })
                };
            }
            std::thread::sleep(STEP);
        }
    }

    /// `None`: it is there now.
    fn create(&self, admin: &Admin, name: &str, runtime: &Handle) -> Result<Option<String>, KafkaProblem> {
        let wanted = &self.config.topics;
        let mut topic = NewTopic::new(
            name,
            wanted.partitions.unwrap_or(-1),
            TopicReplication::Fixed(wanted.replication.unwrap_or(-1)),
        );
        for (key, value) in pairs(&wanted.config) {
            topic = topic.set(key, value);
        }
        let outcome = runtime
            .block_on(admin.create_topics([&topic], &self.options()))
            .map_err(KafkaProblem::call("create a topic"))?;
        match outcome.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(None),
            Some(Err((_, code)))
                if matches!(code, Code::OperationTimedOut | Code::RequestTimedOut | Code::NotController) =>
            {
                Err(KafkaProblem::Call { doing: "create a topic", code })
            }
            Some(Err((_, code))) => Ok(Some(format!(
                "topic `{name}` does not exist and cannot be made: {code} (see the sink's `topics`; making needs the operation Create on the topic)"
            ))),
            _ => {
                tracing::info!(topic = name, "topic created");
                Ok(None)
            }
        }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.config.connect_timeout))
            .operation_timeout(Some(self.config.connect_timeout))
    }

    /// Settings of topics; one that may not be seen is absent, and the defaults are assumed.
    fn describe(&self, admin: &Admin, names: &[Arc<str>], runtime: &Handle) -> HashMap<String, ConfigResource> {
        if names.is_empty() {
            return HashMap::new();
        }
        let wanted: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let outcome = runtime.block_on(admin.describe_configs(&wanted, &self.options()));
        let answers = outcome.unwrap_or_else(|error| {
            self.cannot_see(&error);
            vec![]
        });
        let mut found = HashMap::new();
        for answer in answers {
            match answer {
                Ok(config) => {
                    if let OwnedResourceSpecifier::Topic(name) = &config.specifier {
                        found.insert(name.clone(), config);
                    }
                }
                Err(code) => self.cannot_see(&KafkaError::AdminOp(code)),
            }
        }
        found
    }

    fn cannot_see(&self, error: &KafkaError) {
        if self.first_time("settings".into()) {
            tracing::warn!(%error, assumed_limit = DEFAULT_LIMIT, "settings of topics cannot be seen: the broker's defaults are assumed (the operation DescribeConfigs shows them)");
        }
    }

    fn compare_config(&self, name: &str, config: &ConfigResource) {
        for (key, wanted) in pairs(&self.config.topics.config) {
            let there = config.get(key).and_then(|entry| entry.value.as_deref());
            if there != Some(wanted) && self.first_time(format!("{name} {key} {there:?}")) {
                tracing::warn!(topic = name, setting = key, wanted, there, "topic differs from the configuration");
            }
        }
    }

    fn compare_partitions(&self, name: &str, there: i32) {
        if let Some(wanted) = self.config.topics.partitions
            && wanted != there
            && self.first_time(format!("{name} partitions {there}"))
        {
            tracing::warn!(topic = name, wanted, there, "topic has another number of partitions than configured");
        }
    }

    /// T40. Said once for each change.
    pub fn partitions_changed(&self, name: &str, before: i32, now: i32) {
        if !self.first_time(format!("{name} changed {before} {now}")) {
            return;
        }
        match self.config.pin_partitions {
            Some(pinned) => tracing::warn!(
                topic = name,
                before,
                now,
                pinned,
                "topic has more partitions now; keys stay where they are (pin_partitions)"
            ),
            None => tracing::warn!(
                topic = name,
                before,
                now,
                "topic has another number of partitions now: keys move to other partitions, so a key's later events may be read before its earlier ones; pin_partitions keeps keys in place"
            ),
        }
    }

    fn first_time(&self, what: String) -> bool {
        self.said.lock().expect("no panic while the lock is held").insert(what)
    }
}

fn limit(config: &ConfigResource) -> Option<usize> {
    config.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}

fn pairs(config: &[String]) -> impl Iterator<Item = (&str, &str)> {
    config.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

/// Names that Kafka never takes (`org.apache.kafka.common.internals.Topic`): asking for one fails in other ways.
fn illegal(name: &str) -> Option<Code> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let bad = name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(legal);
    bad.then_some(Code::InvalidTopic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_never_takes() {
        let long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "ä", "a/b", &long] {
            assert!(illegal(name).is_some(), "{name}");
        }
        assert!(["a.b", "A_1-x", &long[1..]].into_iter().all(|name| illegal(name).is_none()));
    }
}
