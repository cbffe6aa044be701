//! The broker's part of `init`: what the topology of the configuration lacks there. Nothing that exists is altered.

use crate::config::{PipelineConfig, SinkConfig};
use crate::sinks::rabbitmq::config::{RabbitmqConfig, Topology};
use crate::sinks::rabbitmq::loops::{self, DeadLetterLoop};
use crate::sinks::rabbitmq::topology::{self, Step, StepState};
use std::fmt::Write;
use tailwater_core::Failure;

/// How it stands with the broker.
#[derive(Debug)]
pub enum Broker {
    /// The configuration asks for nothing there.
    Nothing,
    /// Refused: rejected messages would run in circles.
    Loops(Vec<DeadLetterLoop>),
    Steps(Vec<Step>),
}

/// Looks; changes nothing.
pub async fn look(pipeline: &PipelineConfig) -> Result<Broker, Failure> {
    let Some(config) = rabbitmq(pipeline) else { return Ok(Broker::Nothing) };
    let loops = loops::find_dead_letter_loops(&config.topology);
    if !loops.is_empty() {
        return Ok(Broker::Loops(loops));
    }
    topology::examine(config).await.map(Broker::Steps)
}

/// Makes what is missing.
pub async fn apply(pipeline: &PipelineConfig, broker: &mut Broker) -> Result<(), Failure> {
    match (rabbitmq(pipeline), broker) {
        (Some(config), Broker::Steps(steps)) => topology::apply(config, steps).await,
        _ => Ok(()),
    }
}

fn rabbitmq(pipeline: &PipelineConfig) -> Option<&RabbitmqConfig> {
    match &pipeline.sink {
        SinkConfig::Rabbitmq(config) if wants_something(&config.topology) => Some(config),
        _ => None,
    }
}

fn wants_something(topology: &Topology) -> bool {
    !(topology.exchanges.is_empty() && topology.queues.is_empty() && topology.bindings.is_empty())
}

impl Broker {
    /// Something would be made.
    pub fn is_to_do(&self) -> bool {
        matches!(self, Broker::Steps(steps) if steps.iter().any(Step::is_to_do))
    }

    /// Something is not as configured, and stays so.
    pub fn has_problems(&self) -> bool {
        match self {
            Broker::Nothing => false,
            Broker::Loops(_) => true,
            Broker::Steps(steps) => steps.iter().any(|step| matches!(step.state, StepState::Differs { .. })),
        }
    }

    /// What is shown before anything happens, each step with the line that does the same by hand.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let steps = match self {
            Broker::Nothing => return out,
            Broker::Loops(loops) => {
                for found in loops {
                    let _ = writeln!(out, "-- PROBLEM: {found}");
                }
                let _ = writeln!(out, "-- nothing is made at the broker before that is mended");
                return out;
            }
            Broker::Steps(steps) => steps,
        };
        for step in steps {
            let _ = match &step.state {
                StepState::Present | StepState::Made => Ok(()),
                StepState::Missing | StepState::Planned => {
                    writeln!(out, "-- broker: make {}\n--   by hand: {}", step.text, step.command)
                }
                StepState::Unseen { why } if step.is_to_do() => {
                    writeln!(
                        out,
                        "-- broker: make {} (perhaps again: {why})\n--   by hand: {}",
                        step.text, step.command
                    )
                }
                StepState::Unseen { why } => {
                    writeln!(out, "-- note: {}: {why}\n--   by hand: {}", step.text, step.command)
                }
                StepState::Differs { found, mend } => {
                    writeln!(out, "-- PROBLEM: {}: found {found}\n--   mend it with: {mend}", step.text)
                }
            };
        }
        if !self.is_to_do() {
            out.push_str("-- broker: nothing to do\n");
        }
        out
    }
}
