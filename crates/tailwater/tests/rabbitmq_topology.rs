//! Topology against the real node: planned, looked at, made, and compared; with the management API and without.

#![allow(clippy::unwrap_used)] // a panic here is a failed test, with its place

use lapin::types::{AMQPValue, FieldTable};
use std::sync::Arc;
use std::time::Duration;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::config::{
    Binding, DeadLetter, DeadLetterBy, Exchange, Queue, QueueKind, RabbitmqConfig, Topology,
};
use tailwater::sinks::rabbitmq::topology::{Step, StepState, apply, examine, plan};
use tailwater_core::Sink;
use tailwater_core::route::Compatibility;
use testbed::{Rabbit, RabbitMq, eventually, shared_rabbitmq, unique};

/// The report recipe's topology under names of our own.
struct Names {
    exchange: String,
    queue: String,
    dead: String,
}

fn recipe(node: &RabbitMq, kind: QueueKind, by: DeadLetterBy) -> (RabbitmqConfig, Names) {
    let names = Names { exchange: unique("events"), queue: unique("report.service"), dead: unique("dlq") };
    let dead_letter = DeadLetter { exchange: String::new(), routing_key: Some(names.dead.clone()), by };
    let queue = |name: &str, dead_letter| Queue { name: name.into(), kind, durable: true, dead_letter };
    let topology = Topology {
        declare: true,
        exchanges: vec![Exchange { name: names.exchange.clone(), kind: "topic".into(), durable: true }],
        queues: vec![queue(&names.queue, Some(dead_letter)), queue(&names.dead, None)],
        bindings: vec![Binding {
            exchange: names.exchange.clone(),
            queue: names.queue.clone(),
            routing_key: "report.*".into(),
        }],
    };
    let config = RabbitmqConfig {
        urls: vec![Secret::new(node.url())],
        exchange: names.exchange.clone(),
        management_url: Some(Secret::new(node.management_url())),
        topology,
        ..RabbitmqConfig::default()
    };
    (config, names)
}

fn states(steps: &[Step]) -> Vec<&StepState> {
    steps.iter().map(|s| &s.state).collect()
}

/// Messages rejected by a consumer arrive in the dead-letter queue. More than one may be needed: a queue takes notice of
/// its policy a moment after the API has answered.
async fn rejected_messages_arrive(broker: &Rabbit, names: &Names) {
    let channel = broker.connection().create_channel().await.unwrap();
    eventually(Duration::from_secs(20), || async {
        let (exchange, none) = (names.exchange.as_str().into(), Default::default());
        let key = "report.created".into();
        channel.basic_publish(exchange, key, Default::default(), b"x", none).await.unwrap();
        let queue = names.queue.as_str().into();
        if let Some(got) = channel.basic_get(queue, Default::default()).await.unwrap() {
            got.delivery.acker.reject(Default::default()).await.unwrap();
        }
        (broker.count(&names.dead).await > 0).then_some(())
    })
    .await;
    broker.drain(&names.queue).await; // published and not yet seen by the last look
    assert_eq!(broker.count(&names.queue).await, 0, "no loop");
}

#[tokio::test]
async fn a_missing_topology_is_made_whole_and_seen_whole() {
    let node = shared_rabbitmq().await;
    let broker = Rabbit::connect(node).await;
    for (kind, by) in [
        (QueueKind::Classic, DeadLetterBy::Policy),
        (QueueKind::Quorum, DeadLetterBy::Policy),
        (QueueKind::Classic, DeadLetterBy::Argument),
    ] {
        let (config, names) = recipe(node, kind, by);
        let mut steps = examine(&config).await.unwrap();
        assert!(states(&steps).iter().all(|s| **s == StepState::Missing), "{steps:#?}");
        apply(&config, &mut steps).await.unwrap();
        assert!(states(&steps).iter().all(|s| **s == StepState::Made), "{steps:#?}");
        let again = examine(&config).await.unwrap();
        assert!(states(&again).iter().all(|s| **s == StepState::Present), "{again:#?}");
        rejected_messages_arrive(&broker, &names).await;
        // The consumer's plain declaration of the recipe: passes where dead-lettering is by policy.
        let plain = broker.connection().create_channel().await.unwrap();
        let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = plain.queue_declare(names.queue.as_str().into(), options, FieldTable::default()).await;
        assert_eq!(declared.is_ok(), kind == QueueKind::Classic && by == DeadLetterBy::Policy, "{declared:?}");
    }
}

#[tokio::test]
async fn without_the_management_api_only_existence_is_seen_and_the_rest_is_said() {
    let node = shared_rabbitmq().await;
    let (config, _) = recipe(node, QueueKind::Classic, DeadLetterBy::Policy);
    let config = RabbitmqConfig { management_url: None, ..config };
    let mut steps = examine(&config).await.unwrap();
    apply(&config, &mut steps).await.unwrap();
    let (policy, others) = steps.split_last().unwrap();
    assert!(states(others).iter().all(|s| **s == StepState::Made), "{others:#?}");
    assert!(matches!(policy.state, StepState::Unseen { .. }) && policy.command.starts_with("rabbitmqctl set_policy"));
    let seen = examine(&config).await.unwrap();
    assert!(states(&seen).iter().all(|s| matches!(s, StepState::Unseen { .. })), "{seen:#?}");
    // The printed line does it.
    let mut words: Vec<String> = vec![];
    for (i, part) in policy.command.split('\'').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    node.ctl(&words[1..].iter().map(String::as_str).collect::<Vec<_>>()).await;
    let with_api = RabbitmqConfig { management_url: Some(Secret::new(node.management_url())), ..config };
    let seen = examine(&with_api).await.unwrap();
    assert!(states(&seen).iter().all(|s| **s == StepState::Present), "{seen:#?}");
}

#[tokio::test]
async fn a_queue_with_dead_letter_arguments_is_left_alone_and_the_way_out_is_said() {
    let node = shared_rabbitmq().await;
    let broker = Rabbit::connect(node).await;
    let (config, names) = recipe(node, QueueKind::Classic, DeadLetterBy::Policy);
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(names.exchange.as_str().into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString("report.dlq".into()));
    broker.queue_with(&names.queue, arguments).await;
    let mut steps = examine(&config).await.unwrap();
    let queue = steps.iter().position(|s| s.text.contains(&names.queue)).unwrap();
    let StepState::Differs { found, mend } = steps[queue].state.clone() else { panic!("{:?}", steps[queue]) };
    assert!(found.contains("report.dlq") && mend.contains("delete_queue"), "{found} {mend}");
    apply(&config, &mut steps).await.unwrap();
    assert!(matches!(steps[queue].state, StepState::Differs { .. }), "nothing was done to it");
}

#[tokio::test]
async fn a_policy_that_is_there_is_carried_along() {
    let node = shared_rabbitmq().await;
    let broker = Rabbit::connect(node).await;
    let (config, names) = recipe(node, QueueKind::Classic, DeadLetterBy::Policy);
    let theirs = format!(
        r#"{{"pattern":"^{}$","definition":{{"message-ttl":3600000}},"priority":30,"apply-to":"all"}}"#,
        names.queue.replace('.', "\\\\.")
    );
    let set = node.manage("PUT", &format!("/api/policies/%2F/{}", unique("theirs")), Some(&theirs)).await;
    assert_eq!(set.status, 201);
    let mut steps = examine(&config).await.unwrap();
    assert!(steps.last().unwrap().command.contains("message-ttl"), "{:?}", steps.last());
    apply(&config, &mut steps).await.unwrap();
    rejected_messages_arrive(&broker, &names).await;
}

/// `run` with `declare = true`, twice: what is missing is made before the first message, what is there stays.
#[tokio::test]
async fn a_sink_that_may_declare_makes_what_it_needs() {
    let node = shared_rabbitmq().await;
    let broker = Rabbit::connect(node).await;
    let (config, names) = recipe(node, QueueKind::Classic, DeadLetterBy::Policy);
    let sink = RabbitmqSink::new(config.clone(), Compatibility::Default, Arc::new(Status::new("test")));
    for _ in 0..2 {
        sink.open(0).await.unwrap().close().await;
    }
    rejected_messages_arrive(&broker, &names).await;
    let undeclared =
        RabbitmqConfig { topology: Topology::default(), ..recipe(node, QueueKind::Classic, DeadLetterBy::Policy).0 };
    let sink = RabbitmqSink::new(undeclared, Compatibility::Default, Arc::new(Status::new("test")));
    assert!(sink.open(0).await.is_err_and(|f| !f.is_fatal()), "nothing is declared unasked");
}

#[test]
fn a_plan_asks_nobody() {
    assert!(plan(&RabbitmqConfig::default()).is_empty());
}
