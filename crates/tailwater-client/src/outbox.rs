//! One event = one row of the outbox table, written in the caller's transaction. Nothing here talks to a broker.

use crate::name::{NameError, Table, quote};
use serde_json::Value;
use std::fmt;
use tokio_postgres::Transaction;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// An event to publish.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What happened, e.g. `report.requested`. The relay makes it the routing key.
    pub event_type: &'a str,
    /// The same for every attempt to say the same thing. Consumers recognise a repeated event by it.
    pub idempotency_key: &'a str,
    /// What the consumer needs to know; normally an object.
    pub payload: &'a Value,
    /// Further columns of the table, e.g. `("user_id", &user_id)`. Names are quoted, values travel as parameters.
    pub columns: &'a [(&'a str, &'a (dyn ToSql + Sync))],
}

/// Why an event could not be written. The transaction is then aborted: roll it back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("name of an outbox column")]
    Name(#[from] NameError),
    #[error("write the outbox row")]
    Database(#[from] tokio_postgres::Error),
}

impl Error {
    /// The table has a unique key on the idempotency key, and the event is there already.
    pub fn is_duplicate(&self) -> bool {
        match self {
            Error::Database(e) => e.code() == Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION),
            Error::Name(_) => false,
        }
    }
}

/// Where the events are written. The default is a table `outbox` with the columns `event_type`, `idempotency_key` and
/// `payload`.
///
/// ```
/// use tailwater_client::outbox::Outbox;
/// let outbox = Outbox::new("app.events")?.with_columns("type", "id", "body")?;
/// # Ok::<(), tailwater_client::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    table: Table,
    event_type: String,
    idempotency_key: String,
    payload: String,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new("outbox").expect("a valid name")
    }
}

impl Outbox {
    /// `table` is `name` or `schema.name`.
    pub fn new(table: &str) -> Result<Outbox, NameError> {
        let table = Table::new(table)?;
        Ok(Outbox {
            table,
            event_type: quote("event_type")?,
            idempotency_key: quote("idempotency_key")?,
            payload: quote("payload")?,
        })
    }

    /// Other names for the three columns that every event fills.
    pub fn with_columns(self, event_type: &str, idempotency_key: &str, payload: &str) -> Result<Outbox, NameError> {
        Ok(Outbox {
            event_type: quote(event_type)?,
            idempotency_key: quote(idempotency_key)?,
            payload: quote(payload)?,
            ..self
        })
    }

    /// Writes `event` in `tx`. It is published if and only if `tx` commits.
    pub async fn publish(&self, tx: &mut Transaction<'_>, event: &Event<'_>) -> Result<(), Error> {
        let payload = event.payload.to_string();
        let (event_type, key, payload) = (Text(event.event_type), Text(event.idempotency_key), Text(&payload));
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&event_type, &key, &payload];
        values.extend(event.columns.iter().map(|(_, value)| *value));
        tx.execute(&self.insert(event.columns)?, &values).await?;
        Ok(())
    }

    fn insert(&self, columns: &[(&str, &(dyn ToSql + Sync))]) -> Result<String, NameError> {
        let mut names = format!("{}, {}, {}", self.event_type, self.idempotency_key, self.payload);
        for (name, _) in columns {
            names.push_str(", ");
            names.push_str(&quote(name)?);
        }
        let values: Vec<_> = (1..=columns.len() + 3).map(|n| format!("${n}")).collect();
        Ok(format!("INSERT INTO {} ({names}) VALUES ({})", self.table, values.join(", ")))
    }
}

/// Writes `event` into the table `outbox`, in `tx`. It is published if and only if `tx` commits.
///
/// ```no_run
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use tailwater_client::outbox::{self, Event};
///
/// let mut tx = client.transaction().await?;
/// tx.execute("INSERT INTO orders (number) VALUES ($1)", &[&17_i64]).await?;
/// outbox::publish(&mut tx, &Event {
///     event_type: "order.placed",
///     idempotency_key: "order-17-placed",
///     payload: &serde_json::json!({ "number": 17 }),
///     columns: &[("user_id", &4711_i64)],
/// }).await?;
/// tx.commit().await?; // the order and its event, or neither
/// # Ok(()) }
/// ```
pub async fn publish(tx: &mut Transaction<'_>, event: &Event<'_>) -> Result<(), Error> {
    Outbox::default().publish(tx, event).await
}

/// A value sent in its text form, so that the column may be text, uuid, an enum, json or jsonb alike.
struct Text<'a>(&'a str);

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text of {} bytes", self.0.len()) // a row's value has no place in a log
    }
}

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_columns_are_quoted_and_numbered() {
        let sql = Outbox::default().insert(&[("user_id", &1_i64), (r#"a"b"#, &2_i64)]).unwrap();
        assert_eq!(
            sql,
            r#"INSERT INTO "outbox" ("event_type", "idempotency_key", "payload", "user_id", "a""b") VALUES ($1, $2, $3, $4, $5)"#
        );
    }
}
