//! `/connectors/N/offsets`: where a connector stands, changed only while it is stopped.

use super::answer::{Answer, Refusal, ok};
use super::definitions::Definition;
use super::{Call, Connect};
use crate::config::connector;
use crate::sources::postgres::connect;
use crate::sources::postgres::position::{PgPosition, Place};
use crate::supervisor::Target;
use axum::http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tailwater_core::Position;

/// A stop that was ordered just now may still drain.
const STOP_TIME: Duration = Duration::from_secs(15);
const DONE: &str = "The Connect framework-managed offsets for this connector have been";
const ELSEWHERE: &str =
    "successfully. However, if this connector manages offsets externally, they will need to be manually";

impl Connect {
    pub(super) async fn offsets(&self, call: &Call, name: &str) -> Answer {
        let definition = self.definitions.get(name);
        // Connect looks at the body before it looks for the connector
        let wanted = if call.method == Method::PATCH { Some(wanted(call)?) } else { None };
        let definition = definition.ok_or_else(|| Refusal::not_found(format!("Connector {name} not found")))?;
        if call.method == Method::GET {
            let position = self.supervisor.position(name).await.map_err(|failure| Refusal::bad(failure.to_string()))?;
            let offsets: Vec<Value> = position.iter().map(|position| shown(&definition, position)).collect();
            return ok(&json!({ "offsets": offsets }));
        }
        if definition.target != Target::Stopped {
            return Err(Refusal::bad(format!(
                "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the \
                 specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
            )));
        }
        let (position, done) = match wanted {
            Some(offsets) => (Some(self.altered(name, &definition, &offsets).await?), "altered"),
            None => (None, "reset"),
        };
        self.set_position(name, position).await?;
        let again = if done == "altered" { "altered" } else { "reset" };
        ok(&json!({ "message": format!("{DONE} {done} {ELSEWHERE} {again} in the system that the connector uses.") }))
    }

    async fn set_position(&self, name: &str, position: Option<Position>) -> Result<(), Refusal> {
        let start = tokio::time::Instant::now();
        loop {
            match self.supervisor.set_position(name, position.clone()).await {
                Ok(()) => return Ok(()),
                Err(failure) if start.elapsed() > STOP_TIME => return Err(Refusal::bad(failure.to_string())),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The position that the offset of our partition asks for: its own text, or another place in the same log.
    async fn altered(&self, name: &str, definition: &Definition, offsets: &[Value]) -> Result<Position, Refusal> {
        let server = connector::texts(&definition.config).remove("topic.prefix").unwrap_or_default();
        let ours = offsets.iter().find(|entry| entry["partition"]["server"] == server.as_str());
        let offset = ours.map(|entry| &entry["offset"]).filter(|offset| offset.is_object());
        let offset =
            offset.ok_or_else(|| Refusal::bad(format!("no offset for the partition {{\"server\": \"{server}\"}}")))?;
        if let Some(text) = offset["position"].as_str() {
            let position = Position::new(text.chars().filter(|c| !c.is_control()).collect::<String>());
            let known = PgPosition::parse(&position).map_err(|error| Refusal::bad(error.to_string()))?;
            return Ok(known.to_position());
        }
        let lsn = offset["lsn"]
            .as_u64()
            .ok_or_else(|| Refusal::bad("an offset is {\"lsn\": number} or {\"position\": text}"))?;
        let bad = |failure: tailwater_core::Failure| Refusal::bad(failure.to_string());
        let saved = self.supervisor.position(name).await.map_err(bad)?;
        let (system_id, timeline) = match saved.and_then(|position| PgPosition::parse(&position).ok()) {
            Some(saved) => (saved.system_id, saved.timeline),
            // nothing is saved yet: the cluster is asked who it is
            None => {
                let entry = self.supervisor.get(name).ok_or_else(|| Refusal::bad("no pipeline can be made of it"))?;
                connect::system(entry.pipeline.source.connection()).await.map_err(bad)?
            }
        };
        Ok(PgPosition { system_id, timeline, place: Place::Stream { lsn, inside: None } }.to_position())
    }
}

fn wanted(call: &Call) -> Result<Vec<Value>, Refusal> {
    let body = call.object()?;
    match body.get("offsets") {
        Some(Value::Array(offsets)) if !offsets.is_empty() => Ok(offsets.clone()),
        None | Some(Value::Null | Value::Array(_)) => {
            Err(Refusal::bad("Partitions / offsets need to be provided for an alter offsets request"))
        }
        Some(_) => Err(Refusal::bad("`offsets` must be a list of partitions and offsets")),
    }
}

/// Debezium's member `lsn`, and the whole position as it is saved.
fn shown(definition: &Definition, position: &Position) -> Value {
    let server = connector::texts(&definition.config).remove("topic.prefix").unwrap_or_default();
    let lsn = PgPosition::parse(position).ok().map(|position| match position.place {
        Place::Stream { lsn, .. } => lsn,
        Place::Snapshot { consistent, .. } => consistent,
    });
    json!({ "partition": { "server": server }, "offset": { "lsn": lsn, "position": position.as_str() } })
}
