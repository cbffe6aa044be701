//! What the server says of itself, of our slot and of our publication. Questions only: nothing is created here but by name.

use super::client::{Client, Row};
use super::config::PostgresConfig;
use super::failure::{Error, Names, gap_hint};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tailwater_core::pgoutput::Lsn;

/// `IDENTIFY_SYSTEM` (protocol, "Streaming Replication Protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    pub id: u64,
    pub timeline: u32,
    /// End of the flushed WAL: nothing beyond it can have been sent to anybody.
    pub end: u64,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub plugin: String,
    pub database: String,
    pub temporary: bool,
    pub active_pid: Option<i32>,
    pub wal_status: String,
    /// `confirmed_flush_lsn`.
    pub confirmed: u64,
    /// Our own database, for comparison.
    pub current_database: String,
}

fn wrong(what: &str) -> Error {
    Error::Protocol(format!("no sense in the answer to {what}"))
}

fn lsn(row: &Row, index: usize) -> Option<u64> {
    row.text(index)?.parse::<Lsn>().ok().map(|lsn| lsn.0)
}

/// Asks the server who it is and how far it is.
pub async fn identify(client: &mut Client) -> Result<System, Error> {
    let rows = client.query("IDENTIFY_SYSTEM").await?;
    let parse = |row: &Row| {
        Some(System { id: row.text(0)?.parse().ok()?, timeline: row.text(1)?.parse().ok()?, end: lsn(row, 2)? })
    };
    rows.first().and_then(parse).ok_or_else(|| wrong("IDENTIFY_SYSTEM"))
}

/// Where `timeline` was left for a later one, by the history of `current` (`TIMELINE_HISTORY`); `None` if it is not in there.
pub async fn switch_point(client: &mut Client, current: u32, timeline: u32) -> Result<Option<u64>, Error> {
    let rows = client.query(&format!("TIMELINE_HISTORY {current}")).await?;
    let content = rows.first().and_then(|row| row.text(1)).ok_or_else(|| wrong("TIMELINE_HISTORY"))?;
    Ok(parse_history(content, timeline))
}

fn parse_history(content: &str, timeline: u32) -> Option<u64> {
    content.lines().find_map(|line| {
        let mut fields = line.split('\t');
        let parent: u32 = fields.next()?.trim().parse().ok()?;
        let point: Lsn = fields.next()?.trim().parse().ok()?;
        (parent == timeline).then_some(point.0)
    })
}

/// Our slot, if it exists.
pub async fn find(client: &mut Client, name: &str) -> Result<Option<Slot>, Error> {
    let sql = format!(
        "SELECT coalesce(plugin, ''), coalesce(database, ''), temporary, active_pid, coalesce(wal_status, ''), \
         coalesce(confirmed_flush_lsn, '0/0'), current_database() \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        escape_literal(name)
    );
    let rows = client.query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let parse = || {
        Some(Slot {
            plugin: row.text(0)?.to_owned(),
            database: row.text(1)?.to_owned(),
            temporary: row.text(2)? == "t",
            active_pid: row.text(3).and_then(|pid| pid.parse().ok()),
            wal_status: row.text(4)?.to_owned(),
            confirmed: lsn(row, 5)?,
            current_database: row.text(6)?.to_owned(),
        })
    };
    parse().map(Some).ok_or_else(|| wrong("pg_replication_slots"))
}

impl Slot {
    /// Whether this is a slot we may read: ours by kind and place, and not lost.
    pub fn check(&self, names: &Names) -> Result<(), Error> {
        let name = &names.slot;
        let gap = |what: String| Err(Error::Gap { what, hint: gap_hint(names) });
        let foreign = |what: String| {
            let hint = format!(
                "slot `{name}` belongs to something else: set `slot` to a name of its own for this pipeline, or drop it if \
                 nobody needs it: SELECT pg_drop_replication_slot('{name}');"
            );
            Err(Error::Gap { what, hint })
        };
        if self.plugin != "pgoutput" {
            return foreign(format!("slot `{name}` is decoded by `{}`, not by pgoutput", self.plugin));
        }
        if self.database != self.current_database {
            return foreign(format!(
                "slot `{name}` is of database `{}`, not of `{}`",
                self.database, self.current_database
            ));
        }
        if self.temporary {
            return foreign(format!("slot `{name}` is a temporary slot of another session"));
        }
        if self.wal_status == "lost" {
            return gap(format!("slot `{name}` is invalidated: the server has removed WAL that was not read"));
        }
        Ok(())
    }
}

/// `schema.name` or `name`, split; the schema defaults to `public`.
pub fn split_table(table: &str) -> (&str, &str) {
    table.split_once('.').unwrap_or(("public", table))
}

/// `wal_sender_timeout`; zero: switched off.
pub async fn wal_sender_timeout(client: &mut Client) -> Result<std::time::Duration, Error> {
    let rows = client.query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'").await?;
    let ms = rows.first().and_then(|row| row.text(0)?.parse().ok()).ok_or_else(|| wrong("wal_sender_timeout"))?;
    Ok(std::time::Duration::from_millis(ms))
}

/// `START_REPLICATION` for this configuration. What it names decides how changes are counted: see [`question`].
pub fn start_sql(config: &PostgresConfig, from: u64) -> String {
    format!(
        "START_REPLICATION SLOT {} LOGICAL {} ({})",
        escape_identifier(&config.slot),
        Lsn(from),
        start_options(config)
    )
}

fn start_options(config: &PostgresConfig) -> String {
    let publication = escape_literal(&escape_identifier(&config.publication));
    let messages = if config.wants_messages() { ", messages 'true'" } else { "" };
    format!("proto_version '1', publication_names {}{messages}", publication.trim_start())
}

/// A short hash of what is asked for (FNV-1a): ordinals of another question do not count alike.
pub fn question(config: &PostgresConfig) -> u32 {
    start_options(config).bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_point_is_that_of_the_saved_timeline() {
        let history = "1\t0/3003258\tno recovery target specified\n\n2\t1/0\tanother\n";
        assert_eq!(parse_history(history, 1), Some(0x300_3258));
        assert_eq!(parse_history(history, 2), Some(0x1_0000_0000));
        assert_eq!(parse_history(history, 3), None);
    }

    #[test]
    fn only_our_own_living_slot_is_read() {
        let names = Names { slot: "s".into(), ..Names::default() };
        let good = Slot {
            plugin: "pgoutput".into(),
            database: "db".into(),
            temporary: false,
            active_pid: None,
            wal_status: "reserved".into(),
            confirmed: 1,
            current_database: "db".into(),
        };
        assert!(good.check(&names).is_ok());
        for bad in [
            Slot { plugin: "wal2json".into(), ..good.clone() },
            Slot { database: "other".into(), ..good.clone() },
            Slot { temporary: true, ..good.clone() },
            Slot { wal_status: "lost".into(), ..good.clone() },
        ] {
            assert!(bad.check(&names).unwrap_err().is_gap());
        }
    }

    #[test]
    fn names_are_quoted_where_they_go_to_the_server() {
        let config = PostgresConfig {
            slot: "s".into(),
            publication: "Pub's".into(),
            message_prefix: Some("x".into()),
            ..PostgresConfig::default()
        };
        let expected = "START_REPLICATION SLOT \"s\" LOGICAL 0/10 (proto_version '1', publication_names '\"Pub''s\"', messages 'true')";
        assert_eq!(start_sql(&config, 16), expected);
        let other = PostgresConfig { message_prefix: None, ..config.clone() };
        assert_ne!(question(&config), question(&other));
    }
}
