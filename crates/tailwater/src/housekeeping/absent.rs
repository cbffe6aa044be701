//! A pipeline that does not run here, as far as the state directory and the database tell. Changes nothing, not even the
//! state directory.

use crate::checkpoints::file::FileCheckpoints;
use crate::config::{Config, PipelineConfig};
use crate::control::report::{Lsns, PipelineReport, StateReport};
use crate::sources::postgres::config::PostgresConfig;
use crate::sources::postgres::connect;
use crate::sources::postgres::failure::{Names, classify};
use crate::sources::postgres::slot::split_table;
use tailwater_core::{Checkpoints, Failure, Position};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

/// State: nobody reads the slot.
pub const NOT_RUNNING: &str = "not_running";
/// State: a process that does not answer here reads it.
pub const ELSEWHERE: &str = "elsewhere";

/// Looks, as the relay's own role: it may see all of this.
pub async fn look(config: &Config, name: &str, pipeline: &PipelineConfig) -> Result<PipelineReport, Failure> {
    let Some(source) = pipeline.source.log() else { return polled(config, name, pipeline).await };
    let saved = match config.state_dir.is_dir() {
        true => FileCheckpoints::new(&config.state_dir, name)?.load().await?,
        false => None,
    };
    let client = connect::sql(&source.connection).await?;
    let names = Names { slot: source.slot.clone(), ..Names::default() };
    let slot = find_slot(&client, source).await.map_err(|error| classify(error.into(), &names))?;
    Ok(report(name, source, saved, slot.as_ref()))
}

/// A polled table: who holds the lock that all relays on it hold (see `sources/postgres_poll/shares.rs`).
async fn polled(config: &Config, name: &str, pipeline: &PipelineConfig) -> Result<PipelineReport, Failure> {
    let table = pipeline.source.table();
    let mut report = PipelineReport { name: name.into(), ..PipelineReport::default() };
    if config.state_dir.is_dir() {
        let saved = FileCheckpoints::new(&config.state_dir, name)?.load().await?;
        report.lsn.saved = saved.map(|position| position.as_str().to_owned());
    }
    let client = connect::sql(pipeline.source.connection()).await?;
    const RELAYS: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 \
         AND objid = 4294967295 AND classid = to_regclass($1)::oid \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let (schema, table) = split_table(table);
    let quoted = format!("\"{}\".\"{}\"", schema.replace('"', "\"\""), table.replace('"', "\"\""));
    let names = Names { table: quoted.clone(), ..Names::default() };
    let rows = client.query(RELAYS, &[&quoted]).await.map_err(|error| classify(error.into(), &names))?;
    let pids: Vec<String> = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
    report.ready = !pids.is_empty();
    report.state = match pids.is_empty() {
        true => StateReport {
            state: NOT_RUNNING.into(),
            reason: Some(format!("nobody polls {quoted}; its rows wait")),
            hint: Some("tailwater run".into()),
            ..StateReport::default()
        },
        false => StateReport {
            state: ELSEWHERE.into(),
            holder: Some(format!("backend pid {}", pids.join(", "))),
            hint: Some("ask that process: its HTTP port is not the one of this configuration".into()),
            ..StateReport::default()
        },
    };
    Ok(report)
}

async fn find_slot(client: &Client, source: &PostgresConfig) -> Result<Option<Row>, tokio_postgres::Error> {
    const SLOT: &str = "SELECT s.confirmed_flush_lsn, s.active_pid, coalesce(s.wal_status = 'lost', false), \
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
         a.usename::text, host(a.client_addr), s.database = current_database() \
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1";
    client.query_opt(SLOT, &[&source.slot]).await
}

fn report(name: &str, source: &PostgresConfig, saved: Option<Position>, slot: Option<&Row>) -> PipelineReport {
    let slot_name = &source.slot;
    let mut report = PipelineReport { name: name.into(), ..PipelineReport::default() };
    report.lsn.saved = saved.as_ref().map(|position| position.as_str().to_owned());
    let Some(row) = slot else {
        let gap = saved.is_some();
        report.state = StateReport {
            state: NOT_RUNNING.into(),
            reason: Some(match gap {
                true => format!("slot {slot_name} is gone, and a position is saved: events may be missing"),
                false => format!("slot {slot_name} does not exist yet"),
            }),
            hint: Some(match gap {
                true => "`tailwater run` says what to do; nothing is recreated silently".into(),
                false => "tailwater run: it publishes the rows that are there, then what commits".into(),
            }),
            ..StateReport::default()
        };
        return report;
    };
    let (confirmed, end): (Option<PgLsn>, Option<PgLsn>) = (row.get(0), row.get(3));
    let (pid, lost): (Option<i32>, bool) = (row.get(1), row.get(2));
    report.lsn =
        Lsns { server: end.map(|lsn| lsn.to_string()), confirmed: confirmed.map(|lsn| lsn.to_string()), ..report.lsn };
    report.lag_bytes = end.zip(confirmed).map(|(end, confirmed)| u64::from(end).saturating_sub(u64::from(confirmed)));
    report.state = match pid {
        Some(pid) => {
            let role: Option<String> = row.get(4);
            let host: Option<String> = row.get(5);
            report.ready = true;
            StateReport {
                state: ELSEWHERE.into(),
                holder: Some(format!(
                    "backend pid {pid}, role {}, from {}",
                    role.as_deref().unwrap_or("?"),
                    host.as_deref().unwrap_or("this machine, or unknown")
                )),
                hint: Some("ask that process: its HTTP port is not the one of this configuration".into()),
                ..StateReport::default()
            }
        }
        None if lost => StateReport {
            state: NOT_RUNNING.into(),
            reason: Some(format!("slot {slot_name} was invalidated by the server: events may be missing")),
            hint: Some("`tailwater run` says what to do; nothing is recreated silently".into()),
            ..StateReport::default()
        },
        None => StateReport {
            state: NOT_RUNNING.into(),
            reason: Some(format!("nobody reads slot {slot_name}; the server keeps all log since then")),
            hint: Some("tailwater run".into()),
            ..StateReport::default()
        },
    };
    report
}
