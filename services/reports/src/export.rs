//! From an event to a finished report: the export row, the report's status and the mail row, in the caller's transaction.
//! Sends nothing.

use serde::Deserialize;
use tokio_postgres::Transaction;
use uuid::Uuid;

/// The message's body, as docs/message.md has it for this pipeline: envelope fields around the payload.
#[derive(Clone, Debug, Deserialize)]
pub struct ReportEvent {
    pub event_type: String,
    pub idempotency_key: String,
    pub payload: Payload,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Payload {
    pub report_id: Uuid,
    pub user_id: i64,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Option<String>,
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no user with this id")]
    NoSuchUser,
    #[error("there is no report with this id")]
    NoSuchReport,
    #[error("write CSV")]
    Csv(#[from] csv::Error),
    #[error("query the database")]
    Database(#[from] tokio_postgres::Error),
}

const ROWS: &str = "SELECT to_char(happened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), action, detail FROM activity \
     WHERE user_id = $1 AND ($2::text IS NULL OR happened_at >= ($2::text::date)::timestamp AT TIME ZONE 'UTC') \
       AND ($3::text IS NULL OR happened_at < ($3::text::date + 1)::timestamp AT TIME ZONE 'UTC') \
     ORDER BY happened_at, action, detail";

/// Builds the user's activity export. The number of rows in it is returned.
pub async fn build(tx: &mut Transaction<'_>, event: &ReportEvent) -> Result<i32, Error> {
    let Payload { report_id, user_id, from, to } = &event.payload;
    let account = tx.query_opt("SELECT email FROM account WHERE user_id = $1", &[user_id]).await?;
    let recipient: String = account.ok_or(Error::NoSuchUser)?.get(0);
    let done = "UPDATE report SET status = 'done', finished_at = now() WHERE id = $1";
    if tx.execute(done, &[report_id]).await? == 0 {
        return Err(Error::NoSuchReport);
    }

    let rows = tx.query(ROWS, &[user_id, from, to]).await?;
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["happened_at", "action", "detail"])?;
    for row in &rows {
        csv.write_record([row.get::<_, &str>(0), row.get(1), row.get(2)])?;
    }
    let csv = csv.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);

    tx.execute("INSERT INTO export (report_id, rows, csv) VALUES ($1, $2, $3)", &[report_id, &count, &csv]).await?;
    let body = format!("Here is the activity export you asked for: {count} entries, in the attached file.\n");
    tx.execute(
        "INSERT INTO mail (key, recipient, subject, body, file_name, attachment) VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            &event.idempotency_key,
            &recipient,
            &"Your activity export",
            &body,
            &format!("activity-{report_id}.csv"),
            &csv,
        ],
    )
    .await?;
    Ok(count)
}

/// Marks the report as failed, in a transaction of its own: its event is about to go to the dead letters.
pub async fn mark_failed(
    client: &impl tokio_postgres::GenericClient,
    report: Uuid,
) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE report SET status = 'failed', finished_at = now() WHERE id = $1 AND status = 'requested'";
    client.execute(sql, &[&report]).await.map(drop)
}
