//! What a whole RabbitMQ node can do to a publisher: alarms, limits, a freeze, a stop, `kill -9`, TLS. One private node,
//! one test at a time.

#![allow(clippy::unwrap_used)] // a panic here is a failed test, with its place

mod sink_worlds;

use sink_worlds::{message, slices};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::config::RabbitmqConfig;
use tailwater_core::route::Compatibility;
use tailwater_core::{Failure, Message, Publisher, Rejection, Sink};
use testbed::{RabbitMq, RabbitMqOptions, eventually, unique};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

const LIMIT: Duration = Duration::from_secs(60);

/// The node, for one test at a time.
async fn node() -> MutexGuard<'static, RabbitMq> {
    static NODE: OnceCell<Mutex<RabbitMq>> = OnceCell::const_new();
    let start =
        || async { Mutex::new(RabbitMq::start_with(RabbitMqOptions { tls: true, ..Default::default() }).await) };
    NODE.get_or_init(start).await.lock().await
}

/// An exchange with one queue that takes everything.
struct Place {
    exchange: String,
    queue: String,
    status: Arc<Status>,
}

impl Place {
    async fn in_node(node: &RabbitMq) -> Self {
        let broker = testbed::Rabbit::connect(node).await;
        let (exchange, queue) = (unique("events"), unique("queue"));
        broker.exchange(&exchange).await;
        broker.queue(&queue, &exchange, &["#"]).await;
        Place { exchange, queue, status: Arc::new(Status::new("test")) }
    }

    fn config(&self, node: &RabbitMq) -> RabbitmqConfig {
        RabbitmqConfig {
            urls: vec![Secret::new(node.url())],
            exchange: self.exchange.clone(),
            heartbeat: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            ..RabbitmqConfig::default()
        }
    }

    fn sink(&self, node: &RabbitMq) -> RabbitmqSink {
        RabbitmqSink::new(self.config(node), Compatibility::Default, self.status.clone())
    }

    async fn ids(&self, node: &RabbitMq) -> Vec<String> {
        let all = testbed::Rabbit::connect(node).await.drain(&self.queue).await;
        all.into_iter().map(|m| m.message_id.unwrap()).collect()
    }
}

fn many(prefix: &str, count: usize, length: usize) -> Vec<Message> {
    let body = vec![b'1'; length];
    (0..count).map(|i| message(&format!("{prefix}{i}"), "t", Some(&body))).collect()
}

fn push(publisher: &mut dyn Publisher, messages: &[Message]) {
    for slice in slices(messages, 100) {
        publisher.push(slice);
    }
}

async fn drive(publisher: &mut dyn Publisher, count: usize) -> (usize, Vec<Rejection>, Option<Failure>) {
    let (mut durable, mut rejected) = (0, vec![]);
    while durable + rejected.len() < count {
        match tokio::time::timeout(LIMIT, publisher.drive()).await.expect("a report in time") {
            Ok(settled) => {
                durable += settled.durable;
                rejected.extend(settled.rejected);
            }
            Err(failure) => return (durable, rejected, Some(failure)),
        }
    }
    (durable, rejected, None)
}

/// Publishes all, opening again after every failure, like a lane; returns how often it failed.
async fn publish_through(sink: &RabbitmqSink, messages: &[Message], durable_before: usize) -> usize {
    let mut durable = durable_before;
    let mut failures = 0;
    while durable < messages.len() {
        let mut publisher = eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
        push(publisher.as_mut(), &messages[durable..]);
        let (more, rejected, failure) = drive(publisher.as_mut(), messages.len() - durable).await;
        assert_eq!(rejected, vec![]);
        durable += more;
        failures += usize::from(failure.is_some());
    }
    failures
}

fn assert_nothing_missing(arrived: &[String], messages: &[Message], duplicates_max: usize) {
    let mut seen = std::collections::HashSet::new();
    let first: Vec<&str> = arrived.iter().filter(|id| seen.insert((*id).clone())).map(|id| &**id).collect();
    let expected: Vec<&str> = messages.iter().map(|m| &*m.id.0).collect();
    assert_eq!(first, expected, "all there, first occurrences in order");
    assert!(arrived.len() - first.len() <= duplicates_max, "{} duplicates", arrived.len() - first.len());
}

/// T33: an alarm is back-pressure: shown, waited out, nothing lost; and a stop does not wait for a deaf broker.
#[tokio::test]
async fn an_alarm_holds_messages_back_and_loses_none() {
    let node = node().await;
    let place = Place::in_node(&node).await;
    let mut publisher = place.sink(&node).open(0).await.unwrap();
    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;
    let messages = many("m", 2000, 1000);
    push(publisher.as_mut(), &messages);
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    // Five heartbeat intervals: the broker's own heartbeats keep it alive.
    let waited = tokio::time::timeout_at(end, publisher.drive()).await;
    let blocked = place.status.sink_blocked.load(Relaxed);
    // Opening works during an alarm; the first publish is held.
    let mut other = place.sink(&node).open(1).await.unwrap();
    other.push(slices(&many("o", 1, 10), 1).remove(0));
    let other_waited = tokio::time::timeout(Duration::from_millis(300), other.drive()).await;
    let stop = Instant::now();
    other.close().await;
    let stop = stop.elapsed();
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    assert!(waited.is_err() && other_waited.is_err(), "{waited:?} {other_waited:?}");
    assert!(blocked, "the state says so");
    assert!(stop < Duration::from_secs(5), "{stop:?}");
    let (durable, rejected, failure) = drive(publisher.as_mut(), 2000).await;
    assert_eq!((durable, rejected.len()), (2000, 0), "{failure:?}");
    assert!(!place.status.sink_blocked.load(Relaxed));
    let mut arrived = place.ids(&node).await;
    arrived.retain(|id| id.starts_with('m'));
    assert_nothing_missing(&arrived, &messages, 0);
}

/// T38: one message above the broker's limit between good ones: refused by name, the others arrive.
#[tokio::test]
async fn a_message_that_is_too_large_is_refused_alone() {
    let node = node().await;
    let place = Place::in_node(&node).await;
    node.ctl(&["eval", "application:set_env(rabbit, max_message_size, 10000)."]).await;
    let mut messages = many("m", 300, 300);
    messages[150] = message("big", "t", Some(&[b'1'; 10_001]));
    messages[151] = message("limit", "t", Some(&[b'1'; 10_000]));
    let mut publisher = place.sink(&node).open(0).await.unwrap();
    push(publisher.as_mut(), &messages);
    let (durable, rejected, failure) = drive(publisher.as_mut(), 300).await;
    assert!(durable <= 150, "the prefix ends before it");
    assert_eq!((rejected.len(), rejected[0].index, &*rejected[0].id.0), (1, 150, "big"));
    assert!(rejected[0].reason.contains("10001") && rejected[0].reason.contains("max_message_size"));
    assert!(failure.is_some_and(|f| !f.is_fatal()), "the channel is closed: the others go again");
    messages.remove(150);
    let failures = publish_through(&place.sink(&node), &messages, durable).await;
    node.ctl(&["eval", "application:set_env(rabbit, max_message_size, 134217728)."]).await;
    assert_eq!(failures, 0);
    assert_nothing_missing(&place.ids(&node).await, &messages, 150 - durable);
}

/// T48: a frozen broker: noticed by silence, connecting is bounded, everything goes through afterwards.
#[tokio::test]
async fn a_frozen_broker_is_noticed_and_nothing_is_lost() {
    let node = node().await;
    let place = Place::in_node(&node).await;
    let sink = place.sink(&node);
    let messages = many("m", 1000, 300);
    let mut publisher = sink.open(0).await.unwrap();
    push(publisher.as_mut(), &messages[..500]);
    assert_eq!(drive(publisher.as_mut(), 500).await.0, 500);
    node.freeze();
    push(publisher.as_mut(), &messages[500..]);
    let start = Instant::now();
    let (durable, _, failure) = drive(publisher.as_mut(), 500).await;
    let noticed = start.elapsed();
    let start = Instant::now();
    let open = sink.open(0).await.map(|_| ());
    let refused = start.elapsed();
    node.thaw();
    assert_eq!(durable, 0);
    assert!(failure.is_some_and(|f| !f.is_fatal()) && noticed < Duration::from_secs(6), "{noticed:?}");
    assert!(open.is_err_and(|f| !f.is_fatal()) && refused < Duration::from_secs(4), "{refused:?}");
    publish_through(&sink, &messages, 500).await;
    assert_nothing_missing(&place.ids(&node).await, &messages, 500);
}

/// T33, T35: the broker is stopped under load, in order and not: what was reported durable survives, the rest follows.
#[tokio::test]
async fn what_was_confirmed_survives_a_stop_and_a_kill() {
    let node = node().await;
    let place = Place::in_node(&node).await;
    let sink = place.sink(&node);
    for kill in [false, true] {
        let messages = many(if kill { "k" } else { "s" }, 20_000, 300);
        let mut publisher = eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
        push(publisher.as_mut(), &messages);
        let mut durable = 0;
        while durable < 3000 {
            durable += tokio::time::timeout(LIMIT, publisher.drive()).await.expect("in time").unwrap().durable;
        }
        let going_down = async {
            if kill {
                node.kill9();
            } else {
                node.stop().await;
            }
        };
        let ((), failure) = tokio::join!(going_down, drain_until_failure(publisher.as_mut(), &mut durable));
        assert!(durable < messages.len(), "it went down in the middle");
        assert!(!failure.is_fatal(), "{failure}");
        drop(publisher);
        node.start_again().await;
        publish_through(&sink, &messages, durable).await;
        assert_nothing_missing(&place.ids(&node).await, &messages, messages.len() - durable);
    }
}

async fn drain_until_failure(publisher: &mut dyn Publisher, durable: &mut usize) -> Failure {
    loop {
        match tokio::time::timeout(LIMIT, publisher.drive()).await {
            Ok(Ok(settled)) => *durable += settled.durable,
            Ok(Err(failure)) => return failure,
            Err(_) => panic!("the broker is gone and nobody noticed"),
        }
    }
}

#[tokio::test]
async fn amqps_believes_the_named_authority_only() {
    let node = node().await;
    let place = Place::in_node(&node).await;
    let url = |host: &str| vec![Secret::new(format!("amqps://guest:guest@{host}:{}", node.amqps_port()))];
    let authority = node.authority().expect("a node with TLS has one");
    let ca_file = Some(authority.ca_path().to_owned());
    let config = |host: &str, ca_file| RabbitmqConfig { urls: url(host), ca_file, ..place.config(&node) };
    let sink = |config| RabbitmqSink::new(config, Compatibility::Default, place.status.clone());
    let mut publisher = sink(config("localhost", ca_file.clone())).open(0).await.unwrap();
    let messages = many("m", 500, 20_000);
    push(publisher.as_mut(), &messages);
    assert_eq!(drive(publisher.as_mut(), 500).await.0, 500);
    publisher.close().await;
    assert_nothing_missing(&place.ids(&node).await, &messages, 0);
    match sink(config("localhost", None)).open(0).await.map(|_| ()) {
        Err(Failure::Fatal { hint, .. }) => assert!(hint.contains("ca_file"), "{hint}"),
        other => panic!("a stranger was believed: {other:?}"),
    }
    // And so does the tool for dead letters, which has a client of its own.
    let dlq = |host: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["dlq", "list", "--queue", "no_such_queue"]).args(more);
        command.env("TAILWATER_FROM", url(host)[0].expose());
        String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned()
    };
    let ca_file = ["--ca-file", authority.ca_path().to_str().unwrap()];
    let said = dlq("localhost", &ca_file);
    assert!(said.contains("there is no queue no_such_queue"), "{said}");
    let said = dlq("localhost", &[]);
    assert!(said.contains("certificate") && said.contains("ca_file"), "{said}");
}
