//! The publication: is it there, does it have what we are to read, and, where the settings ask for it, making it.
//!
//! It is made before the slot, never for a slot that exists already: a publication is looked up as of the moment of each
//! change, so one that comes later makes the log before it unreadable.

use super::capture::{self, Captured, sql_identifier, sql_name};
use super::client::Client;
use super::config::{Autocreate, PostgresConfig, Snapshot};
use super::failure::{Error, Names, gap_hint};
use super::filter::Filter;
use super::slot::split_table;
use postgres_protocol::escape::escape_literal;

/// What a publication says of itself.
#[derive(Clone, Debug, Default)]
struct Publication {
    /// `FOR ALL TABLES`, or for all of some schema: tables come in by themselves.
    open: bool,
    /// `publish_via_partition_root`
    via_root: bool,
    /// What it does not publish, in words.
    silent: Vec<&'static str>,
}

/// Checks publication and tables before the stream starts. `reading`: a slot exists, so rows may have been missed already.
pub(super) async fn prepare(
    client: &mut Client,
    config: &PostgresConfig,
    filter: &Filter,
    names: &Names,
    reading: bool,
) -> Result<Captured, Error> {
    if !config.table.is_empty() {
        outbox(client, config, names, reading).await?;
        return Ok(Captured::default());
    }
    let publication = match find(client, &config.publication).await? {
        Some(publication) => publication,
        None => {
            create(client, config, filter, names, reading).await?;
            let made = find(client, &config.publication).await?;
            made.ok_or(Error::Ended("the publication that was made is gone again"))?
        }
    };
    let (mut captured, mut absent) = look(client, config, filter).await?;
    if config.publication_autocreate == Autocreate::Filtered
        && !publication.open
        && let Some(statement) = add_statement(names, &captured, &absent, publication.via_root)
    {
        run(client, &statement, || as_owner(&statement, names)).await?;
        tracing::warn!(%statement, "tables were added to the publication; their changes from before are not in the log");
        (captured, absent) = look(client, config, filter).await?;
    }
    absent_tables(config, filter, names, &publication, &captured, &absent, reading)?;
    judge(config, filter, names, &publication, &captured)?;
    Ok(captured)
}

/// The captured tables, and those that the filter takes and the publication lacks.
async fn look(
    client: &mut Client,
    config: &PostgresConfig,
    filter: &Filter,
) -> Result<(Captured, Vec<Candidate>), Error> {
    let captured = tables(client, config, filter).await?;
    let mut absent = candidates(client, filter).await?;
    absent.retain(|table| !captured.is_published(&table.schema, &table.name));
    Ok((captured, absent))
}

/// Tables that the filter takes and the publication lacks: an error for those asked for by name, else a notice.
fn absent_tables(
    config: &PostgresConfig,
    filter: &Filter,
    names: &Names,
    publication: &Publication,
    captured: &Captured,
    absent: &[Candidate],
    reading: bool,
) -> Result<(), Error> {
    let absent = absent.iter().filter(|table| !table.is_represented(captured, publication.via_root));
    let (named, matched): (Vec<&Candidate>, Vec<&Candidate>) =
        absent.partition(|table| filter.names(&table.schema, &table.name));
    if let Some(table) = named.first() {
        let name = sql_name(&table.schema, &table.name);
        let own = sql_identifier(&config.publication);
        let (why, statement) = if table.has_published_leaves(captured) && !publication.via_root {
            (
                "publishes its partitions under their own names",
                format!("ALTER PUBLICATION {own} SET (publish_via_partition_root = true);"),
            )
        } else {
            ("does not have it", format!("ALTER PUBLICATION {own} ADD TABLE {name};"))
        };
        let what = format!("table {name} is to be captured, but publication `{}` {why}", config.publication);
        return Err(absent_error(what, statement, names, reading));
    }
    // The partitions of a root that is published under its leaves' names, and the reverse.
    let plain = matched.iter().filter(|table| !table.partition && !table.has_published_leaves(captured));
    let unlisted: Vec<String> = plain.map(|table| sql_name(&table.schema, &table.name)).collect();
    if !unlisted.is_empty() && filter.is_asked() && !captured.is_empty() {
        tracing::warn!(
            publication = %config.publication, tables = %unlisted.join(", "),
            "tables match the filter, but are not in the publication: they are not captured"
        );
    }
    Ok(())
}

/// What is odd about the publication as a whole.
fn judge(
    config: &PostgresConfig,
    filter: &Filter,
    names: &Names,
    publication: &Publication,
    captured: &Captured,
) -> Result<(), Error> {
    if captured.is_empty() && !config.wants_messages() {
        let what = format!("publication `{}` has no table that matches {}", config.publication, filter.describe());
        if !publication.open && config.publication_autocreate != Autocreate::NoTables {
            let hint = format!("ALTER PUBLICATION {} ADD TABLE …;", sql_identifier(&names.publication));
            return Err(Error::Missing { what, hint });
        }
        tracing::warn!("{what} yet");
    }
    if !publication.silent.is_empty() {
        tracing::warn!(
            publication = %config.publication, missing = %publication.silent.join(", "),
            "the publication does not publish every kind of change"
        );
    }
    if !publication.silent.contains(&"update") || !publication.silent.contains(&"delete") {
        for notice in captured.keyless() {
            tracing::warn!("{notice}");
        }
    }
    Ok(())
}

/// Whether the snapshot will be able to read everything: told before a slot is made for it, all at once.
pub(super) fn check_readable(config: &PostgresConfig, names: &Names, captured: &Captured) -> Result<(), Error> {
    if config.snapshot != Snapshot::Initial {
        return Ok(());
    }
    let user = sql_identifier(&names.user);
    let tables = captured.tables();
    let mut grants: Vec<String> = Vec::new();
    for table in tables.iter().filter(|table| !table.reachable) {
        let grant = format!("GRANT USAGE ON SCHEMA {} TO {user};", sql_identifier(&table.schema));
        if !grants.contains(&grant) {
            grants.push(grant);
        }
    }
    let closed: Vec<String> = tables.iter().filter(|table| !table.readable).map(|table| table.sql_name()).collect();
    if !closed.is_empty() {
        grants.push(format!("GRANT SELECT ON {} TO {user};", closed.join(", ")));
    }
    if grants.is_empty() {
        return Ok(());
    }
    let what = format!("role {} may not read all captured tables, which the snapshot needs", names.user);
    Err(Error::Missing {
        what,
        hint: format!("{} Or, without the rows that are there: snapshot = \"never\"", grants.join(" ")),
    })
}

async fn find(client: &mut Client, name: &str) -> Result<Option<Publication>, Error> {
    let of_schema = if client.major_version() >= 15 {
        "OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid)"
    } else {
        ""
    };
    let sql = format!(
        "SELECT puballtables {of_schema}, pubviaroot, pubinsert, pubupdate, pubdelete \
         FROM pg_catalog.pg_publication p WHERE pubname = {}",
        escape_literal(name)
    );
    let rows = client.query(&sql).await?;
    Ok(rows.first().map(|row| {
        let is = |index| row.text(index) == Some("t");
        let silent = [(2, "insert"), (3, "update"), (4, "delete")];
        Publication {
            open: is(0),
            via_root: is(1),
            silent: silent.into_iter().filter(|(index, _)| !is(*index)).map(|(_, name)| name).collect(),
        }
    }))
}

/// The tables of the publication that are captured.
async fn tables(client: &mut Client, config: &PostgresConfig, filter: &Filter) -> Result<Captured, Error> {
    let sql = capture::published_sql(&config.publication, client.major_version() >= 15);
    let rows = client.query(&sql).await?;
    let tables = rows.iter().map(|row| capture::table(|index| row.text(index))).collect::<Result<_, _>>()?;
    Ok(Captured::new(tables, filter))
}

/// A table that could be in the publication.
struct Candidate {
    schema: String,
    name: String,
    partition: bool,
    /// Schema and name of its partitions that hold rows, and of what it is itself a partition of.
    leaves: Vec<(String, String)>,
    ancestors: Vec<(String, String)>,
}

impl Candidate {
    /// It has partitions that are in the publication under their own names.
    fn has_published_leaves(&self, captured: &Captured) -> bool {
        self.leaves.iter().any(|(schema, name)| captured.is_published(schema, name))
    }

    /// Its rows are captured under other names: those of all its partitions, or that of its root.
    fn is_represented(&self, captured: &Captured, via_root: bool) -> bool {
        let taken = |(schema, name): &(String, String)| captured.is_taken(schema, name);
        if via_root {
            self.ancestors.iter().any(taken)
        } else {
            !self.leaves.is_empty() && self.leaves.iter().all(taken)
        }
    }
}

async fn candidates(client: &mut Client, filter: &Filter) -> Result<Vec<Candidate>, Error> {
    // What separates names is in none that anybody types.
    let names_of = |tree: &str, kind: char| {
        format!(
            "(SELECT string_agg(rn.nspname || E'\\x01' || rc.relname, E'\\x02') FROM pg_catalog.{tree}(c.oid) r \
             JOIN pg_catalog.pg_class rc ON rc.oid = r.relid JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace \
             WHERE r.relid <> c.oid AND rc.relkind = '{kind}')"
        )
    };
    // CASE: other tables are not to be looked at, which would wait for who has them locked.
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relispartition, CASE WHEN c.relkind = 'p' THEN {} END, \
         CASE WHEN c.relispartition THEN {} END \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' \
         AND n.nspname !~ '^pg_' ORDER BY 1, 2",
        names_of("pg_partition_tree", 'r'),
        names_of("pg_partition_ancestors", 'p'),
    );
    let rows = client.query(&sql).await?;
    let parse = |row: &super::client::Row| {
        Some(Candidate {
            schema: row.text(0)?.to_owned(),
            name: row.text(1)?.to_owned(),
            partition: row.text(2) == Some("t"),
            leaves: names_in(row.text(3)),
            ancestors: names_in(row.text(4)),
        })
    };
    Ok(rows.iter().filter_map(parse).filter(|table| filter.takes(&table.schema, &table.name)).collect())
}

fn names_in(list: Option<&str>) -> Vec<(String, String)> {
    let pairs = list.unwrap_or_default().split('\x02').filter_map(|pair| pair.split_once('\x01'));
    pairs.map(|(schema, name)| (schema.to_owned(), name.to_owned())).collect()
}

/// With `via_root` a partition is in the publication by its root.
fn add_statement(names: &Names, captured: &Captured, absent: &[Candidate], via_root: bool) -> Option<String> {
    let by_others = |table: &Candidate| table.has_published_leaves(captured) || via_root && table.partition;
    let wanted = absent.iter().filter(|table| !by_others(table));
    let tables: Vec<String> = wanted.map(|table| sql_name(&table.schema, &table.name)).collect();
    let publication = sql_identifier(&names.publication);
    (!tables.is_empty()).then(|| format!("ALTER PUBLICATION {publication} ADD TABLE {};", tables.join(", ")))
}

/// Makes the publication, or says with which statement to make it.
async fn create(
    client: &mut Client,
    config: &PostgresConfig,
    filter: &Filter,
    names: &Names,
    reading: bool,
) -> Result<(), Error> {
    let publication = sql_identifier(&config.publication);
    let candidates = candidates(client, filter).await?;
    let wanted = candidates.iter().filter(|table| !(config.publish_via_partition_root && table.partition));
    let listed: Vec<String> = wanted.map(|table| sql_name(&table.schema, &table.name)).collect();
    let with = if config.publish_via_partition_root { " WITH (publish_via_partition_root = true)" } else { "" };
    let of = match config.publication_autocreate {
        Autocreate::AllTables => " FOR ALL TABLES".into(),
        Autocreate::NoTables => String::new(),
        _ if listed.is_empty() => " FOR TABLE …".into(),
        _ => format!(" FOR TABLE {}", listed.join(", ")),
    };
    let statement = format!("CREATE PUBLICATION {publication}{of}{with};");
    let what = format!("publication `{}` does not exist", config.publication);
    if reading || config.publication_autocreate == Autocreate::Disabled {
        return Err(absent_error(what, statement, names, reading));
    }
    if config.publication_autocreate == Autocreate::Filtered && listed.is_empty() {
        let what = format!("{what}, and no table matches {}", filter.describe());
        return Err(Error::Missing { what, hint: "create the tables first, or correct `tables`".into() });
    }
    let hint = || match config.publication_autocreate {
        Autocreate::AllTables => as_superuser(&statement),
        _ => as_owner(&statement, names),
    };
    run(client, &statement, hint).await?;
    tracing::info!(%statement, "the publication was made");
    Ok(())
}

/// Runs a statement that our role may not be allowed; then it is one for somebody else to type.
async fn run(client: &mut Client, statement: &str, hint: impl FnOnce() -> String) -> Result<(), Error> {
    match client.query(statement).await {
        Ok(_) => Ok(()),
        // Somebody else was quicker, or has it from us.
        Err(error) if error.code() == Some("42710") => Ok(()),
        Err(error) if error.code() == Some("42501") => {
            Err(Error::Missing { what: format!("the publication cannot be made by us: {error}"), hint: hint() })
        }
        Err(error) => Err(error),
    }
}

fn as_owner(statement: &str, names: &Names) -> String {
    format!(
        "as owner of the tables or superuser: {statement} Or allow it to role {user}: it must own the tables, and \
         GRANT CREATE ON DATABASE {database} TO {user};",
        user = sql_identifier(&names.user),
        database = sql_identifier(&names.dbname),
    )
}

/// No other right makes up for that of a superuser here.
fn as_superuser(statement: &str) -> String {
    format!("as superuser: {statement} Or, of the captured tables alone: publication_autocreate = \"filtered\"")
}

fn absent_error(what: String, statement: String, names: &Names, reading: bool) -> Error {
    if reading {
        let hint = format!("{statement} Rows written in between never come: {}", gap_hint(names));
        Error::Gap { what, hint }
    } else {
        Error::Missing { what, hint: statement }
    }
}

/// One row: does the publication exist, does it have the outbox (itself, or partitions of it)?
pub(super) fn outbox_sql(config: &PostgresConfig) -> String {
    let (schema, table) = split_table(&config.table);
    let (schema, table, publication) =
        (escape_literal(schema), escape_literal(table), escape_literal(&config.publication));
    format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {publication}), \
         EXISTS (SELECT FROM pg_catalog.pg_publication_tables t \
         JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid \
         LEFT JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent \
         LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace \
         WHERE t.pubname = {publication} AND ((n.nspname = {schema} AND c.relname = {table}) \
         OR (pn.nspname = {schema} AND pc.relname = {table})))"
    )
}

/// The judgement on an answer to [`outbox_sql`].
pub(super) fn check_outbox(exists: bool, has_table: bool, names: &Names, reading: bool) -> Result<(), Error> {
    let Names { publication, table, .. } = names;
    if !exists {
        let what = format!("publication `{publication}` does not exist");
        return Err(absent_error(what, outbox_statement(names), names, reading));
    }
    if !has_table {
        let what = format!("table `{table}` is not in publication `{publication}`: its rows are not sent");
        return Err(absent_error(what, format!("ALTER PUBLICATION {publication} ADD TABLE {table};"), names, reading));
    }
    Ok(())
}

fn outbox_statement(names: &Names) -> String {
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true);",
        names.publication, names.table
    )
}

async fn outbox(client: &mut Client, config: &PostgresConfig, names: &Names, reading: bool) -> Result<(), Error> {
    let rows = client.query(&outbox_sql(config)).await?;
    let is = |index: usize| rows.first().and_then(|row| row.text(index)) == Some("t");
    if !is(0) && !reading && config.publication_autocreate != Autocreate::Disabled {
        let statement = outbox_statement(names);
        run(client, &statement, || as_owner(&statement, names)).await?;
        tracing::info!(%statement, "the publication was made");
        return Ok(());
    }
    check_outbox(is(0), is(1), names, reading)
}
