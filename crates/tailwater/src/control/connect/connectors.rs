//! `/connectors`: defined, changed, paused, removed. What is durable is written before it is done.

use super::answer::{Answer, Refusal, body, empty, ok};
use super::definitions::Definition;
use super::plugins::{is_ours, unknown_class};
use super::{Call, Connect};
use crate::config::connector::{self, Connector, Wrong};
use crate::sources::postgres::connect;
use crate::supervisor::{Defined, Target};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What may stand in a path as it is.
const SEGMENT: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'+').remove(b';');
/// Limit on asking the database whether it knows us.
const ASK_TIME: Duration = Duration::from_secs(10);

impl Connect {
    pub(super) async fn connectors(&self, call: &Call) -> Answer {
        match call.method {
            Method::GET => self.list(call),
            Method::POST => self.create(call).await,
            Method::OPTIONS => {
                let allow = [(header::ALLOW, HeaderValue::from_static("HEAD,POST,GET,OPTIONS"))];
                Ok((StatusCode::OK, allow).into_response())
            }
            _ => Err(Refusal::plain(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }

    fn list(&self, call: &Call) -> Answer {
        let names = self.definitions.names();
        if !call.query.iter().any(|(key, _)| key == "expand") {
            return ok(&json!(names));
        }
        let mut all = Map::new();
        for name in names {
            let mut entry = Map::new();
            if call.asks("expand", "status") {
                entry.insert("status".into(), self.status_of(&name).unwrap_or_default());
            }
            if call.asks("expand", "info") {
                entry.insert("info".into(), self.info_of(&name).unwrap_or_default());
            }
            all.insert(name, Value::Object(entry));
        }
        ok(&Value::Object(all))
    }

    /// `{"name": …, "config": {…}, "initial_state": …}`.
    async fn create(&self, call: &Call) -> Answer {
        let mut body = call.object()?;
        let name = match body.remove("name") {
            Some(Value::String(name)) => name,
            None | Some(Value::Null) => String::new(),
            Some(_) => return Err(Refusal::bad("`name` must be a text")),
        };
        let config = match body.remove("config") {
            Some(Value::Object(config)) => config,
            _ => return Err(Refusal::bad("`config` is missing: send {\"name\": …, \"config\": {…}}")),
        };
        let target = match body.remove("initial_state") {
            None | Some(Value::Null) => Target::Running,
            Some(Value::String(state)) => initial_state(&state)?,
            Some(_) => return Err(Refusal::bad("`initial_state` must be a text")),
        };
        if let Some(extra) = body.keys().next() {
            return Err(Refusal::bad(format!("unknown field `{extra}`: known are name, config, initial_state")));
        }
        let _turn = self.definitions.turn().await;
        self.define(call, &name, config, Some(target), false).await
    }

    /// Creates or replaces. `target`: `None` keeps what is wanted of the one that is there.
    async fn define(
        &self,
        call: &Call,
        name: &str,
        config: Map<String, Value>,
        target: Option<Target>,
        may_replace: bool,
    ) -> Answer {
        let before = self.definitions.get(name);
        let config = self.complete(name, config, before.as_ref())?;
        let connector = self
            .examine(&config)
            .await
            .map_err(|wrong| Refusal::invalid(&wrong.iter().map(|wrong| wrong.text.clone()).collect::<Vec<_>>()))?;
        let taken = self.supervisor.get(name).is_some_and(|entry| entry.defined == Defined::File);
        if taken || (before.is_some() && !may_replace) {
            return Err(Refusal::new(StatusCode::CONFLICT, format!("Connector {name} already exists")));
        }
        for remark in &connector.remarks {
            tracing::info!(pipeline = name, "{remark}");
        }
        let target = target.or(before.as_ref().map(|before| before.target)).unwrap_or_default();
        let definition = Definition { config: config.clone(), target };
        self.definitions.save(name, definition).await.map_err(internal)?;
        if let Err(failure) = self.supervisor.put(name, connector.pipeline, Defined::Rest, target).await {
            // what was there goes on, in the store too
            let undone = match before {
                Some(before) => self.definitions.save(name, before).await,
                None => self.definitions.remove(name).await,
            };
            undone.map_err(internal)?;
            return Err(Refusal::invalid(&[failure.to_string()]));
        }
        let info = self.info(name, &config, if before.is_some() { self.tasks(name, target) } else { json!([]) });
        if before.is_some() {
            return ok(&info);
        }
        let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(&self.worker);
        let mut response = body(StatusCode::CREATED, &info)?;
        let place = format!("http://{host}/connectors/{}", utf8_percent_encode(name, &SEGMENT));
        if let Ok(place) = HeaderValue::from_str(&place) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        Ok(response)
    }

    /// The configuration with its name, texts as values and secrets in place of masks.
    fn complete(
        &self,
        name: &str,
        config: Map<String, Value>,
        before: Option<&Definition>,
    ) -> Result<Map<String, Value>, Refusal> {
        if config.values().any(Value::is_null) {
            return Err(Refusal::invalid(&["Null value can not be supplied as the configuration value.".into()]));
        }
        if let Some((key, _)) = config.iter().find(|(_, value)| value.is_object() || value.is_array()) {
            return Err(Refusal::bad(format!("the value of `{key}` must be a text, a number or a boolean")));
        }
        let inner = config.get("name").and_then(Value::as_str);
        if let Some(inner) = inner.filter(|inner| *inner != name) {
            let text =
                format!("Connector name configuration ({inner}) doesn't match connector name in the URL ({name})");
            return Err(Refusal::bad(text));
        }
        legal_name(name, &config)?;
        let mut config: Map<String, Value> =
            connector::texts(&config).into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        config.insert("name".into(), name.into());
        let config = connector::unmasked(config, before.map(|before| &before.config));
        if let Some((key, _)) = config.iter().find(|(key, value)| connector::is_mask(key, value)) {
            return Err(Refusal::bad(format!(
                "the value of `{key}` is the mask that stands for a secret, and none is known: send the secret itself"
            )));
        }
        match config.get("connector.class").and_then(Value::as_str) {
            None => Err(Refusal::bad(format!("Connector config {{{}}} contains no connector type", listed(&config)))),
            Some(class) if !is_ours(class) => Err(Refusal::bad(unknown_class(class))),
            Some(_) => Ok(config),
        }
    }

    /// Whether a pipeline can be made of it, and whether the database knows its role.
    pub(super) async fn examine(&self, config: &Map<String, Value>) -> Result<Connector, Vec<Wrong>> {
        let connector = connector::pipeline(config, &self.config)?;
        let asked = tokio::time::timeout(ASK_TIME, connect::sql(connector.pipeline.source.connection())).await;
        let error = match asked {
            Ok(Ok(_)) => return Ok(connector),
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("the database did not answer within {} s", ASK_TIME.as_secs()),
        };
        Err(vec![Wrong { key: None, text: format!("Error while validating connector config: {error}") }])
    }

    pub(super) async fn connector(&self, call: &Call, name: &str, rest: &[&str]) -> Answer {
        let unknown = || Refusal::not_found(format!("Connector {name} not found"));
        let known = self.definitions.get(name);
        match (&call.method, rest) {
            (&Method::GET, []) => ok(&self.info_of(name).ok_or_else(unknown)?),
            (&Method::DELETE, []) => self.delete(name).await,
            (&Method::GET, ["config"]) => ok(&Value::Object(connector::masked(&known.ok_or_else(unknown)?.config))),
            (&Method::PUT, ["config"]) => {
                let config = call.object()?;
                let _turn = self.definitions.turn().await;
                self.define(call, name, config, None, true).await
            }
            (&Method::PATCH, ["config"]) => self.patch(call, name).await,
            (&Method::GET, ["status"]) => {
                let none = || Refusal::not_found(format!("No status found for connector {name}"));
                ok(&self.status_of(name).ok_or_else(none)?)
            }
            (&Method::GET, ["tasks"]) => {
                let known = known.ok_or_else(unknown)?;
                ok(&self.task_configs(name, &known))
            }
            (&Method::GET, ["tasks", id, "status"]) => self.task_status(name, id),
            (&Method::POST, ["tasks", id, "restart"]) => self.restart_task(name, id).await,
            (&Method::POST, ["restart"]) => self.restart(call, name).await,
            (&Method::PUT, ["pause"]) => self.aim(name, Target::Paused, StatusCode::ACCEPTED).await,
            (&Method::PUT, ["resume"]) => self.aim(name, Target::Running, StatusCode::ACCEPTED).await,
            (&Method::PUT, ["stop"]) => self.aim(name, Target::Stopped, StatusCode::NO_CONTENT).await,
            (&(Method::GET | Method::PATCH | Method::DELETE), ["offsets"]) => self.offsets(call, name).await,
            (&Method::GET, ["topics"]) => ok(&json!({ name: { "topics": self.topics(name) } })),
            (&Method::PUT, ["topics", "reset"]) => {
                if let Some(entry) = self.supervisor.get(name) {
                    entry.status.forget_topics();
                }
                empty(StatusCode::ACCEPTED)
            }
            (
                _,
                [] | ["config" | "status" | "tasks" | "restart" | "pause" | "resume" | "stop" | "offsets" | "topics"],
            )
            | (_, ["topics", "reset"] | ["tasks", _, "status" | "restart"]) => {
                Err(Refusal::plain(StatusCode::METHOD_NOT_ALLOWED))
            }
            _ => Err(Refusal::plain(StatusCode::NOT_FOUND)),
        }
    }

    async fn delete(&self, name: &str) -> Answer {
        let _turn = self.definitions.turn().await;
        if self.definitions.get(name).is_none() {
            return Err(Refusal::not_found(format!("Connector {name} not found")));
        }
        self.definitions.remove(name).await.map_err(internal)?;
        self.supervisor.remove(name).await;
        empty(StatusCode::NO_CONTENT)
    }

    /// A null takes a key away.
    async fn patch(&self, call: &Call, name: &str) -> Answer {
        let changes = call.object()?;
        let _turn = self.definitions.turn().await;
        let known =
            self.definitions.get(name).ok_or_else(|| Refusal::not_found(format!("Connector {name} not found")))?;
        let mut config = known.config;
        for (key, value) in changes {
            match value {
                Value::Null => drop(config.remove(&key)),
                value => drop(config.insert(key, value)),
            }
        }
        // a mask that came back means what is known
        let config = connector::unmasked(config, self.definitions.get(name).as_ref().map(|d| &d.config));
        self.define(call, name, config, None, true).await
    }

    async fn aim(&self, name: &str, target: Target, done: StatusCode) -> Answer {
        let _turn = self.definitions.turn().await;
        let unknown = || Refusal::not_found(format!("Unknown connector {name}"));
        let definition = self.definitions.get(name).ok_or_else(unknown)?;
        self.definitions.save(name, Definition { target, ..definition }).await.map_err(internal)?;
        self.supervisor.set_target(name, target).await;
        empty(done)
    }

    async fn restart(&self, call: &Call, name: &str) -> Answer {
        let unknown = || Refusal::not_found(format!("Unknown connector: {name}"));
        let mut status = self.status_of(name).ok_or_else(unknown)?;
        let failed = status["tasks"][0]["state"] == "FAILED";
        let (tasks, only_failed) = (call.asks("includeTasks", "true"), call.asks("onlyFailed", "true"));
        if failed || !only_failed {
            self.supervisor.restart(name).await;
            status["connector"]["state"] = if only_failed { "RUNNING" } else { "RESTARTING" }.into();
            if let Some(task) = status["tasks"].get_mut(0) {
                task["state"] = "RESTARTING".into();
            }
        }
        if tasks { body(StatusCode::ACCEPTED, &status) } else { empty(StatusCode::NO_CONTENT) }
    }

    fn task_status(&self, name: &str, id: &str) -> Answer {
        let id: u32 = id.parse().map_err(|_| Refusal::plain(StatusCode::NOT_FOUND))?;
        let status = self.status_of(name);
        let task = status.as_ref().and_then(|status| status["tasks"].get(id as usize)).cloned();
        ok(&task.ok_or_else(|| Refusal::not_found(format!("No status found for task {name}-{id}")))?)
    }

    async fn restart_task(&self, name: &str, id: &str) -> Answer {
        let id: u32 = id.parse().map_err(|_| Refusal::plain(StatusCode::NOT_FOUND))?;
        let known =
            self.definitions.get(name).ok_or_else(|| Refusal::not_found(format!("Unknown connector: {name}")))?;
        if id > 0 || known.target == Target::Stopped {
            return Err(Refusal::not_found(format!("Unknown task: {name}-{id}")));
        }
        self.supervisor.restart(name).await;
        empty(StatusCode::NO_CONTENT)
    }

    fn topics(&self, name: &str) -> Vec<String> {
        self.supervisor.get(name).map(|entry| entry.status.topics()).unwrap_or_default()
    }

    fn info_of(&self, name: &str) -> Option<Value> {
        let definition = self.definitions.get(name)?;
        Some(self.info(name, &definition.config, self.tasks(name, definition.target)))
    }

    fn info(&self, name: &str, config: &Map<String, Value>, tasks: Value) -> Value {
        json!({ "name": name, "config": connector::masked(config), "tasks": tasks, "type": "source" })
    }

    fn tasks(&self, name: &str, target: Target) -> Value {
        if target == Target::Stopped { json!([]) } else { json!([{ "connector": name, "task": 0 }]) }
    }

    fn task_configs(&self, name: &str, definition: &Definition) -> Value {
        if definition.target == Target::Stopped {
            return json!([]);
        }
        let mut config = connector::masked(&definition.config);
        config.insert("task.class".into(), format!("{}Task", connector::POSTGRES).into());
        json!([{ "id": { "connector": name, "task": 0 }, "config": config }])
    }
}

fn internal(failure: tailwater_core::Failure) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, failure.to_string())
}

fn initial_state(state: &str) -> Result<Target, Refusal> {
    match state.to_ascii_uppercase().as_str() {
        "RUNNING" => Ok(Target::Running),
        "PAUSED" => Ok(Target::Paused),
        "STOPPED" => Ok(Target::Stopped),
        _ => Err(Refusal::bad(format!("there is no state {state}: write RUNNING, PAUSED or STOPPED"))),
    }
}

/// A name that can be addressed afterwards.
fn legal_name(name: &str, config: &Map<String, Value>) -> Result<(), Refusal> {
    let controls: Vec<String> =
        name.chars().filter(|c| c.is_ascii_control()).map(|c| u32::from(c).to_string()).collect();
    if name.is_empty() && config.get("connector.class").is_some() {
        return Err(Refusal::invalid(&["Invalid value  for configuration name: String may not be empty".into()]));
    }
    if !controls.is_empty() {
        return Err(Refusal::invalid(&[format!(
            "Invalid value {name} for configuration name: String may not contain control sequences but had the following \
             ASCII chars: {}",
            controls.join(", ")
        )]));
    }
    if name.contains(['/', '%']) || name == "." || name == ".." || name.len() > 200 {
        return Err(Refusal::invalid(&[format!(
            "Invalid value {name} for configuration name: it could not be addressed afterwards (no /, no %, not . or .., at \
             most 200 bytes)"
        )]));
    }
    Ok(())
}

/// `key=value, …` without secrets, as Connect prints a map.
pub(super) fn listed(config: &Map<String, Value>) -> String {
    let shown: Vec<String> =
        connector::texts(&connector::masked(config)).iter().map(|(key, value)| format!("{key}={value}")).collect();
    shown.join(", ")
}
