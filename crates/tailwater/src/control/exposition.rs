//! `/metrics`: the numbers of every pipeline for Prometheus. Reads them at each scrape and keeps none.

use crate::control::{ready, report};
use crate::metrics::{LATENCY_BUCKETS_S, State, Status};
use crate::sources::postgres::position::PgPosition;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text as openmetrics};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// OpenMetrics 1.0, which Prometheus reads since 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of one scrape.
pub fn text(pipelines: &[Arc<Status>], window: Duration) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tailwater");
    registry.register_collector(Box::new(Scrape { pipelines: pipelines.to_vec(), window }));
    let mut out = String::new();
    openmetrics::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Scrape {
    pipelines: Vec<Arc<Status>>,
    window: Duration,
}

type Read<T> = fn(&Status) -> T;

/// Name (counters get `_total`), help, and where the number is.
const COUNTERS: &[(&str, &str, Read<u64>)] = &[
    ("received", "Rows and messages read from the source", |s| s.received.load(Relaxed)),
    ("filtered", "Rows that are not for publishing, by rule", |s| s.filtered.load(Relaxed)),
    ("published", "Messages that the broker confirmed", |s| s.published.load(Relaxed)),
    ("resent", "Messages sent once more after a failed connection", |s| s.resent.load(Relaxed)),
    ("rejected", "Messages returned or refused by broker or router", |s| s.rejected.load(Relaxed)),
    ("dead_lettered", "Refused messages that were kept as dead letters", |s| s.dead_lettered.load(Relaxed)),
];

/// `None` leaves the sample out: unknown is not zero.
const GAUGES: &[(&str, &str, Read<Option<u64>>)] = &[
    ("server_lsn_bytes", "End of the log at the server, as it last said", |s| known(s.server_lsn.load(Relaxed))),
    ("received_lsn_bytes", "End of the log as received", |s| known(s.received_lsn.load(Relaxed))),
    ("saved_lsn_bytes", "Position that a restart would go on from", saved_lsn),
    ("confirmed_lsn_bytes", "Position reported to the server as flushed", |s| known(s.confirmed_lsn.load(Relaxed))),
    ("lag_bytes", "Log between the server's end and the confirmed position", report::lag_bytes),
    ("in_flight_messages", "Messages sent and not settled", |s| Some(s.in_flight_messages.load(Relaxed))),
    ("in_flight_bytes", "Bytes held for what is not settled", |s| Some(s.in_flight_bytes.load(Relaxed))),
    (
        "notice",
        "1 while `tailwater status` tells of something that an operator should know although events flow",
        |s| Some(s.notice().is_some().into()),
    ),
    ("broker_blocked", "1 while the broker holds us back", |s| Some(s.sink_blocked.load(Relaxed).into())),
];

const SECONDS: &[(&str, &str, Read<Option<f64>>)] = &[
    ("lag_seconds", "Age of the oldest event that is not settled", |s| Some(report::lag_seconds(s))),
    ("database_seen_seconds", "Time since the database answered", |s| s.source_seen.age().map(|a| a.as_secs_f64())),
    ("broker_seen_seconds", "Time since the broker was heard", |s| s.sink_seen.age().map(|a| a.as_secs_f64())),
];

/// Every value of the label `state`.
const STATES: &[&str] = &[
    "starting",
    "waiting_for_transactions",
    "snapshot",
    "streaming",
    "standby",
    "held",
    "retrying",
    "draining",
    "paused",
    "stopped",
    "failed",
    "gap_possible",
];

fn known(place: u64) -> Option<u64> {
    (place > 0).then_some(place)
}

fn saved_lsn(status: &Status) -> Option<u64> {
    PgPosition::parse(&status.saved()?).ok()?.confirmable()
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for status in &self.pipelines {
                let labels = [("pipeline", status.name.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&read(status), None)?;
            }
        }
        for (name, help, read) in GAUGES {
            self.gauge(&mut encoder, name, help, *read)?;
        }
        for (name, help, read) in SECONDS {
            self.gauge(&mut encoder, name, help, *read)?;
        }
        self.states(&mut encoder)?;
        self.latency(&mut encoder)
    }
}

impl Scrape {
    fn gauge<T: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        read: Read<Option<T>>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for status in &self.pipelines {
            if let Some(value) = read(status) {
                family.encode_family(&[("pipeline", status.name.as_str())])?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    /// 1 for the state a pipeline is in, 0 for all others, so that an alert can name a state that never occurred.
    fn states(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor("state", "What the pipeline is doing", None, MetricType::Gauge)?;
        for status in &self.pipelines {
            let current = State::name(&status.state());
            for state in STATES {
                let labels = [("pipeline", status.name.as_str()), ("state", *state)];
                family.encode_family(&labels)?.encode_gauge(&i64::from(*state == current))?;
            }
        }
        let help = "1 if /health/ready would say so";
        let mut family = encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?;
        for status in &self.pipelines {
            let is_ready = ready::obstacles(status, self.window).is_empty();
            family.encode_family(&[("pipeline", status.name.as_str())])?.encode_gauge(&i64::from(is_ready))?;
        }
        Ok(())
    }

    fn latency(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "From the commit in the database to the broker's confirm";
        let name = "commit_to_confirm_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for status in &self.pipelines {
            let counts = status.latency.buckets.iter().map(|bucket| bucket.load(Relaxed));
            let bounds = LATENCY_BUCKETS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = status.latency.sum_us.load(Relaxed) as f64 / 1e6;
            let labels = [("pipeline", status.name.as_str())];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_line() {
        let status = Status::new("ma\"in");
        status.set_state(State::Streaming);
        status.received.store(7, Relaxed);
        status.server_lsn.store(300, Relaxed);
        status.confirmed_lsn.store(100, Relaxed);
        status.record_published(2, i64::MAX); // a commit in the future is a clock that differs: 0 s
        let text = text(&[Arc::new(status)], Duration::from_secs(15)).unwrap();
        for line in [
            "# TYPE tailwater_received counter",
            r#"tailwater_received_total{pipeline="ma\"in"} 7"#,
            r#"tailwater_lag_bytes{pipeline="ma\"in"} 200"#,
            r#"tailwater_state{pipeline="ma\"in",state="streaming"} 1"#,
            r#"tailwater_state{pipeline="ma\"in",state="held"} 0"#,
            r#"tailwater_ready{pipeline="ma\"in"} 0"#,
            r#"tailwater_commit_to_confirm_seconds_bucket{le="0.001",pipeline="ma\"in"} 2"#,
            r#"tailwater_commit_to_confirm_seconds_bucket{le="+Inf",pipeline="ma\"in"} 2"#,
            r#"tailwater_commit_to_confirm_seconds_count{pipeline="ma\"in"} 2"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("tailwater_received_lsn_bytes{"), "unknown is left out");
    }

    #[test]
    fn the_state_label_knows_every_state() {
        let text = String::new;
        for state in [
            State::Starting,
            State::WaitingForTransactions { pids: vec![] },
            State::Snapshot { rows: 0 },
            State::Streaming,
            State::Standby { holder: text() },
            State::Held { event: text(), topic: text(), reason: text() },
            State::Retrying { what: text(), error: text() },
            State::Draining,
            State::Paused,
            State::Stopped,
            State::Failed { error: text(), hint: text() },
            State::GapPossible { error: text(), hint: text() },
        ] {
            assert!(STATES.contains(&state.name()), "{}", state.name());
        }
    }
}
