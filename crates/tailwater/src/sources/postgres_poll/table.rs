//! The outbox table as polling needs it: columns, order, privileges. Everything that is wrong is said before the first row.

use super::config::{Done, PollConfig};
use crate::sources::postgres::failure::Error;
use crate::sources::postgres::slot::split_table;
use std::fmt::Write;
use std::sync::Arc;
use tailwater_core::{Column, Relation, ReplicaIdentity};
use tokio_postgres::Client;

const INT: [u32; 3] = [20, 21, 23];
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// Keys are spread over so many shares; a share has one owner. The same in every relay, hence no setting.
pub(super) const SHARES: usize = 16;

/// What is known of the table.
#[derive(Debug)]
pub(super) struct Table {
    pub oid: u32,
    pub system_id: u64,
    pub relation: Arc<Relation>,
    /// `"schema"."name"`
    pub sql_name: String,
    /// The order column, quoted.
    pub order: String,
    /// Values come one by one from a sequence, so a lower one is never handed out later.
    pub strictly_drawn: bool,
    share: String,
    time: String,
    mark: Option<String>,
}

/// Looks at the table and at what the role may do with it.
pub(super) async fn inspect(client: &Client, config: &PollConfig, key_column: &str) -> Result<Table, Error> {
    let (schema, name) = split_table(&config.table);
    let (schema, name) = (schema.to_owned(), name.to_owned());
    let found = client
        .query_opt(
            "SELECT c.oid, (SELECT system_identifier FROM pg_catalog.pg_control_system()), current_user::text, \
             has_schema_privilege(n.oid, 'USAGE') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[&schema, &name],
        )
        .await?;
    let Some(found) = found else {
        return Err(missing(
            format!("there is no table {schema}.{name}"),
            "create it, or correct `table` in the source".into(),
        ));
    };
    let (oid, role): (u32, String) = (found.get(0), found.get(2));
    if !found.get::<_, bool>(3) {
        return Err(missing(
            format!("role {role} may not use schema {schema}"),
            format!("GRANT USAGE ON SCHEMA {} TO {};", quote(&schema), quote(&role)),
        ));
    }
    let sql_name = format!("{}.{}", quote(&schema), quote(&name));
    may(client, oid, &sql_name, &role, config).await?;
    let relation = describe(client, oid, &schema, &name).await?;
    let order = order_column(client, &relation, &sql_name, config.order_column.as_deref()).await?;
    let strictly_drawn = drawn(client, oid, &order).await?;
    indexed(client, oid, &sql_name, &order, strictly_drawn).await?;
    let mark = mark_column(&relation, config)?;
    let share = match relation.columns.iter().any(|column| *column.name == *key_column) {
        true => format!("(hashtext(coalesce({}::text, '')) & {})", quote(key_column), SHARES - 1),
        // the router will say what is wrong with such a table
        false => format!("(hashtext({}::text) & {})", quote(&order), SHARES - 1),
    };
    Ok(Table {
        oid,
        system_id: found.get::<_, i64>(1).cast_unsigned(),
        strictly_drawn,
        sql_name,
        order: quote(&order),
        share,
        time: time_expression(&relation),
        mark: mark.map(|name| quote(&name)),
        relation: Arc::new(relation),
    })
}

fn missing(what: String, hint: String) -> Error {
    Error::Missing { what, hint }
}

pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn may(client: &Client, oid: u32, table: &str, role: &str, config: &PollConfig) -> Result<(), Error> {
    let verb = match config.done {
        Done::Delete => "DELETE",
        Done::Mark => "UPDATE",
    };
    for privilege in ["SELECT", verb] {
        // an UPDATE of one column is enough
        let sql = match (privilege, &config.mark_column) {
            ("UPDATE", Some(column)) => format!("has_column_privilege($1::oid, {}, 'UPDATE')", literal(column)),
            _ => format!("has_table_privilege($1::oid, '{privilege}')"),
        };
        // a column that is not there is somebody else's error
        let answer = client.query_one(&format!("SELECT {sql}"), &[&oid]).await;
        if answer.is_ok_and(|row| !row.get::<_, Option<bool>>(0).unwrap_or(true)) {
            let what = format!("role {role} may not {privilege} in {table}");
            return Err(missing(what, format!("GRANT SELECT, {verb} ON {table} TO {};", quote(role))));
        }
    }
    Ok(())
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn describe(client: &Client, oid: u32, schema: &str, name: &str) -> Result<Relation, Error> {
    let rows = client
        .query(
            "SELECT a.attname::text, a.atttypid, a.atttypmod, EXISTS (SELECT FROM pg_catalog.pg_index i \
             WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)) \
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
             AND a.attgenerated = '' ORDER BY a.attnum",
            &[&oid],
        )
        .await?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get::<_, &str>(0).into(),
        type_oid: row.get(1),
        type_modifier: row.get(2),
        key: row.get(3),
        catalog: None,
    };
    let columns = rows.iter().map(column).collect();
    Ok(Relation { oid, schema: schema.into(), name: name.into(), identity: ReplicaIdentity::Default, columns })
}

/// The configured one, else the only integer column that a sequence fills.
async fn order_column(
    client: &Client,
    relation: &Relation,
    table: &str,
    configured: Option<&str>,
) -> Result<String, Error> {
    let hint = format!(
        "ALTER TABLE {table} ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE; (tailwater init does it)"
    );
    if let Some(name) = configured {
        return match relation.columns.iter().find(|column| *column.name == *name) {
            Some(column) if INT.contains(&column.type_oid) => Ok(name.to_owned()),
            Some(_) => Err(missing(format!("order_column {name} of {table} is no integer"), hint)),
            None => Err(missing(format!("{table} has no column {name} (order_column)"), hint)),
        };
    }
    let mut candidates = Vec::new();
    for column in relation.columns.iter().filter(|column| INT.contains(&column.type_oid)) {
        if sequence(client, relation.oid, &column.name).await?.is_some() {
            candidates.push(column.name.to_string());
        }
    }
    match candidates.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(missing(format!("no column of {table} tells the order of its rows"), hint)),
        several => {
            let what = format!("several columns of {table} could tell the order of rows: {}", several.join(", "));
            Err(missing(what, "name one as order_column".into()))
        }
    }
}

/// The sequence that fills a column, as an identity or as a default.
async fn sequence(client: &Client, oid: u32, column: &str) -> Result<Option<i64>, Error> {
    let row = client
        .query_opt(
            "SELECT s.seqcache FROM pg_catalog.pg_attribute a \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             JOIN pg_catalog.pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.classid IN ('pg_class'::regclass, 'pg_attrdef'::regclass) \
               AND ((p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.classid = 'pg_class'::regclass) \
                 OR (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid)) \
             JOIN pg_catalog.pg_sequence s ON s.seqrelid = CASE p.classid WHEN 'pg_class'::regclass THEN p.objid ELSE p.refobjid END \
             WHERE a.attrelid = $1 AND a.attname = $2 LIMIT 1",
            &[&oid, &column],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// One value at a time, in the order of drawing: then the past can be closed (see `horizon.rs`).
async fn drawn(client: &Client, oid: u32, order: &str) -> Result<bool, Error> {
    let cache = sequence(client, oid, order).await?;
    if cache != Some(1) {
        tracing::warn!(
            column = order,
            "this order column is not filled by a sequence with CACHE 1: each look for late rows starts at the oldest row"
        );
    }
    Ok(cache == Some(1))
}

/// Without an index on the order column each look would read the whole table; and rows are deleted by its value, so two
/// rows must never share one. A partitioned table can promise that through its sequence only.
async fn indexed(client: &Client, oid: u32, table: &str, order: &str, drawn: bool) -> Result<(), Error> {
    let sql = "SELECT coalesce(bool_or(i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL), false), count(*) > 0, \
               (SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = $1) \
               FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
               ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND a.attname = $2 AND i.indisvalid";
    let row = client.query_one(sql, &[&oid, &order]).await?;
    let (unique, any, partitioned): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if unique || (any && partitioned && drawn) {
        return Ok(());
    }
    let kind = if partitioned { "INDEX" } else { "UNIQUE INDEX" };
    let hint = format!("CREATE {kind} ON {table} ({}); (tailwater init does it)", quote(order));
    Err(missing(
        format!("{table} has no {} on {order}, by which rows are found and deleted", kind.to_lowercase()),
        hint,
    ))
}

fn mark_column(relation: &Relation, config: &PollConfig) -> Result<Option<String>, Error> {
    let Some(name) = config.mark_column.as_ref().filter(|_| config.done == Done::Mark) else { return Ok(None) };
    match relation.columns.iter().find(|column| *column.name == **name) {
        Some(column) if column.type_oid == TIMESTAMPTZ => Ok(Some(name.clone())),
        _ => Err(missing(
            format!("{} has no column {name} of type timestamptz (mark_column)", config.table),
            format!("ALTER TABLE {} ADD COLUMN {} timestamptz;", config.table, quote(name)),
        )),
    }
}

/// µs since 1970 of the row's own time, null if it has none.
fn time_expression(relation: &Relation) -> String {
    let is_time = |column: &&Column| matches!(column.type_oid, TIMESTAMP | TIMESTAMPTZ);
    let named = ["created_at", "inserted_at", "occurred_at"];
    let column = named.iter().find_map(|wanted| relation.columns.iter().filter(is_time).find(|c| *c.name == **wanted));
    match column {
        Some(column) => {
            let name = quote(&column.name);
            format!("CASE WHEN isfinite({name}) THEN (extract(epoch FROM {name}) * 1000000)::bigint END")
        }
        None => "NULL::bigint".into(),
    }
}

impl Table {
    /// Rows above `low` that are not among `but`, in order. First come order value, share and time.
    pub fn fetch_sql(&self, low: i64, but: &[i64], shares: &[usize], limit: usize) -> String {
        let columns: Vec<String> = self.relation.columns.iter().map(|column| quote(&column.name)).collect();
        let (order, table) = (&self.order, &self.sql_name);
        let mut sql = format!(
            "COPY (SELECT {order}, {}, {}, {} FROM {table} WHERE {order} > {low}",
            self.share,
            self.time,
            columns.join(", ")
        );
        if let Some(mark) = &self.mark {
            write!(sql, " AND {mark} IS NULL").expect("writing to a String cannot fail");
        }
        let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(",");
        if !but.is_empty() {
            let but = list(&mut but.iter().map(i64::to_string));
            write!(sql, " AND {order} <> ALL ('{{{but}}}'::bigint[])").expect("writing to a String cannot fail");
        }
        if shares.len() < SHARES {
            let shares = list(&mut shares.iter().map(usize::to_string));
            write!(sql, " AND {} = ANY ('{{{shares}}}'::int[])", self.share).expect("writing to a String cannot fail");
        }
        write!(sql, " ORDER BY {order} LIMIT {limit}) TO STDOUT").expect("writing to a String cannot fail");
        sql
    }

    /// What is done with published rows; `$1` are their order values.
    pub fn done_sql(&self) -> String {
        let (order, table) = (&self.order, &self.sql_name);
        match &self.mark {
            None => format!("DELETE FROM {table} WHERE {order} = ANY ($1::bigint[])"),
            Some(mark) => format!(
                "UPDATE {table} SET {mark} = clock_timestamp() WHERE {order} = ANY ($1::bigint[]) AND {mark} IS NULL"
            ),
        }
    }
}
