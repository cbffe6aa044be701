//! An event is written in the caller's transaction: as a row of the outbox table, or as a message in the database's log
//! without any table. Nothing here talks to a broker.
//!
//! Both forms have the same fields under the same names, so that one configuration of the relay reads either.

mod event;

pub use event::{Columns, Event};

use crate::connection::{DatabaseError, Transaction};
use crate::name::{NameError, Table, quote};
use serde_json::Value;

/// Why an event could not be written. After [`Error::Database`] the transaction is aborted: roll it back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("name of an outbox column")]
    Name(#[from] NameError),
    #[error("the column {0:?} is given twice, once by the event's own fields or by an earlier `column`")]
    Twice(String),
    #[error("the traceparent is not of the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits> (W3C Trace Context)")]
    Traceparent,
    #[error("write the outbox")]
    Database(#[from] DatabaseError),
}

impl Error {
    /// The table has a unique key on the id, and the event is there already.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Error::Database(error) if error.code().as_deref() == Some("23505"))
    }
}

/// Where events are written, and under which names.
///
/// ```
/// use tailwater_client::outbox::{Columns, Outbox};
/// let recipe = Columns { id: "idempotency_key", event_type: "event_type", ..Columns::default() };
/// let outbox = Outbox::new("app.outbox")?.with_columns(recipe)?;
/// # Ok::<(), tailwater_client::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    form: Form,
    columns: Columns<'static>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Table(Table),
    Messages { prefix: String },
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new("outbox").expect("a valid name")
    }
}

impl Outbox {
    /// A table, `name` or `schema.name`, with Debezium's column names (see [`Columns`]).
    pub fn new(table: &str) -> Result<Outbox, NameError> {
        Ok(Outbox { form: Form::Table(Table::new(table)?), columns: Columns::default() })
    }

    /// No table: each event is a transactional message in the log (`pg_logical_emit_message`) under this prefix, and there is
    /// nothing to clean up. In exchange nothing is left to look at, or to publish again from, once the relay has confirmed it.
    pub fn messages(prefix: impl Into<String>) -> Outbox {
        Outbox { form: Form::Messages { prefix: prefix.into() }, columns: Columns::default() }
    }

    /// Other names for the fields.
    pub fn with_columns(self, columns: Columns<'static>) -> Result<Outbox, NameError> {
        columns.names().into_iter().try_for_each(|name| quote(name).map(drop))?;
        Ok(Outbox { columns, ..self })
    }

    /// Writes `event` in `tx`. It is published if and only if `tx` commits.
    pub async fn publish(&self, tx: &mut impl Transaction, event: &Event) -> Result<(), Error> {
        self.publish_all(tx, std::slice::from_ref(event)).await
    }

    /// Writes `events` in `tx`, in this order. One statement, unless their columns differ.
    pub async fn publish_all(&self, tx: &mut impl Transaction, events: &[Event]) -> Result<(), Error> {
        let rows = events.iter().map(|event| event.fields(&self.columns)).collect::<Result<Vec<_>, _>>()?;
        for run in rows.chunk_by(|a, b| self.is_message() || a.keys().eq(b.keys())) {
            let json = Value::Array(run.iter().cloned().map(Value::Object).collect()).to_string();
            match &self.form {
                Form::Table(table) => {
                    // The server converts each member to its column's type: uuid, enum, jsonb, timestamptz alike.
                    let names = run[0].keys().map(|name| quote(name)).collect::<Result<Vec<_>, _>>()?.join(", ");
                    let sql = format!(
                        "INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, $1::json)"
                    );
                    tx.run(&sql, &[&json]).await?;
                }
                Form::Messages { prefix } => {
                    let sql = "SELECT pg_logical_emit_message(true, $1, event::text) FROM json_array_elements($2::json) event";
                    tx.run(sql, &[prefix, &json]).await?;
                }
            }
        }
        Ok(())
    }

    fn is_message(&self) -> bool {
        matches!(self.form, Form::Messages { .. })
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
/// let event = Event::new("order.placed", serde_json::json!({ "number": 17 })).about("order", "17");
/// outbox::publish(&mut tx, &event).await?;
/// tx.commit().await?; // the order and its event, or neither
/// # Ok(()) }
/// ```
///
/// The same with sqlx (feature `sqlx`):
///
#[cfg_attr(feature = "sqlx", doc = "```no_run")]
#[cfg_attr(not(feature = "sqlx"), doc = "```ignore")]
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use tailwater_client::outbox::{self, Event};
///
/// let mut tx = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (number) VALUES ($1)").bind(17_i64).execute(&mut *tx).await?;
/// let event = Event::new("order.placed", serde_json::json!({ "number": 17 })).about("order", "17");
/// outbox::publish(&mut tx, &event).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
pub async fn publish(tx: &mut impl Transaction, event: &Event) -> Result<(), Error> {
    Outbox::default().publish(tx, event).await
}

/// Writes `events` into the table `outbox`, in `tx` and in this order, with one statement.
pub async fn publish_all(tx: &mut impl Transaction, events: &[Event]) -> Result<(), Error> {
    Outbox::default().publish_all(tx, events).await
}
