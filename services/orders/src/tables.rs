//! `/tables`: the rows of named tables in a browser, newest first, read only. For looking on, on this machine alone.
//!
//! Not an editor and not for production: the caller sees to it that it is served on a loopback address only.

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use deadpool_postgres::Pool;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

const ROWS: i64 = 50;

/// The tables that may be seen, each with the column that says what is newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables(Vec<(String, String)>);

impl FromStr for Tables {
    type Err = String;
    /// `name:column,name:column`.
    fn from_str(text: &str) -> Result<Tables, String> {
        let entry = |part: &str| {
            let (name, column) = part.trim().split_once(':').ok_or_else(|| format!("`{part}`: write table:column"))?;
            Ok((name.to_owned(), column.to_owned()))
        };
        text.split(',').map(entry).collect::<Result<_, String>>().map(Tables)
    }
}

#[derive(Clone)]
struct Shared {
    pool: Pool,
    tables: Arc<Tables>,
}

pub(crate) fn router(pool: Pool, tables: Tables) -> Router {
    let shared = Shared { pool, tables: Arc::new(tables) };
    let routes = Router::new().route("/tables", get(overview)).route("/tables/{name}", get(one)).with_state(shared);
    routes.layer(axum::middleware::from_fn(loopback_name))
}

/// A page elsewhere may point a name of its own at this machine: only a loopback name is answered.
async fn loopback_name(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback()) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "tables are shown under http://localhost or http://127.0.0.1 only\n").into_response()
}

async fn overview(State(shared): State<Shared>) -> Result<Response, Problem> {
    let client = shared.pool.get().await?;
    let mut body = String::from("<table><tr><th>table</th><th>rows</th></tr>");
    for (name, _) in &shared.tables.0 {
        let sql = format!("SELECT count(*) FROM {}", quote(name));
        let count: i64 = client.query_one(&sql, &[]).await?.get(0);
        let name = escape(name);
        body.push_str(&format!("<tr><td><a href=\"/tables/{name}\">{name}</a></td><td class=n>{count}</td></tr>"));
    }
    body.push_str("</table>");
    Ok(page(&shared.tables, "Tables", &body))
}

async fn one(State(shared): State<Shared>, Path(name): Path<String>) -> Result<Response, Problem> {
    let Some((name, newest)) = shared.tables.0.iter().find(|(table, _)| *table == name) else {
        let text = "this table is not shown: only those that the configuration names are";
        return Ok((StatusCode::NOT_FOUND, page(&shared.tables, "Not shown", text)).into_response());
    };
    let client = shared.pool.get().await?;
    let described = client.prepare(&format!("SELECT * FROM {} LIMIT 0", quote(name))).await?;
    let columns: Vec<&str> = described.columns().iter().map(tokio_postgres::Column::name).collect();
    let as_text: Vec<_> = columns.iter().map(|column| format!("{}::text", quote(column))).collect();
    let sql = format!("SELECT {} FROM {} ORDER BY {} DESC LIMIT $1", as_text.join(", "), quote(name), quote(newest));
    let rows = client.query(&sql, &[&ROWS]).await?;
    let mut body = String::from("<table><tr>");
    columns.iter().for_each(|column| body.push_str(&format!("<th>{}</th>", escape(column))));
    body.push_str("</tr>");
    for row in &rows {
        body.push_str("<tr>");
        for index in 0..columns.len() {
            match row.get::<_, Option<&str>>(index) {
                Some(text) => body.push_str(&format!("<td>{}</td>", escape(text))),
                None => body.push_str("<td class=null>null</td>"),
            }
        }
        body.push_str("</tr>");
    }
    body.push_str("</table>");
    if rows.len() as i64 == ROWS {
        body.push_str(&format!("<p>The {ROWS} newest rows.</p>"));
    }
    Ok(page(&shared.tables, name, &body))
}

fn page(tables: &Tables, title: &str, body: &str) -> Response {
    let links: String =
        tables.0.iter().map(|(name, _)| format!("<a href=\"/tables/{0}\">{0}</a> ", escape(name))).collect();
    let title = escape(title);
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta http-equiv=refresh content=2><title>{title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:14px/1.5 system-ui,sans-serif;margin:2em;overflow-x:auto}}\
         nav a{{margin-right:1em}}table{{border-collapse:collapse;margin-top:1em}}td,th{{border:1px solid #8886;\
         padding:.2em .6em;text-align:left;max-width:24em;overflow-wrap:break-word}}th{{background:#8882}}\
         td.null{{color:#888}}td.n{{text-align:right}}\
         </style><nav><a href=\"/tables\">all</a>{links}</nav><h1>{title}</h1>{body}</html>"
    );
    // no script ever runs here, whatever a row holds
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The database did not answer; what it said is logged, not told.
struct Problem;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, "the database is not available\n").into_response()
    }
}

impl<E: std::fmt::Display + IsDatabase> From<E> for Problem {
    fn from(error: E) -> Problem {
        tracing::warn!(%error, "tables");
        Problem
    }
}

/// The errors that mean "the database".
trait IsDatabase {}
impl IsDatabase for deadpool_postgres::PoolError {}
impl IsDatabase for tokio_postgres::Error {}
