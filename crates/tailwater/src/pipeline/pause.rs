//! The order to pause a pipeline, as its loop hears it. Who gives it: the supervisor.

use tokio::sync::watch;

/// The order to pause: the source is kept open and not read.
#[derive(Clone, Debug)]
pub struct Pause(watch::Receiver<bool>);

impl Pause {
    pub fn by(order: &watch::Sender<bool>) -> Self {
        Pause(order.subscribe())
    }

    /// Nobody will ever order it.
    pub fn never() -> Self {
        Pause(watch::channel(false).1)
    }

    pub(super) fn ordered(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for another order. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
