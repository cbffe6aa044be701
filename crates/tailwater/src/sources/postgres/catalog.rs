//! What only the catalog knows of a table: its columns before the first change, defaults, type names.

use super::client::Client;
use super::connect::session;
use super::failure::Error;
use super::target::Target;
use std::sync::Arc;
use tailwater_core::change::ColumnCatalog;
use tailwater_core::{Column, Relation, ReplicaIdentity};

/// A table as the stream will describe it, and the column that tells the order of its rows.
pub(super) struct Described {
    pub relation: Relation,
    pub order_by: Option<Arc<str>>,
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// Reads a table's columns in the snapshot of `client`. `published`: the publication's column list, where it has one.
pub(super) async fn describe(
    client: &mut Client,
    oid: u32,
    schema: &str,
    name: &str,
    published: Option<&[&str]>,
) -> Result<Described, Error> {
    // Generated columns are not in the stream.
    let sql = format!(
        "SELECT a.attname, a.atttypid, a.atttypmod, c.relreplident, \
         c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid \
           AND a.attnum = ANY (i.indkey) AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
           WHEN 'i' THEN i.indisreplident ELSE false END), \
         EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
           AND i.indnkeyatts = 1 AND a.attnum = i.indkey[0]) \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"
    );
    let rows = client.query(&sql).await?;
    let mut relation = Relation {
        oid,
        schema: schema.into(),
        name: name.into(),
        identity: ReplicaIdentity::Default,
        columns: Vec::with_capacity(rows.len()),
    };
    let mut number_key = None;
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
        if published.is_some_and(|published| !published.contains(&column)) {
            continue;
        }
        let key = row.text(4) == Some("t");
        if row.text(5) == Some("t") && matches!(type_oid, INT2 | INT4 | INT8) {
            number_key = Some(Arc::from(column));
        }
        relation.columns.push(Column { name: column.into(), type_oid, type_modifier, key, catalog: None });
    }
    let order_by = number_key.or_else(|| time_column(&relation));
    Ok(Described { relation, order_by })
}

/// The column that holds a row's time: the only one, or the one that is called so.
fn time_column(relation: &Relation) -> Option<Arc<str>> {
    let times: Vec<&Arc<str>> = relation
        .columns
        .iter()
        .filter(|column| matches!(column.type_oid, TIMESTAMP | TIMESTAMPTZ))
        .map(|column| &column.name)
        .collect();
    match times.as_slice() {
        [only] => Some((*only).clone()),
        several => ["created_at", "inserted_at", "occurred_at"]
            .iter()
            .find_map(|wanted| several.iter().find(|name| name.as_ref() == *wanted))
            .map(|name| (*name).clone()),
    }
}

/// Adds to a table's description what the stream does not say. It is the catalog of now, not of the change: a column that is
/// gone, or has another type by now, stays without.
pub(super) async fn complete(target: &Target, relation: Arc<Relation>) -> Result<Arc<Relation>, Error> {
    let (client, _) = session(target).await?;
    let sql = "SELECT a.attname::text, a.atttypid, a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid), \
               pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
               LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
               WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";
    let mut completed = (*relation).clone();
    for row in client.query(sql, &[&relation.oid]).await? {
        let (name, type_oid): (&str, u32) = (row.get(0), row.get(1));
        let column = completed.columns.iter_mut().find(|column| *column.name == *name && column.type_oid == type_oid);
        if let Some(column) = column {
            column.catalog = Some(ColumnCatalog {
                not_null: row.get(2),
                default: row.get::<_, Option<&str>>(3).map(Arc::from),
                type_name: row.get::<_, &str>(4).into(),
            });
        }
    }
    Ok(Arc::new(completed))
}
