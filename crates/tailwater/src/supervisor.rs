//! Starts pipelines, stops them together, says how it ended. One pipeline's end never takes another with it.
//!
//! Not here: retries (lanes and the pipeline's own reopening). What arrives here is final.

use crate::metrics::{State, Status};
use crate::pipeline::{Parts, Pipeline};
use std::sync::Arc;
use tailwater_core::Failure;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs all pipelines until `stop` and drained, or until the last one has ended. The first failure decides.
pub async fn run(pipelines: Vec<Parts>, stop: CancellationToken) -> Result<(), Failure> {
    let mut running = JoinSet::new();
    for parts in pipelines {
        let (status, stop) = (parts.status.clone(), stop.clone());
        running.spawn(async move {
            let outcome = Pipeline::new(parts).run(stop).await;
            if let Err(failure) = &outcome {
                report(&status, failure);
            }
            outcome
        });
    }
    let mut first = Ok(());
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => first = first.and(Err(failure)),
            // an invariant does not hold: crash before anything false is confirmed
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    first
}

fn report(status: &Arc<Status>, failure: &Failure) {
    tracing::error!(pipeline = %status.name, error = %failure, "pipeline ended");
    if matches!(status.state(), State::GapPossible { .. }) {
        return; // the source said it better
    }
    let hint = match failure {
        Failure::Fatal { hint, .. } => hint.to_string(),
        Failure::Retry { .. } => String::new(),
    };
    let error = failure.to_string();
    let error = error.split("\n  what to do: ").next().unwrap_or_default().to_owned();
    status.set_state(State::Failed { error, hint });
}
