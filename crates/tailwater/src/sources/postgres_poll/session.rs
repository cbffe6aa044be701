//! The one database session of a polling relay. Its life is the relay's right to rows: locks, fetching, deleting all happen
//! on it, so whoever has lost it can do none of these.

use crate::sources::postgres::client::{PINNED, each_host};
use crate::sources::postgres::failure::Error;
use crate::sources::postgres::target::Target;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// An open session.
pub(super) struct Session {
    pub client: Client,
    pub pid: i32,
    /// Rang when the trigger told of new rows.
    pub bell: Arc<Notify>,
    /// Why the session ended, once it has.
    pub ended: watch::Receiver<Option<String>>,
}

/// Opens the session, with the same output settings as the log has.
pub(super) async fn open(target: &Target) -> Result<Session, Error> {
    let mut session = each_host(target, async |target, socket, _| {
        let mut config = tokio_postgres::Config::new();
        config.user(&target.user).dbname(&target.dbname).ssl_mode(tokio_postgres::config::SslMode::Disable);
        // application_name and client_encoding are tokio-postgres's own to send
        let own = ["application_name", "client_encoding"];
        let pinned: Vec<String> = PINNED
            .iter()
            .filter(|(name, _)| !own.contains(name))
            .map(|(name, value)| format!("-c {name}={value}"))
            .collect();
        config.application_name("tailwater").options(pinned.join(" "));
        if let Some(password) = &target.password {
            config.password(password.expose());
        }
        let (client, mut connection) = config.connect_raw(socket, NoTls).await?;
        let (bell, (tell, ended)) = (Arc::new(Notify::new()), watch::channel(None));
        let ring = bell.clone();
        tokio::spawn(async move {
            let end = loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(_))) => ring.notify_one(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.to_string(),
                    None => break "closed".to_owned(),
                }
            };
            tell.send_replace(Some(end));
        });
        Ok(Session { client, pid: 0, bell, ended })
    })
    .await?;
    // Only index scans in order of the order column keep their cost flat, whatever the statistics say.
    // A row that somebody else has locked is waited for by us, not by the session.
    let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan; \
                    SET jit = off; SET lock_timeout = '2s'";
    session.client.batch_execute(settings).await?;
    session.pid = session.client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.get(0);
    Ok(session)
}
