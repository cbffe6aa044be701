//! The pool of database connections, the tables and the topics. No business rule.

use crate::consume::dead_letters;
use crate::pattern::Pattern;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use tokio_postgres::NoTls;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the database URL; expected postgres://user:password@host:5432/database")]
    Url(#[source] tokio_postgres::Error),
    #[error("make the connection pool")]
    Build(#[from] deadpool_postgres::BuildError),
    #[error("connect to the database")]
    Connect(#[from] deadpool_postgres::PoolError),
    #[error("query the database")]
    Query(#[from] tokio_postgres::Error),
    #[error("make the inbox")]
    Inbox(#[from] tailwater_client::DatabaseError),
    #[error("create the topics")]
    Kafka(#[from] rdkafka::error::KafkaError),
    #[error("create topic {0}: {1}")]
    Topic(String, RDKafkaErrorCode),
}

/// A pool for `url`; nothing is connected yet.
pub fn pool(url: &str) -> Result<Pool, Error> {
    let mut config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
    config.application_name("orders");
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Ok(Pool::builder(Manager::from_config(config, NoTls, recycling)).max_size(16).build()?)
}

/// Creates the tables that are missing.
pub async fn migrate(pool: &Pool) -> Result<(), Error> {
    let mut client = pool.get().await?;
    let mut tx = client.transaction().await?;
    // One migration at a time: IF NOT EXISTS is no protection against a parallel CREATE.
    tx.execute("SELECT pg_advisory_xact_lock(hashtext('orders migrate'))", &[]).await?;
    tx.batch_execute(include_str!("schema.sql")).await?;
    tailwater_client::inbox::create_table(&mut *tx).await?;
    tx.execute(
        "INSERT INTO stock SELECT unnest(ARRAY['hat', 'scarf', 'gloves', 'boots']), 1000000 ON CONFLICT DO NOTHING",
        &[],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Creates the three topics, three partitions each, and those of their dead letters; what is there is left alone.
pub async fn create_topics(kafka: &ClientConfig) -> Result<(), Error> {
    let admin: AdminClient<DefaultClientContext> = kafka.create()?;
    let dead = Pattern::ALL.map(|pattern| dead_letters(pattern.topic()));
    let topics = Pattern::ALL.map(|pattern| NewTopic::new(pattern.topic(), 3, TopicReplication::Fixed(-1)));
    let dead_letters = dead.iter().map(|topic| NewTopic::new(topic, 1, TopicReplication::Fixed(-1)));
    let topics: Vec<_> = topics.into_iter().chain(dead_letters).collect();
    for result in admin.create_topics(&topics, &AdminOptions::new()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(Error::Topic(topic, code)),
        }
    }
    Ok(())
}
