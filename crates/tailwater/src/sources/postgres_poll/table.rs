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
    /// The sequence from which values come one by one, ascending, so that a lower one is never handed out later.
    pub sequence: Option<u32>,
    /// Looking at the whole index again costs little: it holds no rows that were published.
    pub is_lean: bool,
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
    let sequence = drawn(client, oid, &order).await?;
    let mark = mark_column(&relation, config)?;
    let is_lean = indexed(client, oid, &sql_name, &order, sequence.is_some(), mark.as_deref()).await?;
    let share = match relation.columns.iter().any(|column| *column.name == *key_column) {
        true => format!("(hashtext(coalesce({}::text, '')) & {})", quote(key_column), SHARES - 1),
        // the router will say what is wrong with such a table
        false => format!("(hashtext({}::text) & {})", quote(&order), SHARES - 1),
    };
    Ok(Table {
        oid,
        system_id: found.get::<_, i64>(1).cast_unsigned(),
        sequence,
        is_lean,
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
    let (verb, grant) = match (config.done, &config.mark_column) {
        (Done::Delete, _) => ("DELETE", "DELETE".to_owned()),
        (Done::Mark, mark) => ("UPDATE", format!("UPDATE ({})", quote(mark.as_deref().unwrap_or_default()))),
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
            return Err(missing(what, format!("GRANT SELECT, {grant} ON {table} TO {};", quote(role))));
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

/// The sequence that fills a column, as an identity or as a default, and whether it hands out one value after the other.
async fn sequence(client: &Client, oid: u32, column: &str) -> Result<Option<(u32, bool)>, Error> {
    let row = client
        .query_opt(
            "SELECT s.seqrelid, s.seqcache = 1 AND s.seqincrement > 0 AND NOT s.seqcycle FROM pg_catalog.pg_attribute a \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             JOIN pg_catalog.pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.classid IN ('pg_class'::regclass, 'pg_attrdef'::regclass) \
               AND ((p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.classid = 'pg_class'::regclass) \
                 OR (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid)) \
             JOIN pg_catalog.pg_sequence s ON s.seqrelid = CASE p.classid WHEN 'pg_class'::regclass THEN p.objid ELSE p.refobjid END \
             WHERE a.attrelid = $1 AND a.attname = $2 LIMIT 1",
            &[&oid, &column],
        )
        .await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// One value at a time, in the order of drawing: then the past can be closed (see `horizon.rs`).
async fn drawn(client: &Client, oid: u32, order: &str) -> Result<Option<u32>, Error> {
    let sequence = sequence(client, oid, order).await?.filter(|(_, one_by_one)| *one_by_one);
    if sequence.is_none() {
        tracing::warn!(
            column = order,
            "this order column is not filled by an ascending sequence with CACHE 1: late rows are looked for in all gaps, for ever"
        );
    }
    Ok(sequence.map(|(oid, _)| oid))
}

/// Without an index on the order column each look would read the whole table; and rows are deleted by its value, so two
/// rows must never share one. A partitioned table can promise that through its sequence only. True: an index holds only
/// rows that are not published.
async fn indexed(
    client: &Client,
    oid: u32,
    table: &str,
    order: &str,
    drawn: bool,
    mark: Option<&str>,
) -> Result<bool, Error> {
    let sql = "SELECT coalesce(bool_or(i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL), false), count(*) > 0, \
               (SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = $1), \
               coalesce(bool_or(pg_get_expr(i.indpred, i.indrelid) = '(' || quote_ident($3::text) || ' IS NULL)'), false) \
               FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
               ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND a.attname = $2 AND i.indisvalid";
    let row = client.query_one(sql, &[&oid, &order, &mark]).await?;
    let (unique, any, partitioned, partial): (bool, bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let found = unique || (any && partitioned && drawn);
    if !found {
        let kind = if partitioned { "INDEX" } else { "UNIQUE INDEX" };
        let hint = format!("CREATE {kind} ON {table} ({}); (tailwater init does it)", quote(order));
        let what = format!("{table} has no {} on {order}, by which rows are found and deleted", kind.to_lowercase());
        return Err(missing(what, hint));
    }
    if let Some(mark) = mark.filter(|_| !partial) {
        let create = format!("CREATE INDEX ON {table} ({}) WHERE {} IS NULL;", quote(order), quote(mark));
        tracing::warn!(
            what_to_do = create,
            "no index of the rows that are not marked: each start reads all marked ones, and nothing is looked for twice"
        );
    }
    Ok(mark.is_none() || partial)
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

/// What one look asks for.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub cursor: i64,
    pub gaps: &'a [(i64, i64)],
    pub shares: &'a [usize],
    pub limit: usize,
    pub gaps_limit: usize,
}

fn list<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

impl Table {
    /// Rows in the gaps and behind the cursor, at most so many of each, in order. First come order value, share and time.
    /// One statement, hence one snapshot.
    pub fn fetch_sql(&self, look: &Look<'_>) -> String {
        let order = &self.order;
        let columns: Vec<String> = self.relation.columns.iter().map(|column| quote(&column.name)).collect();
        let mut select =
            format!("SELECT {order}, {}, {}, {} FROM {}", self.share, self.time, columns.join(", "), self.sql_name);
        let mut also = String::new();
        if let Some(mark) = &self.mark {
            write!(also, " AND {mark} IS NULL").expect("writing to a String cannot fail");
        }
        if look.shares.len() < SHARES {
            let shares = list(look.shares.iter());
            write!(also, " AND {} = ANY ('{{{shares}}}'::int[])", self.share).expect("writing to a String cannot fail");
        }
        // `'…'::bigint`, since the least one without quotes is a numeric, for which no index serves
        let mut behind = select.clone();
        let (cursor, limit) = (look.cursor, look.limit);
        write!(behind, " WHERE {order} > '{cursor}'::bigint{also} ORDER BY {order} LIMIT {limit}").expect("as above");
        if look.gaps.is_empty() {
            return format!("COPY ({behind}) TO STDOUT");
        }
        let (low, high) = (list(look.gaps.iter().map(|gap| gap.0)), list(look.gaps.iter().map(|gap| gap.1)));
        let limit = look.gaps_limit;
        // the inner LIMIT keeps each gap an index scan of its own
        write!(select, " WHERE {order} BETWEEN r.low AND r.high{also} ORDER BY {order} LIMIT {limit}")
            .expect("as above");
        format!(
            "COPY (SELECT * FROM ((SELECT t.* FROM unnest('{{{low}}}'::bigint[], '{{{high}}}'::bigint[]) AS r (low, high), \
             LATERAL ({select}) AS t ORDER BY 1 LIMIT {limit}) UNION ALL ({behind})) AS u ORDER BY 1) TO STDOUT"
        )
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
