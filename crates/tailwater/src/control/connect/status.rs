//! A pipeline's state in the words of Connect. `reason` and `hint` travel as the task's `trace`.

use super::Connect;
use crate::metrics::State;
use crate::supervisor::Target;
use serde_json::{Value, json};

/// The state of the one task.
pub(super) fn task_state(state: &State, target: Target) -> (&'static str, Option<String>) {
    match state {
        State::Failed { error, hint } | State::GapPossible { error, hint } => {
            let hint = if hint.is_empty() { String::new() } else { format!("\n\twhat to do: {hint}") };
            ("FAILED", Some(format!("{error}{hint}")))
        }
        State::Standby { holder } => ("UNASSIGNED", Some(format!("standing by: {holder}"))),
        _ if target == Target::Paused => ("PAUSED", None),
        _ => ("RUNNING", None),
    }
}

impl Connect {
    /// The body of `/status`; `None` for a connector that is not there.
    pub(super) fn status_of(&self, name: &str) -> Option<Value> {
        let definition = self.definitions.get(name)?;
        let mut tasks = Vec::new();
        let connector = match definition.target {
            Target::Stopped => "STOPPED",
            Target::Paused => "PAUSED",
            Target::Running => "RUNNING",
        };
        if definition.target != Target::Stopped {
            tasks.push(self.task_of(name, definition.target));
        }
        Some(json!({
            "name": name,
            "connector": { "state": connector, "worker_id": self.worker, "version": env!("CARGO_PKG_VERSION") },
            "tasks": tasks,
            "type": "source",
        }))
    }

    pub(super) fn task_of(&self, name: &str, target: Target) -> Value {
        let status = self.supervisor.statuses().into_iter().find(|status| status.name == name);
        let (state, trace) = status.map_or(("UNASSIGNED", None), |status| task_state(&status.state(), target));
        let mut task =
            json!({ "id": 0, "state": state, "worker_id": self.worker, "version": env!("CARGO_PKG_VERSION") });
        if let Some(trace) = trace {
            task["trace"] = trace.into();
        }
        task
    }
}
