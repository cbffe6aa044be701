//! What only the catalog knows of a table: its columns before the first change, defaults, type names.

use super::TableCheck;
use super::capture::{Captured, Table};
use super::client::Client;
use super::failure::Error;
use super::open::quoted;
use super::shared::shared;
use super::target::Target;
use std::sync::Arc;
use tailwater_core::change::ColumnCatalog;
use tailwater_core::{Column, Relation, ReplicaIdentity};
use tokio_postgres::SimpleQueryMessage;

/// A table as the stream will describe it, and what tells the order in which its rows were written (SQL, for `ORDER BY`).
pub(super) struct Described {
    pub relation: Relation,
    pub order_by: Option<String>,
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
/// What a column is called that holds the time at which its row was written.
const TIMES: [&str; 3] = ["created_at", "inserted_at", "occurred_at"];

/// Reads a table's columns in the snapshot of `client`.
pub(super) async fn describe(client: &mut Client, table: &Table, with_facts: bool) -> Result<Described, Error> {
    let rows = client.query(&columns_sql(table.oid)).await?;
    let mut relation = Relation {
        oid: table.oid,
        schema: table.schema.as_str().into(),
        name: table.name.as_str().into(),
        identity: ReplicaIdentity::Default,
        columns: Vec::with_capacity(rows.len()),
    };
    let (mut number_key, mut times, mut system_columns) = (None, Vec::new(), false);
    for row in &rows {
        let parse = || Some((row.text(0)?, row.text(1)?.parse().ok()?, row.text(2)?.parse().ok()?));
        let (column, type_oid, type_modifier): (&str, u32, i32) =
            parse().ok_or_else(|| Error::Protocol("no sense in the answer to pg_attribute".into()))?;
        relation.identity = match row.text(3) {
            Some("n") => ReplicaIdentity::Nothing,
            Some("f") => ReplicaIdentity::Full,
            Some("i") => ReplicaIdentity::Index,
            _ => ReplicaIdentity::Default,
        };
        if table.columns.as_ref().is_some_and(|published| !published.iter().any(|name| name == column)) {
            continue;
        }
        let key = row.text(4) == Some("t");
        system_columns = row.text(14) == Some("t");
        // one that may stay empty says when something else happened
        let filled = row.text(6) == Some("t") || row.text(7).is_some() || TIMES.contains(&column);
        if filled && matches!(type_oid, TIMESTAMP | TIMESTAMPTZ) {
            times.push(column.to_owned());
        }
        if row.text(5) == Some("t") && matches!(type_oid, INT2 | INT4 | INT8) {
            number_key = Some(quoted(column));
        }
        let catalog = with_facts.then(|| facts(|index| row.text(index))).flatten();
        relation.columns.push(Column { name: column.into(), type_oid, type_modifier, key, catalog });
    }
    let order_by = number_key.or_else(|| written_order(&times, system_columns));
    Ok(Described { relation, order_by })
}

/// Asks of every captured table whether its rows can be published: all that is wrong at once, before anything is read.
pub(super) async fn check(client: &mut Client, captured: &Captured, check: &TableCheck) -> Result<(), Error> {
    let mut reasons = Vec::new();
    for table in captured.tables() {
        let described = describe(client, table, true).await?;
        reasons.extend(check(&Arc::new(described.relation)).err());
    }
    if reasons.is_empty() { Ok(()) } else { Err(Error::Unfit(reasons.join("; "))) }
}

/// Every column that may be in the stream (generated ones: from 18 on, if the publication says so), and all we want to know of it.
fn columns_sql(oid: u32) -> String {
    format!(
        "SELECT a.attname, a.atttypid, a.atttypmod, c.relreplident, \
         c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid \
           AND a.attnum = ANY (i.indkey) AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
           WHEN 'i' THEN i.indisreplident ELSE false END), \
         EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
           AND i.indnkeyatts = 1 AND a.attnum = i.indkey[0]), \
         a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid), \
         pg_catalog.format_type(a.atttypid, a.atttypmod), \
         (SELECT k.place FROM pg_catalog.pg_index i, unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place) \
           WHERE i.indrelid = c.oid AND i.indisprimary AND k.attnum = a.attnum), \
         CASE WHEN b.depth > 0 THEN b.oid END, b.modifier, \
         (SELECT e.typelem FROM pg_catalog.pg_type e WHERE e.oid = b.oid AND e.typcategory = 'A'), \
         (SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l WHERE l.enumtypid IN (b.oid, \
           (SELECT e.typelem FROM pg_catalog.pg_type e WHERE e.oid = b.oid AND e.typcategory = 'A'))), \
         pg_catalog.has_table_privilege(c.oid, 'SELECT') \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         CROSS JOIN LATERAL (WITH RECURSIVE under (oid, modifier, depth) AS (SELECT a.atttypid, a.atttypmod, 0 UNION ALL \
           SELECT t.typbasetype, t.typtypmod, u.depth + 1 FROM under u JOIN pg_catalog.pg_type t ON t.oid = u.oid \
           WHERE t.typtype = 'd') SELECT * FROM under ORDER BY depth DESC LIMIT 1) b \
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped AND (a.attgenerated = '' \
           OR a.attgenerated = 's' AND pg_catalog.current_setting('server_version_num')::int >= 180000) ORDER BY a.attnum"
    )
}

/// The order of rows without a number: their column of time (the only one, or the one that is called so), else the number of
/// the transaction that wrote them, and inside a transaction the command. `ctid` alone would not do: rows go where vacuum made
/// room.
fn written_order(times: &[String], system_columns: bool) -> Option<String> {
    let time = match times {
        [only] => Some(only),
        several => TIMES.iter().find_map(|wanted| several.iter().find(|name| name == wanted)),
    };
    let time = time.map(|column| quoted(column));
    if !system_columns {
        return time;
    }
    // a transaction number has no order, its age has one; a command number only as a number
    Some(format!("{}, cmin::text::int8, ctid", time.as_deref().unwrap_or("pg_catalog.age(xmin) DESC")))
}

/// A row of [`columns_sql`]: the part that the stream does not say.
fn facts<'a>(text: impl Fn(usize) -> Option<&'a str>) -> Option<ColumnCatalog> {
    let number = |index: usize| text(index).and_then(|text| text.parse::<u32>().ok());
    let modifier = text(11).and_then(|text| text.parse().ok()).unwrap_or(-1);
    let labels = text(13).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    Some(ColumnCatalog {
        not_null: text(6) == Some("t"),
        default: text(7).map(Arc::from),
        type_name: text(8)?.into(),
        primary_key: number(9),
        base_type: number(10).map(|oid| (oid, modifier)),
        element_type: number(12),
        enum_labels: labels.map(|labels| labels.into_iter().map(Arc::from).collect()),
    })
}

/// Adds to a table's description what the stream does not say. It is the catalog of now, not of the change: a column that is
/// gone, or has another type by now, stays without.
pub(super) async fn complete(target: &Target, relation: Arc<Relation>) -> Result<Arc<Relation>, Error> {
    let session = shared(target).await?;
    let mut completed = (*relation).clone();
    for message in session.simple_query(&columns_sql(relation.oid)).await? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let (Some(name), Some(type_oid)) = (row.get(0), row.get(1).and_then(|oid| oid.parse::<u32>().ok())) else {
            continue;
        };
        let column = completed.columns.iter_mut().find(|column| *column.name == *name && column.type_oid == type_oid);
        if let Some(column) = column {
            column.catalog = facts(|index| row.get(index));
        }
    }
    Ok(Arc::new(completed))
}
