//! HTTP: ask for a report, see how far it is, fetch it. It never talks to the broker: the outbox row does.

use crate::request::{self, ReportRequest};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::Pool;
use serde_json::json;
use tailwater_client::outbox::{self, Columns, Event, Outbox};
use tokio_postgres::Row;
use uuid::Uuid;

/// The routes over `pool`.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/reports", post(request_report))
        .route("/reports/{id}", get(show))
        .route("/reports/{id}/export", get(export))
        .route("/health", get(health))
        .with_state(pool)
}

/// A refusal in words. What went wrong inside is logged, not told.
enum Refusal {
    BadRequest(String),
    NotFound(&'static str),
    /// The idempotency key was used for something else.
    KeyTaken,
    Unavailable,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Refusal::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::NotFound(text) => (StatusCode::NOT_FOUND, text.to_owned()),
            Refusal::KeyTaken => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "this `Idempotency-Key` was used for another request; take a new key".to_owned(),
            ),
            Refusal::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the database is not available; try again with the same key".to_owned(),
            ),
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}

impl<E: Into<Problem>> From<E> for Refusal {
    fn from(problem: E) -> Refusal {
        tracing::warn!(error = %problem.into().0, "request failed");
        Refusal::Unavailable
    }
}

/// Any failure below the API, as one line of text for the log.
struct Problem(String);

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(e: deadpool_postgres::PoolError) -> Problem {
        Problem(e.to_string())
    }
}
impl From<tokio_postgres::Error> for Problem {
    fn from(e: tokio_postgres::Error) -> Problem {
        Problem(e.to_string())
    }
}
impl From<outbox::Error> for Problem {
    fn from(e: outbox::Error) -> Problem {
        Problem(format!("{e}: {:?}", std::error::Error::source(&e).map(ToString::to_string)))
    }
}

/// `POST /reports`: 202 with the status URL. With the same `Idempotency-Key` the same report is answered again.
async fn request_report(
    State(pool): State<Pool>,
    headers: HeaderMap,
    body: Result<Json<ReportRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body.map_err(|e| Refusal::BadRequest(e.body_text()))?;
    request.check().map_err(Refusal::BadRequest)?;
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| Refusal::BadRequest("`Idempotency-Key` is not plain text".into()))?;
            Some(request::idempotency_key(text).map_err(Refusal::BadRequest)?)
        }
    };
    let id = accept(&pool, &request, key).await?;
    let location = format!("/reports/{id}");
    let body = Json(json!({ "id": id, "status_url": location }));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response())
}

/// The business row and its event, in one transaction; or the report that this key has made before.
async fn accept(pool: &Pool, request: &ReportRequest, key: Option<&str>) -> Result<Uuid, Refusal> {
    let id = Uuid::now_v7();
    let key = key.map_or_else(|| id.to_string(), str::to_owned);
    let mut client = pool.get().await?;
    let mut tx = client.transaction().await?;
    // Two equal requests at once: the second waits here for the first one's commit, then finds its row.
    let inserted = tx
        .execute(
            "INSERT INTO report (id, idempotency_key, user_id, from_day, to_day) \
             VALUES ($1, $2, $3, $4::text::date, $5::text::date) ON CONFLICT (idempotency_key) DO NOTHING",
            &[&id, &key, &request.user_id, &request.from, &request.to],
        )
        .await?;
    if inserted == 0 {
        return known(&tx, request, &key).await;
    }
    let payload = json!({ "report_id": id, "user_id": request.user_id, "from": request.from, "to": request.to });
    let event = Event::new("report.requested", payload).with_id(key).column("user_id", request.user_id);
    outbox().publish(&mut *tx, &event).await?;
    tx.commit().await?;
    Ok(id)
}

/// The recipe's table: the event type routes, the idempotency key is the id.
fn outbox() -> Outbox {
    let columns = Columns { id: "idempotency_key", event_type: "event_type", ..Columns::default() };
    Outbox::default().with_columns(columns).expect("valid names")
}

async fn known(tx: &tokio_postgres::Transaction<'_>, request: &ReportRequest, key: &str) -> Result<Uuid, Refusal> {
    let row = tx
        .query_one("SELECT id, user_id, to_char(from_day, 'YYYY-MM-DD'), to_char(to_day, 'YYYY-MM-DD') FROM report WHERE idempotency_key = $1", &[&key])
        .await?;
    let earlier = ReportRequest { user_id: row.get(1), from: row.get(2), to: row.get(3) };
    if earlier == *request { Ok(row.get(0)) } else { Err(Refusal::KeyTaken) }
}

/// `GET /reports/{id}`: `requested`, `done` (with the export's URL) or `failed`.
async fn show(State(pool): State<Pool>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let row = find(
        &pool,
        &id,
        "SELECT r.status, r.user_id, r.requested_at::text, r.finished_at::text, e.rows \
         FROM report r LEFT JOIN export e ON e.report_id = r.id WHERE r.id = $1",
    )
    .await?
    .ok_or(Refusal::NotFound("no such report"))?;
    let status: &str = row.get(0);
    let mut body = json!({
        "id": id, "status": status, "user_id": row.get::<_, i64>(1),
        "requested_at": row.get::<_, &str>(2), "finished_at": row.get::<_, Option<&str>>(3),
    });
    if status == "done" {
        body["rows"] = json!(row.get::<_, Option<i32>>(4));
        body["export_url"] = json!(format!("/reports/{id}/export"));
    }
    Ok(Json(body).into_response())
}

/// `GET /reports/{id}/export`: the CSV.
async fn export(State(pool): State<Pool>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let row = find(&pool, &id, "SELECT csv FROM export WHERE report_id = $1").await?;
    let csv: Vec<u8> = row.ok_or(Refusal::NotFound("no such export (yet); see /reports/{id}"))?.get(0);
    let name = format!("attachment; filename=\"activity-{id}.csv\"");
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, csv).into_response())
}

async fn find(pool: &Pool, id: &str, sql: &str) -> Result<Option<Row>, Refusal> {
    let id: Uuid = id.parse().map_err(|_| Refusal::NotFound("no such report"))?;
    Ok(pool.get().await?.query_opt(sql, &[&id]).await?)
}

async fn health(State(pool): State<Pool>) -> Result<Response, Refusal> {
    pool.get().await?.execute("SELECT 1", &[]).await?;
    Ok(Json(json!({ "status": "up" })).into_response())
}
