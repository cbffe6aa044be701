//! What pruning must know of the outbox table: which tables hold its rows, and which column is their age.

use super::prune::PruneError;
use crate::setup::sql::TableName;
use tokio_postgres::Client;

/// Where the rows are, and how old they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxTable {
    /// The table itself, or the leaves of a partitioned one: a `ctid` means something in one table only.
    pub leaves: Vec<TableName>,
    /// Not needed where age does not matter.
    pub age: Option<AgeColumn>,
}

/// The column that holds a row's age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgeColumn {
    pub name: String,
    /// `timestamp` or `date`: read as UTC.
    pub without_zone: bool,
}

/// Names that say "when the event happened", first choice first. One of them must be there alone, or be named.
const AGE_NAMES: &[&str] = &["occurred_at", "created_at", "inserted_at", "event_time", "created", "ts", "timestamp"];

/// Looks the table up. `named`: the configured age column; `timestamp`: the route's, if it has one.
pub async fn look_up(
    client: &Client,
    table: &TableName,
    named: Option<&str>,
    timestamp: Option<&str>,
    age_needed: bool,
) -> Result<OutboxTable, PruneError> {
    const TABLE: &str = "SELECT c.oid, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
         WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    const LEAVES: &str = "SELECT n.nspname::text, c.relname::text FROM pg_partition_tree($1::oid::regclass) t \
         JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE t.isleaf AND c.relkind = 'r' ORDER BY 1, 2";
    let row = client.query_opt(TABLE, &[&table.schema, &table.name]).await?;
    let row = row.ok_or_else(|| PruneError::NoTable(table.clone()))?;
    let (oid, kind): (u32, String) = (row.get(0), row.get(1));
    let leaves = match kind.as_str() {
        "p" => {
            let rows = client.query(LEAVES, &[&oid]).await?;
            rows.iter().map(|row| TableName { schema: row.get(0), name: row.get(1) }).collect()
        }
        _ => vec![table.clone()],
    };
    let columns: Vec<(String, String)> =
        client.query(COLUMNS, &[&oid]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let age = match choose(&columns, named, timestamp) {
        Ok(age) => Some(age),
        Err(_) if !age_needed && named.is_none() => None,
        Err(reason) => return Err(PruneError::NoAge { table: table.clone(), reason }),
    };
    Ok(OutboxTable { leaves, age })
}

/// The named column, else the route's timestamp, else a usual name that is there alone, else the only time column.
fn choose(columns: &[(String, String)], named: Option<&str>, timestamp: Option<&str>) -> Result<AgeColumn, String> {
    let times: Vec<AgeColumn> = columns.iter().filter_map(|(name, kind)| age_column(name, kind)).collect();
    let find = |name: &str| times.iter().find(|column| column.name == name).cloned();
    if let Some(named) = named {
        return find(named).ok_or_else(|| match columns.iter().find(|(name, _)| name == named) {
            Some((_, kind)) => format!("column {named} is of type {kind}, not a time"),
            None => format!("there is no column {named}"),
        });
    }
    if let Some(column) = timestamp.and_then(find) {
        return Ok(column);
    }
    let usual: Vec<AgeColumn> = AGE_NAMES.iter().filter_map(|name| find(name)).collect();
    let candidates = if usual.is_empty() { times } else { usual };
    match candidates.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err("no column holds a time".into()),
        several => {
            let names: Vec<&str> = several.iter().map(|column| column.name.as_str()).collect();
            Err(format!("several columns could be the age: {}", names.join(", ")))
        }
    }
}

fn age_column(name: &str, kind: &str) -> Option<AgeColumn> {
    let without_zone = match kind {
        "timestamp with time zone" => false,
        "timestamp without time zone" | "date" => true,
        _ => return None,
    };
    Some(AgeColumn { name: name.into(), without_zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_column_is_found_only_where_there_is_no_doubt() {
        let at = "timestamp with time zone";
        let chosen = |columns: &[(&str, &str)], named, timestamp| {
            let columns: Vec<_> = columns.iter().map(|(name, kind)| (name.to_string(), kind.to_string())).collect();
            choose(&columns, named, timestamp).map(|column| column.name)
        };
        let two = [("created_at", at), ("occurred_at", at), ("sent", at), ("payload", "jsonb")];
        assert_eq!(chosen(&[("id", "uuid"), ("occurred_at", at), ("sent", at)], None, None).unwrap(), "occurred_at");
        assert_eq!(chosen(&[("id", "uuid"), ("sent", at)], None, None).unwrap(), "sent");
        assert_eq!(chosen(&two, None, Some("sent")).unwrap(), "sent");
        assert_eq!(chosen(&two, Some("occurred_at"), Some("sent")).unwrap(), "occurred_at");
        assert!(chosen(&two, None, None).unwrap_err().contains("occurred_at, created_at"));
        assert!(chosen(&two, Some("payload"), None).unwrap_err().contains("jsonb"));
        assert!(chosen(&two, Some("nosuch"), None).unwrap_err().contains("no column nosuch"));
        assert!(chosen(&[("id", "uuid")], None, None).is_err());
        assert!(choose(&[("d".into(), "date".into())], None, None).unwrap().without_zone);
    }
}
