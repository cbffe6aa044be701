//! The RabbitMQ publisher beside its floor: the same messages, laid out once beforehand, pushed through one socket with
//! the same window. Starts a private node. `cargo run --release --example publish_rate [MESSAGES] [ROUNDS]`

use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Instant;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::address::Addressing;
use tailwater::sinks::rabbitmq::config::{Binding, Exchange, Queue, QueueKind, RabbitmqConfig, Topology};
use tailwater::sinks::rabbitmq::connect::connect;
use tailwater::sinks::rabbitmq::frame::{Frame, Method, decode};
use tailwater_core::route::Compatibility;
use tailwater_core::{Headers, Message, MessageId, Sink, Slice, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WINDOW: usize = 2000;
const SLICE: usize = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|n| n.parse().expect("a number"));
    let (count, rounds) = (arguments.next().unwrap_or(100_000), arguments.next().unwrap_or(3));
    let node = testbed::RabbitMq::start().await;
    println!(
        "{count} messages of 300 bytes, window {WINDOW}, median of {rounds} rounds, messages/s and µs CPU of ours"
    );
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let (mut ours, mut bare) = (vec![], vec![]);
        for _ in 0..rounds {
            ours.push(measured(count, publisher(&fresh(&node, kind).await, count)).await);
            bare.push(measured(count, frames(&fresh(&node, kind).await, count)).await);
        }
        let (ours, bare) = (median(ours), median(bare));
        println!(
            "{kind:?}: publisher {:.0}/s {:.1} µs, bare frames {:.0}/s {:.1} µs, ratio {:.2}",
            ours.0,
            ours.1,
            bare.0,
            bare.1,
            ours.0 / bare.0
        );
    }
}

/// (messages per second, µs of CPU per message)
async fn measured(count: usize, work: impl Future<Output = ()>) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), cpu_s());
    work.await;
    (count as f64 / start.elapsed().as_secs_f64(), (cpu_s() - cpu) * 1e6 / count as f64)
}

/// User and system time of this process (proc(5), fields 14 and 15, ticks of 10 ms).
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("has a name").split_whitespace().collect();
    [11, 12].iter().map(|i| fields[*i].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn median(mut samples: Vec<(f64, f64)>) -> (f64, f64) {
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    samples[samples.len() / 2]
}

/// An exchange with one new queue.
async fn fresh(node: &testbed::RabbitMq, kind: QueueKind) -> RabbitmqConfig {
    let name = testbed::unique("rate");
    RabbitmqConfig {
        urls: vec![Secret::new(node.url())],
        exchange: name.clone(),
        topology: Topology {
            declare: true,
            exchanges: vec![Exchange { name: name.clone(), kind: "topic".into(), durable: true }],
            queues: vec![Queue { name: name.clone(), kind, durable: true, dead_letter: None }],
            bindings: vec![Binding { exchange: name.clone(), queue: name, routing_key: "#".into() }],
        },
        ..RabbitmqConfig::default()
    }
}

async fn publisher(config: &RabbitmqConfig, count: usize) {
    let sink = RabbitmqSink::new(config.clone(), Compatibility::Default, Arc::new(Status::new("rate")));
    let mut publisher = sink.open(0).await.expect("the node is there");
    let (mut pushed, mut durable) = (0, 0);
    while durable < count {
        while pushed < count && pushed - durable < WINDOW {
            let messages: Arc<[Message]> = (pushed..count.min(pushed + SLICE)).map(message).collect();
            pushed += messages.len();
            publisher.push(Slice { messages, upto: None });
        }
        durable += publisher.drive().await.expect("the node stays").durable;
    }
}

async fn frames(config: &RabbitmqConfig, count: usize) {
    let sink = RabbitmqSink::new(config.clone(), Compatibility::Default, Arc::new(Status::new("rate")));
    sink.open(0).await.expect("declares").close().await;
    let mut connection = connect(config, "floor").await.map_err(|(error, _)| error).expect("the node is there");
    let addressing = Addressing::new(config, Compatibility::Default);
    let slices: Vec<Bytes> = (0..WINDOW / SLICE)
        .map(|slice| {
            let mut out = BytesMut::new();
            for n in 0..SLICE {
                addressing.encode(&message(slice * SLICE + n), connection.frame_max, &mut out).expect("fits");
            }
            out.freeze()
        })
        .collect();
    let (mut reader, mut writer) = tokio::io::split(connection.stream);
    let (mut sent, mut acked) = (0, 0);
    while acked < count {
        while sent < count && sent - acked < WINDOW {
            writer.write_all(&slices[sent / SLICE % slices.len()]).await.expect("the node stays");
            sent += SLICE;
        }
        while let Some(frame) = decode(&mut connection.input, connection.frame_max).expect("AMQP") {
            if let Frame::Method { method: Method::Ack { tag, multiple }, .. } = frame {
                // One queue: acks come in order.
                acked = if multiple { tag as usize } else { acked + 1 };
            }
        }
        if acked < count && (sent - acked >= WINDOW || sent == count) {
            reader.read_buf(&mut connection.input).await.expect("the node stays");
        }
    }
}

fn message(n: usize) -> Message {
    Message {
        id: MessageId(format!("6f1c2a5e-0000-4000-8000-{n:012}").into()),
        topic: "bench".into(),
        event_type: Some("Benched".into()),
        key: Some(Bytes::from_static(b"k")),
        headers: Headers::default(),
        content_type: "application/json",
        payload: Some(Bytes::from(vec![b'1'; 300])),
        partition: None,
        timestamp: Timestamp(1_700_000_000_000_000),
    }
}
