//! Ready or not, and why not. Pure: a [`Status`] in, reasons out.
//!
//! Ready means: the broker was heard and the database answered within the window, and data that waits is being worked on.
//! An idle database is ready, and so is a standby: it does what it is there for.

use crate::metrics::{LastSeen, State, Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The answer of `/health/ready`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// All pipelines are, but those that an operator has paused or stopped.
    pub ready: bool,
    /// Why not, by pipeline; empty where a pipeline is ready.
    pub pipelines: BTreeMap<String, Vec<String>>,
}

impl Readiness {
    pub fn of(pipelines: &[Arc<Status>], window: Duration) -> Self {
        let reasons: BTreeMap<_, _> = pipelines.iter().map(|p| (p.name.clone(), obstacles(p, window))).collect();
        let ready = pipelines.iter().all(|p| by_order(&p.state()) || reasons.get(&p.name).is_none_or(Vec::is_empty));
        Readiness { ready, pipelines: reasons }
    }
}

/// What keeps a pipeline from being ready; empty if nothing does.
pub fn obstacles(status: &Status, window: Duration) -> Vec<String> {
    let state = status.state();
    let standby = matches!(state, State::Standby { .. });
    let mut reasons: Vec<String> = by_state(&state).into_iter().collect();
    if !reasons.is_empty() {
        return reasons; // a pipeline that is not running has peers that say nothing, which would only distract
    }
    reasons.extend(unheard("the database", &status.source_seen, window));
    if !standby {
        reasons.extend(unheard("the broker", &status.sink_seen, window));
        reasons.extend(stalled(status, window));
    }
    if let State::Retrying { what, error } = state
        && !reasons.is_empty()
    {
        reasons.push(format!("{what}: {error}"));
    }
    reasons
}

fn by_order(state: &State) -> bool {
    matches!(state, State::Paused | State::Stopped)
}

fn by_state(state: &State) -> Option<String> {
    match state {
        State::Starting => Some("starting".into()),
        State::WaitingForTransactions { pids } => {
            Some(format!("the slot is being created and waits for the open transactions of {}", holders(pids)))
        }
        State::Held { event, reason, .. } => Some(format!("held at event {event}: {reason}")),
        State::Draining => Some("stopping".into()),
        State::Paused => Some("paused".into()),
        State::Stopped => Some("stopped".into()),
        State::Failed { error, .. } => Some(format!("failed: {error}")),
        State::GapPossible { error, .. } => Some(format!("events may be missing: {error}")),
        // judged by what was heard from the peers: a short absence is not an alarm
        State::Snapshot { .. } | State::Streaming | State::Standby { .. } | State::Retrying { .. } => None,
    }
}

/// Pids as people read them; 0 stands for a prepared transaction.
pub fn holders(pids: &[i32]) -> String {
    let each = pids.iter().map(|pid| if *pid == 0 { "a prepared transaction".into() } else { format!("pid {pid}") });
    each.collect::<Vec<_>>().join(", ")
}

fn unheard(peer: &str, seen: &LastSeen, window: Duration) -> Option<String> {
    match seen.age() {
        None => Some(format!("{peer} is not connected")),
        Some(age) if age > window => Some(format!("{peer} has not answered for {} s", age.as_secs())),
        Some(_) => None,
    }
}

/// Data that waits, and nothing happens.
fn stalled(status: &Status, window: Duration) -> Option<String> {
    let age = status.progress.age().filter(|age| *age > window)?.as_secs();
    let in_flight = status.in_flight_messages.load(Relaxed);
    if in_flight > 0 {
        let blocked = if status.sink_blocked.load(Relaxed) { " (connection.blocked)" } else { "" };
        return Some(format!("{in_flight} messages in flight, and the broker settled none for {age} s{blocked}"));
    }
    let unread = status.server_lsn.load(Relaxed).saturating_sub(status.received_lsn.load(Relaxed));
    (unread > 0).then(|| format!("{unread} bytes of the log wait to be read, and nothing was read for {age} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(15);

    fn running() -> Status {
        let status = Status::new("main");
        status.set_state(State::Streaming);
        status.source_seen.touch();
        status.sink_seen.touch();
        status
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_pipeline_is_ready_as_long_as_its_peers_are_heard() {
        let status = running();
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(10)).await;
            status.source_seen.touch();
            status.sink_seen.touch();
            assert_eq!(obstacles(&status, WINDOW), Vec::<String>::new());
        }
    }

    /// T48
    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_named_after_the_window_and_forgiven_when_it_is_heard() {
        for (silent, name) in [(0, "the database"), (1, "the broker")] {
            let status = running();
            tokio::time::advance(WINDOW + Duration::from_secs(1)).await;
            let (quiet, loud) = match silent {
                0 => (&status.source_seen, &status.sink_seen),
                _ => (&status.sink_seen, &status.source_seen),
            };
            loud.touch();
            let reasons = obstacles(&status, WINDOW);
            assert!(reasons.len() == 1 && reasons[0].starts_with(name), "{reasons:?}");
            quiet.touch();
            assert!(obstacles(&status, WINDOW).is_empty());
            quiet.clear();
            assert_eq!(obstacles(&status, WINDOW), [format!("{name} is not connected")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn data_that_waits_while_nothing_happens_is_not_ready() {
        let status = running();
        status.progress.touch();
        status.server_lsn.store(2000, Relaxed);
        status.received_lsn.store(1000, Relaxed);
        assert!(obstacles(&status, WINDOW).is_empty(), "within the window");
        tokio::time::advance(WINDOW + Duration::from_secs(1)).await;
        status.source_seen.touch();
        status.sink_seen.touch();
        assert!(obstacles(&status, WINDOW)[0].contains("1000 bytes"));
        status.received_lsn.store(2000, Relaxed);
        assert!(obstacles(&status, WINDOW).is_empty(), "all read: idle");
        status.in_flight_messages.store(3, Relaxed);
        assert!(obstacles(&status, WINDOW)[0].contains("3 messages"));
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_answer() {
        let status = running();
        let text = || String::from("x");
        for (state, ready) in [
            (State::Starting, false),
            (State::WaitingForTransactions { pids: vec![7, 0] }, false),
            (State::Snapshot { rows: 1 }, true),
            (State::Streaming, true),
            (State::Held { event: text(), topic: text(), reason: text() }, false),
            (State::Retrying { what: text(), error: text() }, true),
            (State::Draining, false),
            (State::Paused, false),
            (State::Stopped, false),
            (State::Failed { error: text(), hint: text() }, false),
            (State::GapPossible { error: text(), hint: text() }, false),
        ] {
            status.set_state(state.clone());
            assert_eq!(obstacles(&status, WINDOW).is_empty(), ready, "{state:?}");
        }
        status.set_state(State::Standby { holder: text() });
        status.sink_seen.clear();
        assert!(obstacles(&status, WINDOW).is_empty(), "a standby needs no broker yet");
        status.source_seen.clear();
        assert!(!obstacles(&status, WINDOW).is_empty(), "but its database");
    }
}
