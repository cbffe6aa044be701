//! At most one effect per event, however often the broker delivers it.
//!
//! The marker and the effect are written in the caller's transaction, inside one savepoint: they commit together or not at
//! all, also when the caller commits after an error of the handler. What the handler does *outside* the database (mail,
//! HTTP) is not covered: write a row for it here, and send it from that row under an idempotency key of its own.
//!
//! **Follow-ups.** Events that a handler publishes ([`crate::outbox`], same transaction) belong to its effect. Once that has
//! committed they go out, whatever becomes of the incoming message: if the acknowledgement is lost, or an impatient broker
//! moves the message to the dead letters, the follow-ups are dispatched all the same, once; and a replay of the message finds
//! its marker and does nothing. If the handler failed, marker, effect and follow-ups are gone together.

mod once;
mod retention;

#[cfg(feature = "sqlx")]
pub use once::once_sqlx;
pub use once::{Error, Once, once};
pub use retention::{Retention, RetentionError};

use crate::connection::{Connection, DatabaseError};
use crate::name::{NameError, Table};

/// The table of markers, for migrations of your own; [`create_table`] does the same. Its key is `(source, id)`: two
/// producers may use the same id. The second index serves [`prune`]; it is small, because rows come in order of time.
pub const SCHEMA: &str = r#"CREATE TABLE IF NOT EXISTS "inbox" (
    source     text        NOT NULL,
    id         text        NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);
CREATE INDEX IF NOT EXISTS "inbox_handled_at" ON "inbox" USING brin (handled_at);
"#;

/// The table of markers; the default is `inbox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    table: Table,
    index: String,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox::new("inbox").expect("a valid name")
    }
}

impl Inbox {
    /// `table` is `name` or `schema.name`.
    pub fn new(table: &str) -> Result<Inbox, NameError> {
        let name = table.rsplit('.').next().unwrap_or(table);
        // An index lives in its table's schema; a name that would grow too long is cut like PostgreSQL cuts its own.
        let cut = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= 52).last().unwrap_or(0);
        let name = if name.len() > 52 { &name[..cut] } else { name };
        Ok(Inbox { table: Table::new(table)?, index: crate::name::quote(&format!("{name}_handled_at"))? })
    }

    /// The statements that make this table if it is missing.
    pub fn schema(&self) -> String {
        SCHEMA.replace(r#""inbox_handled_at""#, &self.index).replace(r#""inbox""#, &self.table.to_string())
    }

    /// Creates the table if it is missing.
    pub async fn create_table(&self, connection: &mut impl Connection) -> Result<(), DatabaseError> {
        connection.script(&self.schema()).await
    }
}

/// Creates the table `inbox` if it is missing.
pub async fn create_table(connection: &mut impl Connection) -> Result<(), DatabaseError> {
    Inbox::default().create_table(connection).await
}

/// Deletes markers of the table `inbox` that are older than `retention` says, and returns how many; see [`Inbox::prune`].
pub async fn prune(connection: &mut impl Connection, retention: Retention) -> Result<u64, DatabaseError> {
    Inbox::default().prune(connection, retention).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offered_schema_is_the_one_that_is_created() {
        assert_eq!(Inbox::default().schema(), SCHEMA);
        let other = Inbox::new("app.Seen").unwrap().schema();
        assert!(other.contains(r#"EXISTS "app"."Seen" ("#) && other.contains(r#""Seen_handled_at" ON "app"."Seen""#));
        let long = "ä".repeat(31);
        assert!(Inbox::new(&long).unwrap().schema().contains("_handled_at"));
    }
}
