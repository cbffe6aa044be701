//! Ordinary SQL sessions from the same settings as the stream: same hosts, same TLS, same password.

use super::client::{Client as Walsender, each_host};
use super::config::Connection;
use super::failure::{Error, Names, classify, classify_sql};
use super::target::{Session, Target};
use tailwater_core::Failure;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Opens an ordinary SQL session. It lives as long as the client.
pub async fn sql(connection: &Connection) -> Result<Client, Failure> {
    let target = Target::resolve(connection).map_err(|error| classify(error, &Names::default()))?;
    match session(&target).await {
        Ok((client, _)) => Ok(client),
        Err(error) => Err(classify_sql(error, &target.user, &target.dbname)),
    }
}

/// Which cluster a connection leads to: system identifier and timeline.
pub async fn system(connection: &Connection) -> Result<(u64, u32), Failure> {
    let target = Target::resolve(connection).map_err(|error| classify(error, &Names::default()))?;
    let asked = async { super::slot::identify(&mut Walsender::connect(&target).await?).await };
    let system = asked.await.map_err(|error: Error| classify(error, &Names::default()))?;
    Ok((system.id, system.timeline))
}

/// A session and how it ends: the task returns the error that ended it (e.g. 57P01 when the server shuts down).
pub(super) async fn session(target: &Target) -> Result<(Client, JoinHandle<Option<Error>>), Error> {
    each_host(target, async |target, socket, endpoint| {
        let mut config = tokio_postgres::Config::new();
        config
            .user(&target.user)
            .dbname(&target.dbname)
            .application_name("tailwater")
            // Our own socket is encrypted already, or is not meant to be.
            .ssl_mode(tokio_postgres::config::SslMode::Disable);
        if let Some(password) = &target.password {
            config.password(password.expose());
        }
        let (client, connection) = config.connect_raw(socket, NoTls).await?;
        let task = tokio::spawn(async move { connection.await.err().map(Error::from) });
        let (query, good, name) = match target.session {
            Session::Any => return Ok((client, task)),
            Session::ReadWrite => ("SELECT current_setting('transaction_read_only') = 'off'", true, "read-write"),
            Session::Primary => ("SELECT pg_is_in_recovery()", false, "primary"),
        };
        let answer: bool = client.query_one(query, &[]).await?.get(0);
        if answer == good { Ok((client, task)) } else { Err(Error::WrongSession(endpoint.to_string(), name)) }
    })
    .await
}
