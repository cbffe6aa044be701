//! `/api/v1/status`: what a pipeline does, in a form of its own, so that internal types may change and the API does not.
//! `tailwater status` reads it back.

use crate::control::ready;
use crate::metrics::{State, Status};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The whole answer. Readers ignore fields they do not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of the program.
    pub version: String,
    pub pid: u32,
    pub pipelines: Vec<PipelineReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineReport {
    pub name: String,
    #[serde(flatten)]
    pub state: StateReport,
    pub ready: bool,
    /// Why it is not.
    pub obstacles: Vec<String>,
    pub lsn: Lsns,
    /// Bytes of the log between what the server has and what is confirmed; absent while unknown.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest event that is not settled.
    pub lag_seconds: f64,
    pub in_flight_messages: u64,
    pub in_flight_bytes: u64,
    pub counts: Counts,
    /// Seconds since the peer was heard; absent: not connected.
    pub database_seen_seconds: Option<f64>,
    pub broker_seen_seconds: Option<f64>,
    pub broker_blocked: bool,
    /// What an operator should know although events flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// A failed pipeline is tried again by itself after so long; absent: not by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
}

/// `state` and what belongs to it; absent where a state has no such thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateReport {
    /// `streaming`, `standby`, `held` …
    pub state: String,
    /// Who holds the slot, or whom its creation waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The refused event's id, and its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Places in the log as PostgreSQL writes them; absent while unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lsns {
    /// End of the log at the server, as it last said.
    pub server: Option<String>,
    pub received: Option<String>,
    /// The saved position, as its source wrote it.
    pub saved: Option<String>,
    pub confirmed: Option<String>,
}

/// Since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub received: u64,
    pub filtered: u64,
    pub published: u64,
    pub resent: u64,
    pub rejected: u64,
    pub dead_lettered: u64,
}

impl Report {
    pub fn of(pipelines: &[Arc<Status>], window: Duration) -> Self {
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            pipelines: pipelines.iter().map(|status| PipelineReport::of(status, window)).collect(),
        }
    }
}

impl PipelineReport {
    pub fn of(status: &Status, window: Duration) -> Self {
        let obstacles = ready::obstacles(status, window);
        PipelineReport {
            name: status.name.clone(),
            state: StateReport::of(&status.state()),
            ready: obstacles.is_empty(),
            obstacles,
            lsn: Lsns {
                server: lsn(&status.server_lsn),
                received: lsn(&status.received_lsn),
                saved: status.saved().map(|position| position.as_str().to_owned()),
                confirmed: lsn(&status.confirmed_lsn),
            },
            lag_bytes: lag_bytes(status),
            lag_seconds: lag_seconds(status),
            in_flight_messages: status.in_flight_messages.load(Relaxed),
            in_flight_bytes: status.in_flight_bytes.load(Relaxed),
            counts: Counts {
                received: status.received.load(Relaxed),
                filtered: status.filtered.load(Relaxed),
                published: status.published.load(Relaxed),
                resent: status.resent.load(Relaxed),
                rejected: status.rejected.load(Relaxed),
                dead_lettered: status.dead_lettered.load(Relaxed),
            },
            database_seen_seconds: status.source_seen.age().map(|age| age.as_secs_f64()),
            broker_seen_seconds: status.sink_seen.age().map(|age| age.as_secs_f64()),
            broker_blocked: status.sink_blocked.load(Relaxed),
            notice: status.notice(),
            retry_in_seconds: status.retry_in().map(|left| left.as_secs()),
        }
    }
}

impl StateReport {
    fn of(state: &State) -> Self {
        let mut report = StateReport { state: state.name().into(), ..StateReport::default() };
        match state.clone() {
            State::WaitingForTransactions { pids } => {
                report.holder = Some(ready::holders(&pids));
                report.hint = Some("commit or end those transactions; the slot is created as soon as they have".into());
            }
            State::Standby { holder } => report.holder = Some(holder),
            State::Held { event, topic, reason } => {
                report.hint = Some(format!(
                    "make it acceptable (for an unroutable one: bind a queue to `{topic}`): it goes on by itself; or \
                     set on_rejected = \"dead-letter\""
                ));
                (report.event, report.topic, report.reason) = (Some(event), Some(topic), Some(reason));
            }
            State::Retrying { what, error } => report.reason = Some(format!("{what}: {error}")),
            State::Failed { error, hint } | State::GapPossible { error, hint } => {
                (report.reason, report.hint) = (Some(error), Some(hint));
            }
            State::Paused => {
                report.hint = Some("resume it: nothing is read meanwhile, and the slot keeps the log".into())
            }
            State::Starting | State::Snapshot { .. } | State::Streaming | State::Draining | State::Stopped => {}
        }
        report
    }
}

/// Log that is not confirmed yet, bytes; `None` while either end is unknown.
pub fn lag_bytes(status: &Status) -> Option<u64> {
    let (server, confirmed) = (status.server_lsn.load(Relaxed), status.confirmed_lsn.load(Relaxed));
    (server > 0 && confirmed > 0).then(|| server.saturating_sub(confirmed))
}

/// Age of the oldest unsettled event by this machine's clock, seconds; 0 if there is none.
pub fn lag_seconds(status: &Status) -> f64 {
    let oldest_us = status.oldest_open_us.load(Relaxed);
    if oldest_us == 0 {
        return 0.0;
    }
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
    now_us.saturating_sub(oldest_us).max(0) as f64 / 1e6
}

fn lsn(place: &AtomicU64) -> Option<String> {
    let place = place.load(Relaxed);
    (place > 0).then(|| tokio_postgres::types::PgLsn::from(place).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let status = Status::new("main");
        status.server_lsn.store(0x1_0000_0010, Relaxed);
        status.confirmed_lsn.store(0x1_0000_0000, Relaxed);
        status.set_state(State::Held { event: "7".into(), topic: "order.new".into(), reason: "unroutable".into() });
        let report = Report::of(&[Arc::new(status)], Duration::from_secs(15));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let pipeline = &report.pipelines[0];
        assert_eq!(pipeline.lag_bytes, Some(16));
        assert_eq!(pipeline.lsn.server.as_deref(), Some("1/10"));
        assert!(json.contains(r#""state":"held","event":"7","topic":"order.new","reason":"unroutable""#), "{json}");
        assert!(pipeline.state.hint.as_deref().unwrap().contains("bind a queue to `order.new`"));
    }
}
