//! What change events want of the database: a publication of the captured tables, and a role that may read them.

use super::facts::{self, Facts};
use super::plan::{self, Plan, Wanted};
use super::sql::{TableName, ident};
use crate::config::PipelineConfig;
use crate::sources::postgres::config::{Autocreate, PostgresConfig};
use crate::sources::postgres::filter::Filter;
use tokio_postgres::Client;

/// A table that the filter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub name: TableName,
    pub published: bool,
    /// A row can be named in the log when it is updated or deleted.
    pub has_identity: bool,
    /// By the relay's role, or where it does not exist yet, by everybody.
    pub can_select: bool,
    pub can_use_schema: bool,
}

/// Looks and plans; changes nothing.
pub async fn plan(client: &Client, pipeline: &PipelineConfig, wanted: &Wanted) -> Result<Plan, String> {
    let source = pipeline.source.log().ok_or("this pipeline polls its table")?;
    let filter = Filter::new(&source.tables)?;
    let said = |error: tokio_postgres::Error| {
        let failure = crate::sources::postgres::failure::classify_sql(error, "the admin role", "the admin's database");
        failure.to_string()
    };
    let facts = facts::look(client, wanted).await.map_err(said)?;
    let whose = if facts.role.is_some() { wanted.role.name.as_str() } else { "public" };
    // a partition is published with its root
    const TABLES: &str = "SELECT n.nspname::text, c.relname::text, \
         EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = $1 AND t.schemaname = n.nspname AND t.tablename = c.relname) \
         OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1 AND r.prrelid = c.oid), \
         CASE c.relreplident WHEN 'd' THEN EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary) \
              WHEN 'n' THEN false ELSE true END, \
         has_table_privilege($2::name, c.oid, 'SELECT'), has_schema_privilege($2::name, n.oid, 'USAGE') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition \
         AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1, 2";
    let rows = client.query(TABLES, &[&wanted.publication, &whose]).await.map_err(said)?;
    let captured = rows.iter().map(|row| Captured {
        name: TableName { schema: row.get(0), name: row.get(1) },
        published: row.get(2),
        has_identity: row.get(3),
        can_select: row.get(4),
        can_use_schema: row.get(5),
    });
    let captured = captured.filter(|table| filter.takes(&table.name.schema, &table.name.name)).collect();
    Ok(compare(wanted, source, &facts, captured, &filter))
}

fn compare(wanted: &Wanted, source: &PostgresConfig, facts: &Facts, tables: Vec<Captured>, filter: &Filter) -> Plan {
    let mut plan = Plan::default();
    plan::server(&mut plan, wanted, facts);
    if tables.is_empty() && source.publication_autocreate != Autocreate::NoTables {
        plan.problem(format!("no table matches {}", filter.describe()), None);
    } else {
        publication(&mut plan, wanted, source, facts, &tables);
    }
    plan::role(&mut plan, wanted, facts);
    if facts.role.is_some_and(|role| role.superuser) {
        return plan;
    }
    let role = ident(&wanted.role.name);
    if !facts.can_connect {
        plan.step(format!("GRANT CONNECT ON DATABASE {} TO {role}", ident(&facts.database)));
    }
    let mut schemas: Vec<&str> =
        tables.iter().filter(|table| !table.can_use_schema).map(|table| table.name.schema.as_str()).collect();
    schemas.dedup();
    for schema in schemas {
        plan.step(format!("GRANT USAGE ON SCHEMA {} TO {role}", ident(schema)));
    }
    let closed = names(tables.iter().filter(|table| !table.can_select));
    if !closed.is_empty() {
        plan.step(format!("GRANT SELECT ON {closed} TO {role}"));
    }
    plan
}

fn publication(plan: &mut Plan, wanted: &Wanted, source: &PostgresConfig, facts: &Facts, tables: &[Captured]) {
    let name = ident(&wanted.publication);
    let with = if source.publish_via_partition_root { " WITH (publish_via_partition_root = true)" } else { "" };
    match (&facts.publication, source.publication_autocreate) {
        (None, Autocreate::AllTables) => plan.step(format!("CREATE PUBLICATION {name} FOR ALL TABLES{with}")),
        (None, Autocreate::NoTables) => plan.step(format!("CREATE PUBLICATION {name}{with}")),
        (None, _) => plan.step(format!("CREATE PUBLICATION {name} FOR TABLE {}{with}", names(tables.iter()))),
        (Some(known), _) => {
            let absent = names(tables.iter().filter(|table| !table.published));
            if !known.all_tables && !absent.is_empty() && source.publication_autocreate != Autocreate::NoTables {
                plan.step(format!("ALTER PUBLICATION {name} ADD TABLE {absent}"));
            }
            if !known.insert || !known.update_or_delete {
                let text = format!("publication {} does not publish every kind of change", wanted.publication);
                let remedy = format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');");
                plan.problem(text, Some(remedy));
            }
        }
    }
    for table in tables.iter().filter(|table| !table.has_identity) {
        let text = format!(
            "{} has no primary key and no replica identity: PostgreSQL refuses to update or delete its rows once they are published",
            table.name
        );
        plan.problem(text, Some(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.name)));
    }
}

fn names<'a>(tables: impl Iterator<Item = &'a Captured>) -> String {
    tables.map(|table| table.name.to_string()).collect::<Vec<_>>().join(", ")
}
