//! Connections to the HTTP port, and what one may cost: few places, little time for a request's head, none for ever.
//!
//! Not here: what is answered, and the limits of a body (they belong to who reads it).

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A request's head has to come within this time; also how long an idle connection is kept.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// More connections at once wait for a place, in the kernel.
pub const CONNECTIONS: usize = 256;
/// A head with more bytes is refused (431).
const HEAD_BYTES: usize = 64 << 10;
/// Out of file descriptors, most likely: waiting is what helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; what is open then is cut off.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("never closed");
        let accepted = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = open.join_next() => {}
                accepted = listener.accept() => break accepted,
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the http port could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        open.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the http port ended early");
            }
            drop(place);
        });
    }
}
