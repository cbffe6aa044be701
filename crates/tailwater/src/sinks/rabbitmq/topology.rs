//! What should exist at the broker: planned from the configuration, looked at, and made where it is missing.
//!
//! What exists is never changed or deleted: AMQP cannot, and a queue may hold messages. Differences are said, with the
//! steps to type. AMQP shows existence only; arguments, bindings and policies need `management_url`.

use super::config::{Binding, DeadLetter, DeadLetterBy, Exchange, Queue, QueueKind, RabbitmqConfig, Topology};
use super::connect::{self, Connection, endpoints};
use super::declare;
use super::failure::{AmqpError, classify};
use super::management::{Management, ManagementError};
use super::policy::{self, Policy, Verdict, quote};
use serde::Serialize;
use serde_json::Value;
use tailwater_core::Failure;

/// One thing that should exist.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// For people: `queue report-service (classic, durable)`.
    pub text: String,
    /// The line to type instead.
    pub command: String,
    pub state: StepState,
    #[serde(skip)]
    target: Target,
}

impl Step {
    /// Whether [`apply`] would do something: it is missing, or unseen and harmless to repeat.
    pub fn is_to_do(&self) -> bool {
        match self.state {
            StepState::Missing | StepState::Planned => true,
            StepState::Unseen { .. } => matches!(self.target, Target::Binding(_)),
            StepState::Present | StepState::Differs { .. } | StepState::Made => false,
        }
    }
}

/// How it stands with a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    /// Not looked at yet.
    Planned,
    /// Is there as configured, as far as can be seen.
    Present,
    /// To be made.
    Missing,
    /// Is there and differs; `mend` is what to do by hand.
    Differs { found: String, mend: String },
    /// Cannot be seen.
    Unseen { why: String },
    /// Made just now.
    Made,
}

#[derive(Clone, Debug, PartialEq)]
enum Target {
    Exchange(Exchange),
    Queue(Queue),
    Binding(Binding),
    Policy { queue: Queue, dead_letter: DeadLetter, policy: Policy },
}

/// Everything the configuration asks for, in the order in which it can be made. Looks at nothing.
pub fn plan(config: &RabbitmqConfig) -> Vec<Step> {
    let virtual_host = virtual_host(config);
    let topology = &config.topology;
    let mut steps = vec![];
    let mut step = |text: String, command: String, target| {
        steps.push(Step { text, command, state: StepState::Planned, target });
    };
    let admin = format!("rabbitmqadmin --vhost={}", quote(&virtual_host));
    for e in &topology.exchanges {
        step(
            format!("exchange {} ({}, {})", e.name, e.kind, durable(e.durable)),
            format!("{admin} declare exchange name={} type={} durable={}", quote(&e.name), e.kind, e.durable),
            Target::Exchange(e.clone()),
        );
    }
    for q in &topology.queues {
        let arguments = Value::Object(declare::arguments(q).into_iter().map(|(k, v)| (k.into(), v.into())).collect());
        step(
            format!("queue {} ({}, {})", q.name, kind(q.kind), durable(q.durable)),
            format!(
                "{admin} declare queue name={} durable={} arguments={}",
                quote(&q.name),
                q.durable,
                quote(&arguments.to_string())
            ),
            Target::Queue(q.clone()),
        );
    }
    for b in &topology.bindings {
        step(
            format!("binding of queue {} to exchange {} by {}", b.queue, b.exchange, b.routing_key),
            format!(
                "{admin} declare binding source={} destination={} routing_key={}",
                quote(&b.exchange),
                quote(&b.queue),
                quote(&b.routing_key)
            ),
            Target::Binding(b.clone()),
        );
    }
    for queue in &topology.queues {
        let Some(dead_letter) = queue.dead_letter.clone().filter(|d| d.by == DeadLetterBy::Policy) else { continue };
        let policy = policy::own(queue, &dead_letter);
        step(
            format!("policy {}: rejected messages of queue {} go to {}", policy.name, queue.name, goal(&dead_letter)),
            policy::command(&virtual_host, &policy),
            Target::Policy { queue: queue.clone(), dead_letter, policy },
        );
    }
    steps
}

/// The plan, each step compared with the broker as far as it can be seen.
pub async fn examine(config: &RabbitmqConfig) -> Result<Vec<Step>, Failure> {
    let mut steps = plan(config);
    let mut connection = connected(config).await?;
    let api = management(config)?;
    let virtual_host = virtual_host(config);
    for step in &mut steps {
        step.state = look(step, &mut connection, api.as_ref(), &virtual_host)
            .await
            .map_err(|error| classify(error, &connection.identity))?;
    }
    connection.say_goodbye().await;
    Ok(steps)
}

/// Makes what is missing (or unseen and harmless to repeat). Steps that it cannot do keep their state and their command.
pub async fn apply(config: &RabbitmqConfig, steps: &mut [Step]) -> Result<(), Failure> {
    let mut connection = connected(config).await?;
    let api = management(config)?;
    let virtual_host = virtual_host(config);
    for step in steps {
        if !step.is_to_do() {
            continue;
        }
        let made = match &step.target {
            Target::Exchange(e) => declare::exchange(&mut connection, e).await,
            Target::Queue(q) => declare::queue(&mut connection, q).await,
            Target::Binding(b) => declare::binding(&mut connection, b).await,
            Target::Policy { policy, .. } => match &api {
                Some(api) => {
                    api.set_policy(&virtual_host, policy).await.map_err(unseen_failure)?;
                    Ok(())
                }
                None => {
                    step.state = no_management();
                    continue;
                }
            },
        };
        made.map_err(|error| classify(error, &connection.identity))?;
        step.state = StepState::Made;
    }
    connection.say_goodbye().await;
    Ok(())
}

/// For `run` with `declare = true`: what is missing is made, what exists is left as it is. Policies only by the API.
pub async fn ensure(connection: &mut Connection, topology: &Topology) -> Result<(), AmqpError> {
    for exchange in &topology.exchanges {
        if !declare::exchange_exists(connection, &exchange.name).await? {
            declare::exchange(connection, exchange).await?;
            tracing::info!(exchange = %exchange.name, "exchange declared");
        }
    }
    for queue in &topology.queues {
        if !declare::queue_exists(connection, &queue.name).await? {
            declare::queue(connection, queue).await?;
            tracing::info!(queue = %queue.name, "queue declared");
        }
    }
    for binding in &topology.bindings {
        declare::binding(connection, binding).await?;
    }
    Ok(())
}

/// The policies of `run` with `declare = true`: sets what is missing, says what contradicts. Publishing needs none of
/// them, so trouble here is a warning.
pub async fn ensure_policies(config: &RabbitmqConfig) {
    let steps: Vec<Step> =
        plan(config).into_iter().filter(|step| matches!(step.target, Target::Policy { .. })).collect();
    if steps.is_empty() {
        return;
    }
    let Ok(Some(api)) = management(config) else {
        for step in steps {
            tracing::warn!(step = %step.text, command = %step.command, "set this policy by hand: no management_url is given");
        }
        return;
    };
    let virtual_host = virtual_host(config);
    for mut step in steps {
        let state = look_at_policy(&mut step, &api, &virtual_host).await;
        if let (StepState::Missing, Target::Policy { policy, .. }) = (&state, &step.target) {
            match api.set_policy(&virtual_host, policy).await {
                Ok(()) => tracing::info!(policy = %policy.name, "policy set"),
                Err(error) => tracing::warn!(%error, command = %step.command, "policy not set"),
            }
        } else if state != StepState::Present {
            tracing::warn!(step = %step.text, ?state, command = %step.command, "dead-lettering is not as configured");
        }
    }
}

async fn look(
    step: &mut Step,
    connection: &mut Connection,
    api: Option<&Management>,
    virtual_host: &str,
) -> Result<StepState, AmqpError> {
    let exists = match &step.target {
        Target::Exchange(e) => declare::exchange_exists(connection, &e.name).await?,
        Target::Queue(q) => declare::queue_exists(connection, &q.name).await?,
        Target::Binding(b) => {
            declare::queue_exists(connection, &b.queue).await?
                && declare::exchange_exists(connection, &b.exchange).await?
        }
        Target::Policy { .. } => true,
    };
    if !exists {
        return Ok(StepState::Missing);
    }
    let Some(api) = api else {
        return Ok(match &step.target {
            Target::Exchange(_) | Target::Queue(_) => StepState::Unseen {
                why: "it exists; its type and arguments are visible with management_url only".into(),
            },
            _ => no_management(),
        });
    };
    Ok(match step.target.clone() {
        Target::Exchange(wanted) => match api.exchange(virtual_host, &wanted.name).await {
            Ok(seen) => compare_exchange(&wanted, seen.map(|s| (s.kind, s.durable))),
            Err(error) => unseen(error),
        },
        Target::Queue(wanted) => match api.queue(virtual_host, &wanted.name).await {
            Ok(Some(seen)) => compare_queue(&wanted, &seen.kind, seen.durable, &seen.arguments),
            Ok(None) => StepState::Missing,
            Err(error) => unseen(error),
        },
        Target::Binding(wanted) => match api.bindings(virtual_host, &wanted.queue).await {
            Ok(seen) if seen.iter().any(|b| b.source == wanted.exchange && b.routing_key == wanted.routing_key) => {
                StepState::Present
            }
            Ok(_) => StepState::Missing,
            Err(error) => unseen(error),
        },
        Target::Policy { .. } => look_at_policy(step, api, virtual_host).await,
    })
}

/// Also puts the merged policy into the step, in place of the plain one.
async fn look_at_policy(step: &mut Step, api: &Management, virtual_host: &str) -> StepState {
    let Target::Policy { queue, dead_letter, policy } = &mut step.target else {
        unreachable!("asked for policies only")
    };
    let policies = match api.policies(virtual_host).await {
        Ok(policies) => policies,
        Err(error) => return unseen(error),
    };
    match policy::decide(queue, dead_letter, &policies) {
        Verdict::Fine(_) => StepState::Present,
        Verdict::Set(merged) => {
            step.command = policy::command(virtual_host, &merged);
            *policy = merged;
            StepState::Missing
        }
        Verdict::Contradiction { policy, found } => StepState::Differs {
            found: format!("policy `{policy}` applies to this queue and has {found}"),
            mend: format!("change policy `{policy}`, or configure the dead-lettering that it sets"),
        },
    }
}

fn compare_exchange(wanted: &Exchange, seen: Option<(String, bool)>) -> StepState {
    match seen {
        None => StepState::Missing,
        Some((kind, is_durable)) if kind == wanted.kind && is_durable == wanted.durable => StepState::Present,
        Some((kind, is_durable)) => StepState::Differs {
            found: format!("it is {kind}, {}", durable(is_durable)),
            mend: format!(
                "configure it as it is, or delete it (rabbitmqadmin delete exchange name={}) and declare it and its bindings anew",
                quote(&wanted.name)
            ),
        },
    }
}

/// Arguments beat policies: an `x-dead-letter-…` argument cannot be corrected by a policy.
fn compare_queue(
    wanted: &Queue,
    seen_kind: &str,
    seen_durable: bool,
    arguments: &serde_json::Map<String, Value>,
) -> StepState {
    let mut found = vec![];
    if seen_durable != wanted.durable {
        found.push(durable(seen_durable).to_owned());
    }
    let seen_kind = match arguments.get("x-queue-type").and_then(Value::as_str) {
        Some(kind) => kind,
        None if seen_kind.is_empty() => "classic",
        None => seen_kind,
    };
    if seen_kind != kind(wanted.kind) {
        found.push(format!("type {seen_kind}"));
    }
    let wanted_arguments = declare::arguments(wanted);
    for name in ["x-dead-letter-exchange", "x-dead-letter-routing-key"] {
        let is = arguments.get(name).and_then(Value::as_str);
        let should = wanted_arguments.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value);
        // By policy the argument need only agree with what the policy would say.
        let policy_value = wanted.dead_letter.as_ref().and_then(|d| match name {
            "x-dead-letter-exchange" => Some(&*d.exchange),
            _ => d.routing_key.as_deref(),
        });
        match (is, should) {
            (is, should) if is == should => {}
            (Some(is), None) if policy_value == Some(is) => {}
            (is, _) => found.push(format!("{name} = {}", is.unwrap_or("(none)"))),
        }
    }
    if found.is_empty() {
        return StepState::Present;
    }
    StepState::Differs {
        found: found.join(", "),
        mend: format!(
            "arguments of an existing queue cannot be changed. Stop its consumers, let them empty it (or move its messages \
             with a shovel), then: rabbitmqctl delete_queue {} --if-empty, and run init again",
            quote(&wanted.name)
        ),
    }
}

fn virtual_host(config: &RabbitmqConfig) -> String {
    endpoints(config)
        .ok()
        .and_then(|all| all.into_iter().next())
        .map_or_else(|| config.virtual_host.clone().unwrap_or_else(|| "/".into()), |e| e.virtual_host)
}

async fn connected(config: &RabbitmqConfig) -> Result<Connection, Failure> {
    connect::connect(config, "tailwater topology").await.map_err(|(error, identity)| classify(error, &identity))
}

fn management(config: &RabbitmqConfig) -> Result<Option<Management>, Failure> {
    let Some(url) = &config.management_url else { return Ok(None) };
    Management::new(url, config.ca_file.clone()).map(Some).map_err(|e| Failure::fatal("correct management_url", e))
}

fn unseen(error: ManagementError) -> StepState {
    StepState::Unseen { why: error.to_string() }
}

fn no_management() -> StepState {
    StepState::Unseen { why: "visible with management_url only; the command can be repeated without harm".into() }
}

fn unseen_failure(error: ManagementError) -> Failure {
    match error {
        ManagementError::Unreachable { .. } => Failure::retry(error),
        error => Failure::fatal("type the rabbitmqctl line shown with the step instead", error),
    }
}

fn durable(durable: bool) -> &'static str {
    if durable { "durable" } else { "not durable" }
}

fn kind(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
    }
}

fn goal(dead_letter: &DeadLetter) -> String {
    match (&*dead_letter.exchange, &dead_letter.routing_key) {
        ("", Some(queue)) => format!("queue {queue}"),
        ("", None) => "the queue named like their routing key".into(),
        (exchange, Some(key)) => format!("exchange {exchange} with key {key}"),
        (exchange, None) => format!("exchange {exchange}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn queue(by: DeadLetterBy) -> Queue {
        let dead = DeadLetter { exchange: String::new(), routing_key: Some("dlq".into()), by };
        Queue { name: "q".into(), kind: QueueKind::Classic, durable: true, dead_letter: Some(dead) }
    }

    #[test]
    fn what_exists_is_compared_with_what_is_wanted() {
        let dead = json!({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"});
        let loops = json!({"x-dead-letter-exchange": "events", "x-dead-letter-routing-key": "report.dlq"});
        let none = json!({});
        for (by, arguments, kind, expected) in [
            (DeadLetterBy::Policy, &none, "classic", None),
            (DeadLetterBy::Policy, &dead, "classic", None),
            (DeadLetterBy::Policy, &loops, "classic", Some("x-dead-letter-exchange = events")),
            (DeadLetterBy::Argument, &dead, "classic", None),
            (DeadLetterBy::Argument, &none, "classic", Some("x-dead-letter-exchange = (none)")),
            (DeadLetterBy::Policy, &none, "quorum", Some("type quorum")),
        ] {
            let Value::Object(arguments) = arguments else { panic!() };
            match (compare_queue(&queue(by), kind, true, arguments), expected) {
                (StepState::Present, None) => {}
                (StepState::Differs { found, mend }, Some(part)) => {
                    assert!(found.contains(part) && mend.contains("delete_queue q"), "{found} {mend}");
                }
                (got, expected) => panic!("{by:?} {arguments:?}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn the_plan_is_text_and_lines_to_type() {
        let config = RabbitmqConfig {
            urls: vec![crate::config::secret::Secret::new("amqp://h/team")],
            topology: Topology {
                declare: true,
                exchanges: vec![Exchange { name: "events".into(), kind: "topic".into(), durable: true }],
                queues: vec![queue(DeadLetterBy::Policy)],
                bindings: vec![Binding {
                    exchange: "events".into(),
                    queue: "q".into(),
                    routing_key: "report.*".into(),
                }],
            },
            ..RabbitmqConfig::default()
        };
        let commands: Vec<String> = plan(&config).into_iter().map(|s| s.command).collect();
        assert_eq!(
            commands,
            [
                "rabbitmqadmin --vhost=team declare exchange name=events type=topic durable=true",
                "rabbitmqadmin --vhost=team declare queue name=q durable=true arguments='{}'",
                "rabbitmqadmin --vhost=team declare binding source=events destination=q routing_key='report.*'",
                r#"rabbitmqctl set_policy -p team tailwater-q '^q$' '{"dead-letter-exchange":"","dead-letter-routing-key":"dlq"}' --priority 10 --apply-to queues"#,
            ]
        );
    }
}
