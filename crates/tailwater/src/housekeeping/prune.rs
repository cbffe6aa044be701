//! Deletes outbox rows that are old enough *and* behind the delivered horizon, in small batches. It never touches a row that
//! may not have been delivered: of those the table is the only copy that a new slot could be filled from.

use super::horizon::{self, AGE_MAX, Horizon, Reached};
use super::table::{self, AgeColumn, OutboxTable};
use crate::config::{Config, PipelineConfig, PruneConfig, RouteKind};
use crate::setup::sql::{TableName, ident};
use crate::sources::postgres::failure;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// What to delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub table: TableName,
    /// All that read this table: every one of them must have passed.
    pub slots: Vec<String>,
    pub older_than: Duration,
    /// `None`: the route's timestamp column, or one whose name says it.
    pub age_column: Option<String>,
    pub timestamp_column: Option<String>,
    /// Rows per statement.
    pub batch: u32,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows deleted, or in a dry run: that would be.
    pub rows: u64,
    pub batches: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("prune the outbox")]
    Sql(#[from] tokio_postgres::Error),
    #[error("table {0} does not exist")]
    NoTable(TableName),
    #[error("age of the rows of {table}: {reason}")]
    NoAge { table: TableName, reason: String },
    #[error("slot {0} does not exist in this database: nothing shows that a row was delivered")]
    NoSlot(String),
    #[error("slot {0} was invalidated: what it had not delivered by then is only in the table")]
    SlotLost(String),
    #[error("slot {0} claims to be ahead of the server's log: its position is not to be trusted")]
    SlotBeyondEnd(String),
    #[error("slot {slot} has not confirmed what was committed so far ({behind_bytes} bytes of the log are left{})",
            if *.active { "" } else { ", and nobody reads from it" })]
    NotReached { slot: String, behind_bytes: u64, active: bool },
    #[error("the delivered horizon is two thousand million transactions old: it says nothing about rows any more")]
    HorizonTooOld,
}

impl PruneError {
    /// What to do about it.
    pub fn hint(&self, rules: &Rules) -> String {
        let table = &rules.table;
        match self {
            PruneError::Sql(error) => sql_hint(error, table),
            PruneError::NoTable(_) => "correct `table`, or create it with `tailwater init`".into(),
            PruneError::NoAge { .. } => {
                "name the column: age_column in [pipelines.NAME.prune], or --age-column; or delete whatever is delivered: \
                 --older-than 0s"
                    .into()
            }
            PruneError::NoSlot(_) => "start the relay once (`tailwater run`): it creates the slot".into(),
            PruneError::SlotLost(slot) | PruneError::SlotBeyondEnd(slot) => {
                format!("nothing is deleted. Look at `tailwater status`; the slot: SELECT * FROM pg_replication_slots WHERE \
                         slot_name = '{slot}';")
            }
            PruneError::NotReached { active: false, .. } => "start the relay: nothing is deleted before".into(),
            PruneError::NotReached { .. } => {
                "nothing was deleted. Try again when the relay has caught up (`tailwater status` shows its lag), or wait \
                 longer: --wait 10m"
                    .into()
            }
            PruneError::HorizonTooOld => "run it again: a new horizon is taken each time".into(),
        }
    }
}

fn sql_hint(error: &tokio_postgres::Error, table: &TableName) -> String {
    let Some(db) = error.as_db_error() else { return "look at the server's log, and try again".into() };
    match db.code().code() {
        "42501" => {
            format!("as the table's owner: GRANT SELECT, DELETE ON {table} TO the role of the admin connection;")
        }
        // observed: "cannot delete from table … because it does not have a replica identity and publishes deletes"
        "55000" => format!(
            "a publication of {table} sends deletes, which nobody reads, and the table has no primary key: ALTER PUBLICATION \
             its_name SET (publish = 'insert');"
        ),
        "55P03" => "a transaction holds locks on these rows: try again later".into(),
        _ => "see the server's message".into(),
    }
}

impl Rules {
    /// The rules for one pipeline: its slot, and those of all pipelines that read the same table by the same address.
    pub fn of(config: &Config, pipeline: &PipelineConfig, table: TableName) -> Rules {
        let own = pipeline.source.log().expect("the caller has asked for the table, which refuses others");
        let readers = config.pipelines.values().filter_map(|other| other.source.log());
        let mut slots: Vec<String> = readers
            .filter(|other| {
                let same_table = other.table.is_empty() || TableName::parse(&other.table) == table;
                same_table && other.connection == own.connection
            })
            .map(|other| other.slot.clone())
            .chain([own.slot.clone()])
            .collect();
        slots.sort();
        slots.dedup();
        let prune = pipeline.prune.clone().unwrap_or_default();
        let PruneConfig { older_than, age_column, batch, .. } = prune;
        let timestamp_column = pipeline.route.outbox.timestamp_column.clone();
        Rules { table, slots, older_than, age_column, timestamp_column, batch }
    }
}

/// Takes a horizon, waits until the slots have passed it (at most `limit`), deletes. A dry run writes nothing at all.
pub async fn once(
    client: &Client,
    rules: &Rules,
    limit: Duration,
    dry_run: bool,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Pruned, PruneError> {
    let table = find(client, rules).await?;
    if !dry_run {
        // Before S and L: L then lies behind something that only a living relay can confirm. A slot that was just
        // created by hand stands at the end of the log and would otherwise vouch for rows it never saw (T16).
        horizon::nudge(client).await?;
    }
    let horizon = horizon::take(client).await?;
    let reached =
        horizon::wait(client, &rules.slots, &horizon, limit, !dry_run, |reached| progress(Progress::Waiting(reached)));
    settled(reached.await?)?;
    if dry_run {
        return count(client, rules, &table, &horizon).await;
    }
    delete(client, rules, &table, &horizon, |pruned| progress(Progress::Deleted(pruned))).await
}

/// What a caller may show.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    Waiting(&'a Reached),
    Deleted(Pruned),
}

/// Looks the table up, and prepares the session: no statement here waits long for another's lock.
pub async fn find(client: &Client, rules: &Rules) -> Result<OutboxTable, PruneError> {
    client.batch_execute("SET lock_timeout = '5s'; SET default_transaction_isolation = 'read committed'").await?;
    let (named, timestamp) = (rules.age_column.as_deref(), rules.timestamp_column.as_deref());
    table::look_up(client, &rules.table, named, timestamp, !rules.older_than.is_zero()).await
}

/// The horizon may be used, or why not.
pub fn settled(reached: Reached) -> Result<(), PruneError> {
    match reached {
        Reached::Yes => Ok(()),
        Reached::NotYet { slot, behind_bytes, active } => Err(PruneError::NotReached { slot, behind_bytes, active }),
        Reached::Missing { slot } => Err(PruneError::NoSlot(slot)),
        Reached::Lost { slot } => Err(PruneError::SlotLost(slot)),
        Reached::BeyondEnd { slot } => Err(PruneError::SlotBeyondEnd(slot)),
    }
}

/// Deletes what is old and behind `horizon`, which the slots must have passed. Each batch is a transaction of its own, and
/// between two of them as much time passes as one took: the relay and the services come first.
pub async fn delete(
    client: &Client,
    rules: &Rules,
    table: &OutboxTable,
    horizon: &Horizon,
    mut progress: impl FnMut(Pruned),
) -> Result<Pruned, PruneError> {
    if !horizon::is_comparable(client, horizon).await? {
        return Err(PruneError::HorizonTooOld);
    }
    let mut pruned = Pruned::default();
    for leaf in &table.leaves {
        let statement = client.prepare(&delete_sql(leaf, table.age.as_ref())).await?;
        loop {
            let started = Instant::now();
            let parameters = Parameters::new(rules, horizon);
            let limit = i64::from(rules.batch.max(1));
            let deleted = client.execute(&statement, &parameters.with(&limit)).await?;
            if deleted == 0 {
                break;
            }
            pruned = Pruned { rows: pruned.rows + deleted, batches: pruned.batches + 1 };
            progress(pruned);
            if deleted < limit.unsigned_abs() {
                break;
            }
            tokio::time::sleep(started.elapsed().min(Duration::from_secs(1))).await;
        }
    }
    Ok(pruned)
}

/// Counts what [`delete`] would delete.
async fn count(client: &Client, rules: &Rules, table: &OutboxTable, horizon: &Horizon) -> Result<Pruned, PruneError> {
    let mut rows = 0;
    for leaf in &table.leaves {
        let sql = format!("SELECT count(*) FROM ONLY {leaf} WHERE {}", condition(table.age.as_ref()));
        let row = client.query_one(&sql, &Parameters::new(rules, horizon).refs()).await?;
        rows += row.get::<_, i64>(0).unsigned_abs();
    }
    Ok(Pruned { rows, batches: 0 })
}

/// `$1` age in seconds, `$2` S.xmin, `$3` the limit on S's own age.
///
/// The age of S is looked at in 64 bits inside the same statement, since `age` wraps at 2³¹: beyond it every row would look
/// delivered. Rows that are that old themselves look undelivered, which is safe.
fn condition(age: Option<&AgeColumn>) -> String {
    let old = match age {
        Some(AgeColumn { name, without_zone: true }) => {
            format!("{} < (now() - make_interval(secs => $1)) AT TIME ZONE 'UTC'", ident(name))
        }
        Some(AgeColumn { name, without_zone: false }) => {
            format!("{} < now() - make_interval(secs => $1)", ident(name))
        }
        None => "$1::float8 = 0".into(),
    };
    format!(
        "{old} AND age(xmin) > age($2::text::xid8::xid) \
         AND pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $2::text::bigint < $3::bigint"
    )
}

/// The conditions stand outside too: a row that changed between the two has a new version, with a new xmin.
fn delete_sql(leaf: &TableName, age: Option<&AgeColumn>) -> String {
    let condition = condition(age);
    let order = age.map_or_else(String::new, |age| format!(" ORDER BY {}", ident(&age.name)));
    format!(
        "DELETE FROM ONLY {leaf} WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY {leaf} WHERE {condition}{order} LIMIT \
         $4::bigint)) AND {condition}"
    )
}

struct Parameters {
    seconds: f64,
    xmin: String,
    age_max: i64,
}

impl Parameters {
    fn new(rules: &Rules, horizon: &Horizon) -> Self {
        let age_max = i64::try_from(AGE_MAX).expect("a constant below 2^31");
        Parameters { seconds: rules.older_than.as_secs_f64(), xmin: horizon.xmin.to_string(), age_max }
    }

    fn refs(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.seconds, &self.xmin, &self.age_max]
    }

    fn with<'a>(&'a self, limit: &'a i64) -> [&'a (dyn ToSql + Sync); 4] {
        let [seconds, xmin, age_max] = self.refs();
        [seconds, xmin, age_max, limit]
    }
}

/// The table that is read: the configured one, else the only one of the publication.
pub async fn table_of(client: &Client, pipeline: &PipelineConfig) -> Result<TableName, String> {
    let Some(source) = pipeline.source.log() else {
        return Err("this pipeline polls its table: rows are deleted or marked when they are published".into());
    };
    if pipeline.route.kind == RouteKind::Changes {
        return Err("this pipeline publishes change events: the rows are not ours to delete".into());
    }
    if !source.table.is_empty() {
        return Ok(TableName::parse(&source.table));
    }
    const TABLES: &str = "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1";
    let rows = client
        .query(TABLES, &[&source.publication])
        .await
        .map_err(|error| failure::classify_sql(error, "the admin role", "the database").to_string())?;
    match rows.as_slice() {
        [only] => Ok(TableName { schema: only.get(0), name: only.get(1) }),
        several => Err(format!(
            "publication {} has {} tables: set `table` in the pipeline's source to say which one is the outbox",
            source.publication,
            several.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_limits_by_place_and_asks_every_row_again() {
        let leaf = TableName::parse("public.outbox");
        let age = AgeColumn { name: "occurred_at".into(), without_zone: false };
        let sql = delete_sql(&leaf, Some(&age));
        assert_eq!(sql.matches("age(xmin) > age($2::text::xid8::xid)").count(), 2);
        assert_eq!(sql.matches("occurred_at < now()").count(), 2);
        assert!(sql.contains("ORDER BY occurred_at LIMIT $4"));
        assert!(!sql.contains("pg_visible_in_snapshot"));
    }
}
