//! The database part of `init`: looks, plans, and applies what was shown, all of it or nothing.

use super::plan::{self, Plan, Step, Wanted, WantedRole};
use super::sql::TableName;
use super::{changes, facts, poll};
use crate::config::{PipelineConfig, RouteKind, SourceConfig};
use crate::housekeeping::prune;
use crate::sources::postgres::failure::classify_sql;
use crate::sources::postgres::target::Target;
use tokio_postgres::Client;

/// A statement that the server refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{shown}")]
pub struct Refused {
    /// The statement as it was shown.
    pub shown: String,
    /// SQLSTATE `42501`: the admin role may not.
    pub is_permission: bool,
    #[source]
    pub source: tokio_postgres::Error,
}

/// What a pipeline wants of its database. Without a configured table: the publication's only one, else `public.outbox`.
pub async fn wanted(client: &Client, pipeline: &PipelineConfig) -> Result<Wanted, String> {
    let source = match &pipeline.source {
        SourceConfig::Postgres(source) => source,
        SourceConfig::PostgresPoll(source) => return poll::wanted(pipeline, source),
    };
    let target = Target::resolve(&source.connection).map_err(|error| error.to_string())?;
    let table = match prune::table_of(client, pipeline).await {
        Ok(table) => table,
        Err(_) => TableName::parse("outbox"),
    };
    Ok(Wanted {
        table,
        publication: source.publication.clone(),
        slot: source.slot.clone(),
        database: target.dbname,
        role: WantedRole { name: target.user, password: target.password, replication: true },
        route: pipeline.route.outbox.clone(),
    })
}

/// Looks and plans; changes nothing.
pub async fn plan(client: &Client, pipeline: &PipelineConfig, wanted: &Wanted) -> Result<Plan, String> {
    if pipeline.route.kind == RouteKind::Changes {
        return changes::plan(client, pipeline, wanted).await;
    }
    let planned = plan_outbox(client, wanted, &pipeline.source).await;
    planned.map_err(|error| classify_sql(error, "the admin role", "the admin's database").to_string())
}

async fn plan_outbox(client: &Client, wanted: &Wanted, source: &SourceConfig) -> Result<Plan, tokio_postgres::Error> {
    let facts = facts::look(client, wanted).await?;
    Ok(match source {
        SourceConfig::Postgres(_) => plan::plan(wanted, &facts),
        SourceConfig::PostgresPoll(source) => {
            let found = poll::look(client, wanted, &facts, source).await?;
            poll::plan(wanted, &facts, &found, source)
        }
    })
}

/// Executes the steps in one transaction.
pub async fn apply(client: &mut Client, steps: &[Step]) -> Result<(), Refused> {
    let refused = |shown: &str, source: tokio_postgres::Error| Refused {
        shown: shown.to_owned(),
        is_permission: source.code().is_some_and(|code| code.code() == "42501"),
        source,
    };
    let transaction = client.transaction().await.map_err(|error| refused("BEGIN", error))?;
    // nobody waits behind us for long: CREATE PUBLICATION and ALTER … lock the table
    transaction.batch_execute("SET LOCAL lock_timeout = '10s'").await.map_err(|error| refused("BEGIN", error))?;
    for step in steps {
        let sent = match &step.verifier {
            Some(verifier) => {
                let statement = step.shown.strip_suffix("'***'").expect("the password stands at the end");
                format!("{statement}{}", verifier.expose())
            }
            None => step.shown.clone(),
        };
        transaction.batch_execute(&sent).await.map_err(|error| refused(&step.shown, error))?;
    }
    transaction.commit().await.map_err(|error| refused("COMMIT", error))
}
