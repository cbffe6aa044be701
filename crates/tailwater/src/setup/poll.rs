//! What `init` makes for a table that is polled: the order column with its index, the mark, the trigger that wakes the
//! relays, and a role that may read and be done with rows, nothing else. No replication, no publication, no slot.

use super::facts::{Facts, Table};
use super::layout::{self, NewColumn};
use super::plan::{self, Plan, Wanted, WantedRole};
use super::sql::{TableName, ident, literal};
use crate::config::PipelineConfig;
use crate::sources::postgres::target::Target;
use crate::sources::postgres_poll::config::{Done, PollConfig, channel};
use tokio_postgres::{Client, Error};

const TRIGGER: &str = "tailwater_notify";

/// What of polling is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollFacts {
    /// Columns of integer type that a sequence fills.
    pub drawn: Vec<String>,
    /// First columns of the table's indexes, each with whether it is unique, alone and over all rows.
    pub indexes: Vec<(String, bool)>,
    /// Conditions of its partial indexes, with their first columns.
    pub partial: Vec<(String, String)>,
    pub has_trigger: bool,
    pub has_function: bool,
    /// Of the relay's role, where it exists.
    pub may_finish: bool,
}

/// What a pipeline that polls wants of its database.
pub fn wanted(pipeline: &PipelineConfig, source: &PollConfig) -> Result<Wanted, String> {
    let target = Target::resolve(&source.connection).map_err(|error| error.to_string())?;
    Ok(Wanted {
        table: TableName::parse(&source.table),
        publication: String::new(),
        slot: String::new(),
        database: target.dbname,
        role: WantedRole { name: target.user, password: target.password, replication: false },
        route: pipeline.route.outbox.clone(),
    })
}

/// Looks at what only polling needs.
pub async fn look(client: &Client, wanted: &Wanted, facts: &Facts, source: &PollConfig) -> Result<PollFacts, Error> {
    const DRAWN: &str = "SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 \
         AND a.atttypid IN (20, 21, 23) AND pg_get_serial_sequence(a.attrelid::regclass::text, a.attname::text) IS NOT NULL \
         ORDER BY a.attnum";
    const INDEXES: &str = "SELECT a.attname::text, i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL, \
         pg_get_expr(i.indpred, i.indrelid) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid \
         AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND i.indisvalid";
    const TRIGGERS: &str = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND tgname = $2), \
         EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $3 AND p.proname = $2)";
    let mut found = PollFacts::default();
    let oid = facts.table.as_ref().map_or(0, |table| table.oid);
    found.drawn = client.query(DRAWN, &[&oid]).await?.iter().map(|row| row.get(0)).collect();
    for row in client.query(INDEXES, &[&oid]).await? {
        match row.get::<_, Option<String>>(2) {
            Some(condition) => found.partial.push((row.get(0), condition)),
            None => found.indexes.push((row.get(0), row.get(1))),
        }
    }
    let row = client.query_one(TRIGGERS, &[&oid, &TRIGGER, &wanted.table.schema]).await?;
    (found.has_trigger, found.has_function) = (row.get(0), row.get(1));
    let marked = source.mark_column.as_ref();
    if facts.role.is_some()
        && let Some(table) = facts.table.as_ref().filter(|table| marked.is_none_or(|mark| table.columns.contains(mark)))
    {
        let privilege = match marked {
            Some(mark) => format!("has_column_privilege($1::name, $2::oid, {}, 'UPDATE')", literal(mark)),
            None => "has_table_privilege($1::name, $2::oid, 'DELETE')".into(),
        };
        let sql = format!("SELECT {privilege}");
        found.may_finish = client.query_one(&sql, &[&wanted.role.name, &table.oid]).await?.get(0);
    }
    Ok(found)
}

/// Compares. Pure.
pub fn plan(wanted: &Wanted, facts: &Facts, found: &PollFacts, source: &PollConfig) -> Plan {
    let mut plan = Plan::default();
    plan::server(&mut plan, wanted, facts);
    match &facts.table {
        None => new_table(&mut plan, wanted, facts, source),
        Some(table) => existing_table(&mut plan, wanted, table, found, source),
    }
    if !found.has_function {
        plan.step(format!(
            "CREATE FUNCTION {}.{TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n  PERFORM pg_notify(TG_ARGV[0], \
             '');\n  RETURN NULL;\nEND $$",
            ident(&wanted.table.schema)
        ));
    }
    if !found.has_trigger {
        plan.step(format!(
            "CREATE TRIGGER {TRIGGER} AFTER INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}.{TRIGGER}({})",
            wanted.table,
            ident(&wanted.table.schema),
            literal(&channel(&source.table))
        ));
    }
    plan::role(&mut plan, wanted, facts);
    plan::grants(&mut plan, wanted, facts);
    if !found.may_finish && !facts.role.is_some_and(|role| role.superuser) && !plan::owns_it(wanted, facts) {
        let verb = match &source.mark_column {
            Some(mark) => format!("UPDATE ({})", ident(mark)),
            None => "DELETE".into(),
        };
        plan.step(format!("GRANT {verb} ON {} TO {}", wanted.table, ident(&wanted.role.name)));
    }
    plan
}

fn new_table(plan: &mut Plan, wanted: &Wanted, facts: &Facts, source: &PollConfig) {
    if !facts.schema_exists {
        plan.step(format!("CREATE SCHEMA {}", ident(&wanted.table.schema)));
    }
    let order = source.order_column.as_deref().unwrap_or("seq");
    let mut columns: Vec<String> = layout::columns(&wanted.route).iter().map(NewColumn::sql).collect();
    columns.insert(0, format!("{} bigint GENERATED ALWAYS AS IDENTITY UNIQUE", ident(order)));
    columns.extend(source.mark_column.as_ref().map(|mark| format!("{} timestamptz", ident(mark))));
    plan.step(format!("CREATE TABLE {} (\n  {}\n)", wanted.table, columns.join(",\n  ")));
    if let Some(mark) = &source.mark_column {
        plan.step(unmarked(wanted, order, mark));
    }
}

/// An index of the rows that are not marked yet: looks cost the same however many are.
fn unmarked(wanted: &Wanted, order: &str, mark: &str) -> String {
    format!("CREATE INDEX ON {} ({}) WHERE {} IS NULL", wanted.table, ident(order), ident(mark))
}

fn existing_table(plan: &mut Plan, wanted: &Wanted, table: &Table, found: &PollFacts, source: &PollConfig) {
    let partitioned = table.kind == "p";
    if !matches!(table.kind.as_str(), "r" | "p") {
        return plan.problem(format!("{} is not a table: it cannot be polled", wanted.table), None);
    }
    plan::columns(plan, wanted, table);
    let order = match (&source.order_column, found.drawn.as_slice()) {
        (Some(order), _) => order.clone(),
        (None, [only]) => only.clone(),
        (None, []) => "seq".into(),
        (None, several) => {
            let text =
                format!("several columns of {} could tell the order of rows: {}", wanted.table, several.join(", "));
            return plan.problem(text, Some("set order_column in the pipeline's source to one of them".into()));
        }
    };
    let name = ident(&order);
    if !table.columns.contains(&order) {
        // a partitioned table takes no identity before PostgreSQL 17, and no UNIQUE without its partition key
        let definition = if partitioned { "bigserial" } else { "bigint GENERATED ALWAYS AS IDENTITY UNIQUE" };
        plan.step(format!("ALTER TABLE {} ADD COLUMN {name} {definition}", wanted.table));
    }
    let unique = !table.columns.contains(&order) && !partitioned;
    let indexed = found.indexes.iter().any(|(column, unique)| *column == order && (*unique || partitioned));
    if !unique && !indexed {
        let kind = if partitioned { "INDEX" } else { "UNIQUE INDEX" };
        plan.step(format!("CREATE {kind} ON {} ({name})", wanted.table));
    }
    if source.done == Done::Mark
        && let Some(mark) = &source.mark_column
    {
        if !table.columns.contains(mark) {
            plan.step(format!("ALTER TABLE {} ADD COLUMN {} timestamptz", wanted.table, ident(mark)));
        }
        let condition = format!("({} IS NULL)", ident(mark));
        if !found.partial.contains(&(order.clone(), condition)) {
            plan.step(unmarked(wanted, &order, mark));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailwater_core::transform::outbox::OutboxOptions;

    fn wanted() -> Wanted {
        Wanted {
            table: TableName::parse("outbox"),
            publication: String::new(),
            slot: String::new(),
            database: "shop".into(),
            role: WantedRole { name: "poller".into(), password: None, replication: false },
            route: OutboxOptions::default(),
        }
    }

    /// A server that cannot be read by its log.
    fn facts() -> Facts {
        Facts {
            version_num: 150_018,
            wal_level: "replica".into(),
            database: "shop".into(),
            admin: "owner".into(),
            schema_exists: true,
            can_connect: true,
            can_use_schema: true,
            ..Facts::default()
        }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|step| step.shown.replace('\n', " ")).collect()
    }

    #[test]
    fn a_new_table_gets_its_order_its_trigger_and_the_least_privileges() {
        let source = PollConfig { table: "outbox".into(), ..PollConfig::default() };
        let steps = shown(&plan(&wanted(), &facts(), &PollFacts::default(), &source));
        assert!(steps[0].contains("seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE"), "{steps:?}");
        assert!(steps[1].starts_with("CREATE FUNCTION public.tailwater_notify()"), "{steps:?}");
        assert!(steps[2].ends_with("EXECUTE FUNCTION public.tailwater_notify('tailwater_outbox')"), "{steps:?}");
        let grants = [
            "CREATE ROLE poller LOGIN",
            "GRANT SELECT ON public.outbox TO poller",
            "GRANT DELETE ON public.outbox TO poller",
        ];
        assert_eq!(steps[3..], grants, "no REPLICATION, no UPDATE");
    }

    #[test]
    fn an_order_without_an_index_gets_one_that_is_unique_where_it_can_be() {
        let columns = ["id", "aggregatetype", "aggregateid", "payload", "n"].map(String::from).to_vec();
        let source = PollConfig { table: "outbox".into(), ..PollConfig::default() };
        for (kind, unique, step) in [
            ("r", None, Some("CREATE UNIQUE INDEX ON public.outbox (n)")),
            ("r", Some(false), Some("CREATE UNIQUE INDEX ON public.outbox (n)")),
            ("r", Some(true), None),
            ("p", None, Some("CREATE INDEX ON public.outbox (n)")),
            ("p", Some(false), None),
        ] {
            let table = Table { oid: 1, kind: kind.into(), columns: columns.clone(), ..Table::default() };
            let indexes = unique.map(|unique| ("n".to_owned(), unique)).into_iter().collect();
            let found = PollFacts { drawn: vec!["n".into()], indexes, ..PollFacts::default() };
            let steps = shown(&plan(&wanted(), &Facts { table: Some(table), ..facts() }, &found, &source));
            let made: Vec<&str> = steps.iter().map(String::as_str).filter(|step| step.contains("INDEX")).collect();
            assert_eq!(made, step.into_iter().collect::<Vec<_>>(), "{kind}, {unique:?}");
        }
    }

    #[test]
    fn marking_needs_one_column_and_the_privilege_on_that_one() {
        let mark = Some("sent".to_owned());
        let source =
            PollConfig { table: "outbox".into(), done: Done::Mark, mark_column: mark, ..PollConfig::default() };
        let columns = ["id", "aggregatetype", "aggregateid", "payload", "n"].map(String::from).to_vec();
        let table = Table { oid: 1, kind: "r".into(), columns, ..Table::default() };
        let found = PollFacts { drawn: vec!["n".into()], indexes: vec![("n".into(), true)], ..PollFacts::default() };
        let steps = shown(&plan(&wanted(), &Facts { table: Some(table), ..facts() }, &found, &source));
        for step in [
            "ALTER TABLE public.outbox ADD COLUMN sent timestamptz",
            "CREATE INDEX ON public.outbox (n) WHERE sent IS NULL",
            "GRANT UPDATE (sent) ON public.outbox TO poller",
        ] {
            assert!(steps.contains(&step.to_owned()), "{step} in {steps:?}");
        }
        assert!(!steps.iter().any(|step| step.contains("seq") || step.contains("UNIQUE")), "{steps:?}");
    }
}
