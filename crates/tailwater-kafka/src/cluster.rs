//! Questions about the cluster itself.

use crate::client;
use crate::config::KafkaConfig;
use crate::context::{Context, Events};
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::sync::Arc;
use std::time::Duration;

/// The id that the cluster gave itself; `None` if it does not answer within `limit`. Runs on a thread of its own: the client
/// library blocks.
pub async fn id(config: KafkaConfig, limit: Duration) -> Option<String> {
    let (send, answer) = tokio::sync::oneshot::channel();
    let ask = move || {
        let context = Context { events: Arc::new(Events::default()) };
        let client: Option<BaseConsumer<Context>> =
            client::connection(&config).ok().and_then(|settings| settings.create_with_context(context).ok());
        let id = client.and_then(|client| client.client().fetch_cluster_id(limit));
        drop(send.send(id)); // whoever asked may be gone
    };
    std::thread::Builder::new().name("kafka-cluster".into()).spawn(ask).ok()?;
    answer.await.ok().flatten()
}
