//! HTTP: place an order in one of three patterns, see what became of it. It never talks to Kafka: the event's row does.
//!
//! Stateless: any number of these beside each other, on any ports.

use crate::event::OrderPlaced;
use crate::pattern::Pattern;
use crate::tables::{self, Tables};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use deadpool_postgres::{Pool, Transaction};
use serde::Deserialize;
use serde_json::json;
use tailwater_client::outbox::{self, Outbox};
use uuid::Uuid;

/// The routes over `pool`; `/tables` shows what `tables` names.
pub fn router(pool: Pool, tables: Option<Tables>) -> Router {
    let router = Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show).post(place_by_path))
        .route("/health", get(health))
        .with_state(pool.clone());
    match tables {
        Some(tables) => router.merge(tables::router(pool, tables)),
        None => router,
    }
}

/// Longest name of a customer or an item, bytes.
const TEXT_MAX: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// The caller's own id for the order: the same request twice is one order.
    id: Option<Uuid>,
    customer: String,
    item: String,
    quantity: i32,
    /// Not needed where the path says it.
    pattern: Option<String>,
}

/// A refusal in words. What went wrong inside is logged, not told.
enum Refusal {
    BadRequest(String),
    NotFound(&'static str),
    Conflict(&'static str),
    Unavailable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Refusal::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::NotFound(text) => (StatusCode::NOT_FOUND, text.to_owned()),
            Refusal::Conflict(text) => (StatusCode::CONFLICT, text.to_owned()),
            Refusal::Unavailable(why) => {
                tracing::warn!(error = why, "request failed");
                let text = "the database is not available; try again with the same `id`";
                (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
            }
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}

impl From<deadpool_postgres::PoolError> for Refusal {
    fn from(error: deadpool_postgres::PoolError) -> Refusal {
        Refusal::Unavailable(error.to_string())
    }
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Refusal {
        Refusal::Unavailable(error.to_string())
    }
}

type Body = Result<Json<Order>, JsonRejection>;

/// `POST /orders` with the pattern as a field.
async fn place(State(pool): State<Pool>, body: Body) -> Result<Response, Refusal> {
    let Json(order) = body.map_err(|error| Refusal::BadRequest(error.body_text()))?;
    let pattern = order.pattern.clone().ok_or_else(|| {
        Refusal::BadRequest("say the pattern: POST /orders/transactional-outbox, or the field `pattern`".into())
    })?;
    accept(&pool, order, &pattern).await
}

/// `POST /orders/{pattern}`.
async fn place_by_path(State(pool): State<Pool>, Path(pattern): Path<String>, body: Body) -> Result<Response, Refusal> {
    let Json(order) = body.map_err(|error| Refusal::BadRequest(error.body_text()))?;
    accept(&pool, order, &pattern).await
}

async fn accept(pool: &Pool, order: Order, pattern: &str) -> Result<Response, Refusal> {
    let pattern: Pattern = pattern.parse().map_err(Refusal::BadRequest)?;
    for (name, text) in [("customer", &order.customer), ("item", &order.item)] {
        if text.trim().is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) {
            let wanted = format!("`{name}`: a text of 1 to {TEXT_MAX} bytes on one line");
            return Err(Refusal::BadRequest(wanted));
        }
    }
    if order.quantity < 1 {
        return Err(Refusal::BadRequest("`quantity`: a whole number above 0".into()));
    }
    let order_id = order.id.unwrap_or_else(Uuid::now_v7);
    let placed =
        OrderPlaced { order_id, pattern, customer: order.customer, item: order.item, quantity: order.quantity };
    store(pool, &placed).await?;
    let location = format!("/orders/{order_id}");
    // the event is stored in all patterns; the order itself only in two
    let (status, said) = match pattern {
        Pattern::ListenToYourself => (StatusCode::ACCEPTED, "accepted"),
        _ => (StatusCode::CREATED, "placed"),
    };
    let body = Json(json!({ "id": order_id, "status": said, "pattern": pattern }));
    Ok((status, [(header::LOCATION, location)], body).into_response())
}

/// One transaction: the order and its event, or, in pattern 2, the event alone: the order will be there when the service
/// has heard it. The same order again changes nothing; another one under its id is refused.
async fn store(pool: &Pool, placed: &OrderPlaced) -> Result<(), Refusal> {
    let mut client = pool.get().await?;
    let mut tx = client.transaction().await?;
    // two requests with one id, in whatever patterns, take their turn
    tx.execute("SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))", &[&placed.order_id]).await?;
    match known(&tx, placed.order_id).await? {
        Some(known) if known == *placed => return Ok(()),
        Some(_) => return Err(Refusal::Conflict("this `id` belongs to another order")),
        None => {}
    }
    if placed.pattern != Pattern::ListenToYourself {
        insert_order(&tx, placed).await?;
    }
    publish(&mut tx, placed).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    Ok(tx.commit().await?)
}

/// The order with this id, placed or accepted.
async fn known(tx: &Transaction<'_>, id: Uuid) -> Result<Option<OrderPlaced>, Refusal> {
    let sql = r#"SELECT jsonb_build_object('order_id', id, 'pattern', pattern, 'customer', customer, 'item', item,
                        'quantity', quantity) FROM orders WHERE id = $1
                 UNION ALL SELECT payload FROM "Listen_To_Yourself" WHERE id = $1 LIMIT 1"#;
    let Some(row) = tx.query_opt(sql, &[&id]).await? else { return Ok(None) };
    let known = serde_json::from_value(row.get(0));
    known.map(Some).map_err(|error| Refusal::Unavailable(format!("read order {id}: {error}")))
}

async fn publish(tx: &mut Transaction<'_>, placed: &OrderPlaced) -> Result<(), outbox::Error> {
    let outbox = Outbox::new(placed.pattern.table()).expect("the tables' names are valid");
    outbox.publish(&mut **tx, &placed.event()).await
}

/// Writes the order; 0 if it is there already.
pub(crate) async fn insert_order(
    tx: &tokio_postgres::Transaction<'_>,
    placed: &OrderPlaced,
) -> Result<u64, tokio_postgres::Error> {
    tx.execute(
        "INSERT INTO orders (id, pattern, customer, item, quantity) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        &[&placed.order_id, &placed.pattern.name(), &placed.customer, &placed.item, &placed.quantity],
    )
    .await
}

/// `GET /orders/{id}`: 200 with the order; 202 while only its event is stored (listen to yourself); 404.
async fn show(State(pool): State<Pool>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let unknown = || Refusal::NotFound("there is no such order");
    let id: Uuid = id.parse().map_err(|_| unknown())?;
    let client = pool.get().await?;
    let sql = "SELECT pattern, customer, item, quantity, status, created_at::text FROM orders WHERE id = $1";
    if let Some(row) = client.query_opt(sql, &[&id]).await? {
        let body = json!({
            "id": id, "pattern": row.get::<_, &str>(0), "customer": row.get::<_, &str>(1),
            "item": row.get::<_, &str>(2), "quantity": row.get::<_, i32>(3),
            "status": row.get::<_, &str>(4), "created_at": row.get::<_, &str>(5),
        });
        return Ok(Json(body).into_response());
    }
    let accepted = client.query_opt(r#"SELECT 1 FROM "Listen_To_Yourself" WHERE id = $1"#, &[&id]).await?;
    accepted.ok_or_else(unknown)?;
    let body = json!({ "id": id, "status": "accepted", "pattern": Pattern::ListenToYourself,
        "hint": "the event is stored; the order appears when the service has heard it" });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

async fn health(State(pool): State<Pool>) -> Result<Response, Refusal> {
    pool.get().await?.execute("SELECT 1", &[]).await?;
    Ok(Json(json!({ "status": "up" })).into_response())
}
