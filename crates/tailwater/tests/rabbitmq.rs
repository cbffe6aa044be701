//! What RabbitMQ does beside taking messages: returning, refusing, filling up, closing, going away for a moment. Each test
//! has an exchange and queues of its own in the shared node; what disturbs a whole node is in `rabbitmq_node.rs`.

#![allow(clippy::unwrap_used)] // a panic here is a failed test, with its place

mod sink_worlds;

use lapin::options::ExchangeDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use sink_worlds::{Rabbit, World, message, slices};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::config::{RabbitmqConfig, RoutingKey};
use tailwater_core::route::Compatibility;
use tailwater_core::{Failure, HeaderValue, Message, Publisher, Rejection, Sink, Slice};
use testbed::{Proxy, eventually, shared_rabbitmq, unique};

const LIMIT: Duration = Duration::from_secs(30);

/// Everything a publisher reports until it failed or all `count` are settled.
struct Outcome {
    durable: usize,
    rejected: Vec<Rejection>,
    failure: Option<Failure>,
}

async fn drive(publisher: &mut dyn Publisher, count: usize) -> Outcome {
    let mut outcome = Outcome { durable: 0, rejected: vec![], failure: None };
    while outcome.durable + outcome.rejected.len() < count {
        match tokio::time::timeout(LIMIT, publisher.drive()).await.expect("a report in time") {
            Ok(settled) => {
                outcome.durable += settled.durable;
                outcome.rejected.extend(settled.rejected);
            }
            Err(failure) => {
                outcome.failure = Some(failure);
                break;
            }
        }
    }
    outcome
}

fn many(prefix: &str, topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|i| message(&format!("{prefix}{i}"), topic, Some(b"{}"))).collect()
}

fn one(messages: &[Message]) -> Slice {
    Slice { messages: messages.into(), upto: None }
}

fn sink(config: RabbitmqConfig) -> RabbitmqSink {
    RabbitmqSink::new(config, Compatibility::Default, Arc::new(Status::new("test")))
}

fn config(url: String, exchange: &str) -> RabbitmqConfig {
    RabbitmqConfig { urls: vec![Secret::new(url)], exchange: exchange.into(), ..RabbitmqConfig::default() }
}

async fn refused(sink: &RabbitmqSink) -> Failure {
    match sink.open(0).await {
        Err(failure) => failure,
        Ok(_) => panic!("it opened"),
    }
}

/// Reports what comes while time passes.
async fn drive_for(publisher: &mut dyn Publisher, time: Duration) -> Result<usize, Failure> {
    let end = tokio::time::Instant::now() + time;
    let mut durable = 0;
    while let Ok(settled) = tokio::time::timeout_at(end, publisher.drive()).await {
        durable += settled?.durable;
    }
    Ok(durable)
}

#[tokio::test]
async fn properties_and_headers_are_plain_typed_values() {
    let world = Rabbit::start().await;
    let mut m = message("id-7", "good.a", Some(b"{\"a\":1}"));
    m.event_type = Some("Created".into());
    m.headers.push("text", HeaderValue::Text("ü".into()));
    m.headers.push("int", HeaderValue::Int(-3));
    m.headers.push("float", HeaderValue::Float(0.5));
    m.headers.push("yes", HeaderValue::Bool(true));
    m.headers.push("nothing", HeaderValue::Null);
    m.headers.push("bytes", HeaderValue::Bytes(vec![0xff].into()));
    let mut publisher = world.sink().open(0).await.unwrap();
    publisher.push(one(&[m]));
    assert_eq!(drive(publisher.as_mut(), 1).await.durable, 1);
    let got = world.broker.drain(&world.queue).await.remove(0);
    assert_eq!((&*got.exchange, &*got.routing_key), (&*world.exchange, "good.a"));
    assert_eq!((got.message_id.as_deref(), got.kind.as_deref()), (Some("id-7"), Some("Created")));
    assert_eq!((got.content_type.as_deref(), got.delivery_mode), (Some("application/json"), Some(2)));
    assert_eq!((got.timestamp, &got.body[..]), (Some(1_700_000_000), &b"{\"a\":1}"[..]));
    let header = |name: &str| got.headers.inner().get(name).cloned();
    assert_eq!(header("text"), Some(AMQPValue::LongString("ü".into())));
    assert_eq!(header("int"), Some(AMQPValue::LongLongInt(-3)));
    assert_eq!(header("float"), Some(AMQPValue::Double(0.5)));
    assert_eq!(header("yes"), Some(AMQPValue::Boolean(true)));
    assert_eq!(header("nothing"), Some(AMQPValue::Void));
    assert_eq!(header("bytes"), Some(AMQPValue::ByteArray(vec![0xff].into())));
}

/// T32: the binding goes away under load; the event is refused, by name, at once, and never counted.
#[tokio::test]
async fn a_binding_that_disappears_is_noticed_by_the_first_message_that_needs_it() {
    let world = Rabbit::start().await;
    let mut publisher = world.sink().open(0).await.unwrap();
    publisher.push(one(&many("a", "good.a", 200)));
    assert_eq!(drive(publisher.as_mut(), 200).await.durable, 200);
    world.broker.unbind(&world.queue, &world.exchange, "good.*").await;
    let asked = Instant::now();
    publisher.push(one(&many("b", "good.b", 50)));
    let outcome = drive(publisher.as_mut(), 50).await;
    assert!(asked.elapsed() < LIMIT / 2, "{:?}", asked.elapsed());
    assert_eq!((outcome.durable, outcome.rejected.len()), (0, 50));
    assert_eq!(outcome.rejected.iter().map(|r| r.index).collect::<Vec<_>>(), (200..250).collect::<Vec<_>>());
    let reason = &outcome.rejected[0].reason;
    assert!(reason.contains(&world.exchange) && reason.contains("good.b") && reason.contains("bind"), "{reason}");
    world.broker.bind(&world.queue, &world.exchange, "good.*").await;
    let mut publisher = world.sink().open(0).await.unwrap();
    publisher.push(one(&many("b", "good.b", 50)));
    assert_eq!(drive(publisher.as_mut(), 50).await.durable, 50);
    assert_eq!(world.arrived(250).await.len(), 250);
}

/// T8: acks of a channel come out of order when its messages go to different queues; only the prefix counts.
#[tokio::test]
async fn messages_to_slow_and_fast_queues_settle_in_order() {
    let world = Rabbit::start().await;
    let quorum = unique("quorum");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    world.broker.queue_with(&quorum, arguments).await;
    world.broker.bind(&quorum, &world.exchange, "quorum.*").await;
    let topics = ["good.a", "quorum.a", "nowhere"];
    let messages: Vec<Message> = (0..900).map(|i| message(&format!("m{i}"), topics[i % 3], Some(b"{}"))).collect();
    let mut publisher = world.sink().open(0).await.unwrap();
    for slice in slices(&messages, 100) {
        publisher.push(slice);
    }
    let mut durable = 0;
    let mut rejected = std::collections::BTreeSet::new();
    while durable < 900 {
        let settled = tokio::time::timeout(LIMIT, publisher.drive()).await.unwrap().unwrap();
        durable += settled.durable;
        for rejection in settled.rejected {
            assert!(rejection.index >= durable as u64, "a prefix never runs past a refusal");
            assert_eq!(rejection.index % 3, 2);
            assert!(rejected.insert(rejection.index), "once");
            publisher.release(rejection.index);
        }
    }
    assert_eq!(rejected.len(), 300);
    assert_eq!((world.broker.count(&world.queue).await, world.broker.count(&quorum).await), (300, 300));
}

/// T33: a queue that is full and says so. Nothing is lost or poisoned; when there is room, the rest goes in, in order.
#[tokio::test]
async fn a_full_queue_is_waited_out() {
    for kind in ["classic", "quorum"] {
        let world = Rabbit::start().await;
        let full = unique("full");
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(100));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        world.broker.queue_with(&full, arguments).await;
        world.broker.bind(&full, &world.exchange, "full").await;
        let messages = many("m", "full", 1000);
        let sink = world.sink();
        let mut arrived: Vec<String> = vec![];
        let (mut durable, mut nacked) = (0, 0);
        while durable < 1000 {
            let mut publisher = sink.open(0).await.unwrap();
            publisher.push(one(&messages[durable..]));
            let outcome = drive(publisher.as_mut(), 1000 - durable).await;
            assert_eq!(outcome.rejected, vec![], "a full queue is no fault of a message");
            durable += outcome.durable;
            if let Some(failure) = outcome.failure {
                assert!(matches!(failure, Failure::Retry { after: Some(_), .. }), "{failure}");
                assert!(failure.to_string().contains("reject-publish"), "{failure}");
                nacked += 1;
            }
            arrived.extend(world.broker.drain(&full).await.into_iter().map(|m| m.message_id.unwrap()));
        }
        assert!(nacked > 0, "{kind}: the queue was never full");
        let mut seen = std::collections::HashSet::new();
        let first: Vec<&String> = arrived.iter().filter(|id| seen.insert((*id).clone())).collect();
        assert!(first.iter().zip(&messages).all(|(id, m)| ***id == *m.id.0), "{kind}: order of first occurrences");
        assert_eq!(first.len(), 1000, "{kind}: nothing missing");
    }
}

/// T33, T36: the exchange is deleted under load: an error with its name, retried; nothing counted that is not there.
#[tokio::test]
async fn an_exchange_that_disappears_is_waited_for() {
    let world = Rabbit::start().await;
    let sink = world.sink();
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&many("a", "good.a", 500)));
    assert_eq!(drive(publisher.as_mut(), 500).await.durable, 500);
    let gone = world.broker.channel().exchange_delete(world.exchange.as_str().into(), ExchangeDeleteOptions::default());
    gone.await.unwrap();
    publisher.push(one(&many("b", "good.a", 500)));
    let outcome = drive(publisher.as_mut(), 500).await;
    assert_eq!((outcome.durable, outcome.rejected), (0, vec![]));
    for failure in [outcome.failure.unwrap(), sink.open(0).await.map(|_| ()).unwrap_err()] {
        assert!(!failure.is_fatal() && failure.to_string().contains(&world.exchange), "{failure}");
    }
    world.broker.exchange(&world.exchange).await;
    world.broker.bind(&world.queue, &world.exchange, "good.*").await;
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&many("b", "good.a", 500)));
    assert_eq!(drive(publisher.as_mut(), 500).await.durable, 500);
    assert_eq!(world.arrived(1000).await.len(), 1000);
}

/// T36: where the topic names the exchange, one that does not exist is the fault of the messages that name it.
#[tokio::test]
async fn a_topic_without_an_exchange_is_refused_and_the_others_pass() {
    let world = Rabbit::start().await;
    let by_topic =
        RabbitmqConfig { exchange: String::new(), routing_key: RoutingKey::Static("good.x".into()), ..world.config() };
    let sink = sink(by_topic);
    let nope = unique("nope");
    let mut messages = many("m", &world.exchange, 5);
    messages[2] = message("bad", &nope, None);
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&messages));
    let outcome = drive(publisher.as_mut(), 5).await;
    assert!(outcome.failure.is_some_and(|f| !f.is_fatal()), "the channel is gone, the rest goes again");
    assert_eq!((outcome.rejected.len(), outcome.rejected[0].index), (1, 2));
    assert!(outcome.rejected[0].reason.contains(&nope), "{}", outcome.rejected[0].reason);
    assert!(outcome.durable <= 2);
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&messages[3..]));
    assert_eq!(drive(publisher.as_mut(), 2).await.durable, 2);
}

#[tokio::test]
async fn dead_letters_say_where_they_were_meant_to_go() {
    let world = Rabbit::start().await;
    let dead = unique("dead");
    world.broker.exchange(&dead).await;
    world.broker.queue(&dead, &dead, &["#"]).await;
    assert!(RabbitmqSink::dead_letters(&world.config(), world.status.clone()).is_none());
    let config = RabbitmqConfig { dead_letter_exchange: Some(dead.clone()), ..world.config() };
    let sink = RabbitmqSink::dead_letters(&config, world.status.clone()).unwrap();
    let mut publisher = sink.open(0).await.unwrap();
    let mut refused = message("bad", &"x".repeat(300), Some(b"{\"n\":1}"));
    refused.headers.push("x-tailwater-reason", HeaderValue::Text("too long".into()));
    publisher.push(one(&[refused]));
    assert_eq!(drive(publisher.as_mut(), 1).await.durable, 1);
    let got = world.broker.drain(&dead).await.remove(0);
    assert_eq!((got.message_id.as_deref(), &got.body[..]), (Some("bad"), &b"{\"n\":1}"[..]));
    assert_eq!(got.header("x-tailwater-original-exchange").unwrap(), world.exchange);
    assert_eq!(got.header("x-tailwater-original-routing-key").unwrap(), "x".repeat(300));
    assert_eq!(got.header("x-tailwater-reason").unwrap(), "too long");
}

#[tokio::test]
async fn who_may_not_is_told_the_command() {
    let node = shared_rabbitmq().await;
    let world = Rabbit::start().await;
    let (user, vhost) = (unique("user"), unique("vhost"));
    let put = async |path: String, body: &str| {
        let answer = node.manage("PUT", &path, Some(body)).await;
        assert!((200..300).contains(&answer.status), "{path}: {}", answer.status);
    };
    put(format!("/api/users/{user}"), r#"{"password":"right","tags":""}"#).await;
    let address = format!("127.0.0.1:{}", node.amqp_port());
    let hint = async |url: String| match refused(&sink(config(url, &world.exchange))).await {
        Failure::Fatal { hint, .. } => hint.into_owned(),
        retry => panic!("waiting does not help: {retry}"),
    };
    assert!(hint(format!("amqp://{user}:wrong@{address}")).await.contains("change_password"));
    assert!(hint(format!("amqp://guest:guest@{address}/{vhost}")).await.contains("add_vhost"));
    assert!(hint(format!("amqp://{user}:right@{address}")).await.contains("set_permissions"));
    put(format!("/api/permissions/%2F/{user}"), r#"{"configure":"","write":"^$","read":""}"#).await;
    let mut publisher = sink(config(format!("amqp://{user}:right@{address}"), &world.exchange)).open(0).await.unwrap();
    publisher.push(one(&many("m", "good.a", 5)));
    match drive(publisher.as_mut(), 5).await.failure {
        Some(Failure::Fatal { hint, .. }) => assert!(hint.contains("set_permissions -p '/'"), "{hint}"),
        other => panic!("{other:?}"),
    }
    put(format!("/api/permissions/%2F/{user}"), r#"{"configure":"","write":".*","read":""}"#).await;
    let topics = format!(r#"{{"exchange":"{}","write":"^good","read":""}}"#, world.exchange);
    put(format!("/api/topic-permissions/%2F/{user}"), &topics).await;
    let mut publisher = sink(config(format!("amqp://{user}:right@{address}"), &world.exchange)).open(0).await.unwrap();
    publisher.push(one(&[message("a", "good.a", None), message("b", "bad.b", None), message("c", "good.c", None)]));
    let outcome = drive(publisher.as_mut(), 3).await;
    assert_eq!((outcome.rejected.len(), outcome.rejected[0].index), (1, 1));
    assert!(outcome.rejected[0].reason.contains("topic 'bad.b'"), "{}", outcome.rejected[0].reason);
}

/// A connection that has nothing to do stays; the broker would close it after three missed heartbeats of ours.
#[tokio::test]
async fn an_idle_publisher_is_kept_alive_by_heartbeats() {
    let world = Rabbit::start().await;
    let config = RabbitmqConfig { heartbeat: Duration::from_secs(1), ..world.config() };
    let mut publisher = sink(config).open(0).await.unwrap();
    assert_eq!(drive_for(publisher.as_mut(), Duration::from_secs(5)).await.unwrap(), 0);
    publisher.push(one(&many("m", "good.a", 3)));
    assert_eq!(drive(publisher.as_mut(), 3).await.durable, 3);
    assert_eq!(world.proxy.connections(), 1, "one connection all the time");
}

/// T48: nothing is closed and nothing comes: only the count of heartbeats can tell.
#[tokio::test]
async fn a_silent_broker_is_taken_for_dead_after_two_heartbeats() {
    let world = Rabbit::start().await;
    let config = RabbitmqConfig {
        heartbeat: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(700),
        ..world.config()
    };
    let sink = sink(config);
    let mut publisher = sink.open(0).await.unwrap();
    world.proxy.blackhole();
    let start = Instant::now();
    let failure = tokio::time::timeout(LIMIT, publisher.drive()).await.unwrap().unwrap_err();
    assert!(!failure.is_fatal() && failure.to_string().contains("nothing was heard"), "{failure}");
    assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
    // TCP is accepted, and nobody speaks: the limit is on the whole handshake.
    let start = Instant::now();
    let failure = refused(&sink).await;
    assert!(!failure.is_fatal() && failure.to_string().contains("no answer within"), "{failure}");
    assert!(start.elapsed() < LIMIT / 2, "{:?}", start.elapsed());
    world.proxy.restore();
    eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
}

#[tokio::test]
async fn endpoints_are_tried_in_order() {
    let world = Rabbit::start().await;
    let node = shared_rabbitmq().await;
    let second = Proxy::to(([127, 0, 0, 1], node.amqp_port()).into()).await;
    let urls = [&world.proxy, &second].map(|p| Secret::new(format!("amqp://guest:guest@{}", p.addr())));
    let sink = sink(RabbitmqConfig { urls: urls.to_vec(), ..world.config() });
    drop(sink.open(0).await.unwrap());
    assert_eq!((world.proxy.connections(), second.connections()), (1, 0));
    world.proxy.refuse();
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&many("m", "good.a", 1)));
    assert_eq!((drive(publisher.as_mut(), 1).await.durable, second.connections()), (1, 1));
}

/// T34: a connection breaks with confirms on their way; the next one counts its tags from 1 and nothing is mistaken.
#[tokio::test]
async fn confirms_of_a_lost_connection_settle_nothing_on_the_next() {
    let world = Rabbit::start().await;
    let sink = world.sink();
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(one(&many("a", "good.a", 1)));
    assert_eq!(drive(publisher.as_mut(), 1).await.durable, 1);
    world.proxy.delay(Duration::from_millis(300));
    publisher.push(one(&many("b", "good.a", 100)));
    assert_eq!(drive_for(publisher.as_mut(), Duration::from_millis(350)).await.unwrap(), 0, "confirms are on the way");
    world.proxy.cut();
    let failure = drive(publisher.as_mut(), 100).await.failure.unwrap();
    assert!(!failure.is_fatal(), "{failure}");
    world.proxy.restore();
    let mut publisher = eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
    publisher.push(one(&[many("b", "good.a", 100), vec![message("bad", "bad", None)]].concat()));
    let outcome = drive(publisher.as_mut(), 101).await;
    assert_eq!((outcome.durable, outcome.rejected[0].index), (100, 100));
}
