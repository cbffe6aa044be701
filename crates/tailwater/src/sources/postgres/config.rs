//! How to reach the database and which slot to read. The one place where these settings are defined.

use super::target::Target;
use crate::config::secret::Secret;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// `[pipelines.NAME.source]` with `type = "postgres"`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    #[serde(flatten)]
    pub connection: Connection,
    /// Replication slot: `[a-z0-9_]{1,63}`.
    pub slot: String,
    pub publication: String,
    /// The outbox table, `schema.name` or `name` (then `public`). Empty: change events of `tables`.
    pub table: String,
    /// Which tables of the publication are captured, where it is change events that are wanted (`table` is empty).
    pub tables: TableFilter,
    /// Whether a publication that is missing is made at start.
    pub publication_autocreate: Autocreate,
    /// A publication made at start reports partitions as their root table (the outbox's always does).
    pub publish_via_partition_root: bool,
    /// Rows that are there at the first start: publish them too (default), or only what comes after.
    pub snapshot: Snapshot,
    /// Prefix of logical messages to read (`pg_logical_emit_message`); none: messages are not asked for.
    pub message_prefix: Option<String>,
    /// Read logical messages of every prefix: for change events, whose route filters them. Not together with `message_prefix`.
    pub messages: bool,
    /// Look up column defaults in the catalog (strict compatibility needs them).
    pub catalog: bool,
}

impl PostgresConfig {
    /// Whether the server is asked for logical messages.
    pub fn wants_messages(&self) -> bool {
        self.messages || self.message_prefix.is_some()
    }

    /// Whether the catalog's part of every table's description is wanted: for change events always.
    pub fn wants_catalog(&self) -> bool {
        self.catalog || self.table.is_empty()
    }
}

/// Connection settings, shared by `run` (role of the relay) and `admin` (owner) connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// `postgres://user:password@host1:5432,host2/db?sslmode=verify-full…`; single fields override its parts.
    pub url: Option<Secret>,
    /// Comma separated; a directory (leading `/`) is a Unix socket.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// Read again at every connect.
    pub password_file: Option<PathBuf>,
    pub dbname: Option<String>,
    /// disable, allow, prefer (default), require, verify-ca, verify-full
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    /// any (default), read-write, primary
    pub target_session_attrs: Option<String>,
    #[serde(with = "crate::config::duration::option")]
    pub connect_timeout: Option<Duration>,
}

impl Connection {
    /// The database's name; empty where the settings make no sense (which is said when they are used).
    pub fn database(&self) -> String {
        Target::resolve(self).map(|target| target.dbname).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshot {
    #[default]
    Initial,
    #[serde(alias = "no_data", alias = "schema_only")]
    Never,
}

/// What becomes of a publication that does not exist (Debezium's `publication.autocreate.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autocreate {
    /// It is expected to exist; the error says how to make it.
    #[default]
    Disabled,
    /// Made for the captured tables; one that exists is given captured tables it lacks. Needs ownership of the tables and
    /// CREATE on the database.
    Filtered,
    /// Made for all tables, also those to come. Needs a superuser.
    AllTables,
    /// Made without tables: for logical messages, or for an operator who adds tables.
    NoTables,
}

/// Tables by name, as Debezium's lists of the same names have it: Java regular expressions, separated by commas (`\\,` is a
/// comma inside one), each matching the whole `schema.table` (or schema), upper and lower case alike. Empty: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableFilter {
    /// `table.include.list`
    pub include: String,
    /// `table.exclude.list`; not together with `include`.
    pub exclude: String,
    /// `schema.include.list`
    pub include_schemas: String,
    /// `schema.exclude.list`; not together with `include_schemas`.
    pub exclude_schemas: String,
}
