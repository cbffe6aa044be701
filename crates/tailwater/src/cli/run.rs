//! `tailwater run`: builds the pipelines from the configuration, runs them with the HTTP port beside them, until a signal.
//!
//! The first SIGTERM or SIGINT drains: take nothing new, settle, confirm, leave. A second one is a crash, which is safe.

use super::notify::{self, notify};
use super::{DONE, FAILED, GlobalArgs, WRONG_USAGE};
use crate::config::connector;
use crate::config::origin::Loaded;
use crate::control::Control;
use crate::control::connect::Connect;
use crate::supervisor::store::Store;
use crate::supervisor::{Defined, Supervisor, Target};
use std::process::ExitCode;
use std::sync::Arc;
use tailwater_core::Failure;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs until stopped or until an operator must act.
pub fn run(global: &GlobalArgs) -> ExitCode {
    let loaded = match super::load(global) {
        Ok(loaded) => loaded,
        Err(error) => return super::refuse(global, &error),
    };
    for decision in &loaded.decisions {
        tracing::info!(key = %decision.key, "decided: {}", decision.text);
    }
    for notice in &loaded.notices {
        tracing::warn!(key = %notice.key, "{}", notice.text);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tailwater: start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(serve(&loaded));
    // what still runs holds nothing that is not saved
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn serve(loaded: &Loaded) -> u8 {
    let stop = CancellationToken::new();
    if let Err(error) = listen_for_signals(stop.clone()) {
        eprintln!("tailwater: listen for signals: {error}");
        return FAILED;
    }
    let supervisor = Supervisor::new(&loaded.config, stop);
    for (name, pipeline) in &loaded.config.pipelines {
        if let Err(failure) = supervisor.put(name, pipeline.clone(), Defined::File, Target::Running).await {
            eprintln!("tailwater: pipeline {name}: {failure}");
            return WRONG_USAGE;
        }
    }
    let store = Store::new(&loaded.config.state_dir);
    let restored = supervisor.restore(&store, |stored| connector::restore(&stored.config, &loaded.config)).await;
    if let Err(failure) = restored {
        eprintln!("tailwater: {failure}");
        return FAILED;
    }
    let mut beside = JoinSet::new();
    match Control::bind(&loaded.config.http, supervisor.board()).await {
        Ok(Some(control)) => {
            if loaded.config.pipelines.is_empty() {
                tracing::info!(address = %control.address, "no pipeline is configured: post connectors to this address");
            }
            let config = Arc::new(loaded.config.clone());
            match Connect::new(supervisor.clone(), store, config, control.address).await {
                Ok(connect) => beside.spawn(control.with_connect(connect).serve(CancellationToken::new())),
                Err(failure) => {
                    eprintln!("tailwater: {failure}");
                    return FAILED;
                }
            };
        }
        Ok(None) => {}
        Err(error) => {
            eprintln!("tailwater: {}", Failure::retry(error));
            return WRONG_USAGE;
        }
    }
    notify(notify::READY);
    // the HTTP port answers until the very end: a drain can be watched
    match supervisor.run_until_done().await {
        Ok(()) => DONE,
        Err(failure) => {
            eprintln!("tailwater: {failure}");
            FAILED
        }
    }
}

fn listen_for_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                tracing::warn!("second signal: leave at once; what is in flight is published again at the next start");
                std::process::exit(i32::from(FAILED));
            }
            tracing::info!("stop: drain, confirm, leave; a second signal leaves at once");
            notify(notify::STOPPING);
            stop.cancel();
        }
    });
    Ok(())
}
