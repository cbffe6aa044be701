//! The captured tables of a pipeline of change events: those in its publication that its filter takes.
//!
//! Looked up at start and again while it runs. A table that was taken out of the publication is a possible gap; one that came
//! in is captured from then on. Not here: the outbox, which is one table by name (`publication.rs`).

use super::failure::{Error, Names, gap_hint};
use super::filter::Filter;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use std::collections::{BTreeMap, BTreeSet};

/// A table of the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: `r` a table, `p` a partitioned one.
    pub kind: char,
    pub partition: bool,
    /// Updates and deletes of it cannot be told apart, and the server refuses them once they are published (T27).
    pub keyless: bool,
    /// Our role may read rows of it: the snapshot needs that, the stream does not.
    pub readable: bool,
    /// Its schema may be entered.
    pub reachable: bool,
    /// The publication's row filter and column list, where it has them.
    pub row_filter: Option<String>,
    pub columns: Option<Vec<String>>,
}

/// All tables of a publication, by oid, and the oids of those that are captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Captured {
    published: BTreeMap<u32, Table>,
    taken: BTreeSet<u32>,
}

/// Every table of the publication. `lists`: the server has row filters and column lists (15 and later).
pub(super) fn published_sql(publication: &str, lists: bool) -> String {
    tables_sql(publication, lists, "")
}

/// As [`published_sql`], the outbox only: the table itself, or its partitions.
pub(super) fn outbox_sql(publication: &str, lists: bool, schema: &str, table: &str) -> String {
    let wanted = format!("= ({}, {})", escape_literal(schema), escape_literal(table));
    let of_it = format!(
        " AND ((n.nspname, c.relname) {wanted} OR EXISTS (SELECT FROM pg_catalog.pg_inherits i \
         JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace \
         WHERE i.inhrelid = c.oid AND (pn.nspname, pc.relname) {wanted}))"
    );
    tables_sql(publication, lists, &of_it)
}

/// `DISTINCT`: 14 names a partition twice that is listed besides its table, and its rows would be read twice.
fn tables_sql(publication: &str, lists: bool, condition: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, \
         c.relreplident = 'n' OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i \
         WHERE i.indrelid = c.oid AND i.indisprimary)), \
         pg_catalog.has_any_column_privilege(c.oid, 'SELECT'), pg_catalog.has_schema_privilege(n.oid, 'USAGE'), {} \
         FROM (SELECT DISTINCT * FROM pg_catalog.pg_publication_tables) t \
         JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         WHERE t.pubname = {}{condition} ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"",
        if lists { "t.rowfilter, array_to_string(t.attnames, E'\\n')" } else { "NULL, NULL" },
        escape_literal(publication),
    )
}

/// One row of [`published_sql`]; `text`: its column by number.
pub(super) fn table<'a>(text: impl Fn(usize) -> Option<&'a str>) -> Result<Table, Error> {
    let is = |index| text(index) == Some("t");
    let parse = || {
        Some(Table {
            oid: text(0)?.parse().ok()?,
            schema: text(1)?.to_owned(),
            name: text(2)?.to_owned(),
            kind: text(3)?.chars().next()?,
            partition: is(4),
            keyless: is(5),
            readable: is(6),
            reachable: is(7),
            row_filter: text(8).map(str::to_owned),
            columns: text(9).map(|names| names.split('\n').map(str::to_owned).collect()),
        })
    };
    parse().ok_or_else(|| Error::Protocol("no sense in the answer to pg_publication_tables".into()))
}

impl Table {
    /// `schema.name`, quoted where SQL needs it.
    pub fn sql_name(&self) -> String {
        sql_name(&self.schema, &self.name)
    }
}

/// `schema.name`, for a statement that a person may type: quoted only where needed.
pub(super) fn sql_name(schema: &str, name: &str) -> String {
    format!("{}.{}", sql_identifier(schema), sql_identifier(name))
}

pub(super) fn sql_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { escape_identifier(name) }
}

impl Captured {
    pub fn new(published: Vec<Table>, filter: &Filter) -> Captured {
        let taken = published.iter().filter(|table| filter.takes(&table.schema, &table.name)).map(|t| t.oid).collect();
        Captured { published: published.into_iter().map(|table| (table.oid, table)).collect(), taken }
    }

    /// The captured tables, by schema and name.
    pub fn tables(&self) -> Vec<&Table> {
        let mut tables: Vec<&Table> = self.taken.iter().filter_map(|oid| self.published.get(oid)).collect();
        tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        tables
    }

    pub fn is_published(&self, schema: &str, name: &str) -> bool {
        self.published.values().any(|table| table.schema == schema && table.name == name)
    }

    pub fn is_taken(&self, schema: &str, name: &str) -> bool {
        self.taken.iter().filter_map(|oid| self.published.get(oid)).any(|t| t.schema == schema && t.name == name)
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The captured tables that are not captured any more in `now`.
    pub fn missing_in(&self, now: &Captured) -> Vec<u32> {
        self.taken.difference(&now.taken).copied().collect()
    }

    /// What became of captured tables since: `exists` says for each of [`Captured::missing_in`] whether there still is a table
    /// with its oid, and whether it is a partition. A gap is an error, everything else a notice.
    pub fn compare(&self, now: &Captured, exists: &BTreeMap<u32, bool>, names: &Names) -> Result<Vec<String>, Error> {
        let mut notices = Vec::new();
        for table in self.missing_in(now).iter().filter_map(|oid| self.published.get(oid)) {
            let name = table.sql_name();
            match exists.get(&table.oid) {
                None => notices.push(format!("table {name} was dropped")),
                Some(_) if now.published.contains_key(&table.oid) => {
                    notices.push(format!("table {name} has another name now, which is not captured"));
                }
                Some(partition) if table.partition && !partition => {
                    notices.push(format!("partition {name} was detached, and is not captured any more"));
                }
                Some(_) => return Err(taken_out(&name, names)),
            }
        }
        for table in now.taken.difference(&self.taken).filter_map(|oid| now.published.get(oid)) {
            notices.push(format!(
                "table {} is captured from now on; rows that were there before are not read",
                table.sql_name()
            ));
            notices.extend(keyless(table));
        }
        Ok(notices)
    }

    /// What should be known of the captured tables at start (T27).
    pub fn keyless(&self) -> Vec<String> {
        self.tables().into_iter().filter_map(keyless).collect()
    }
}

fn keyless(table: &Table) -> Option<String> {
    let name = table.sql_name();
    table.keyless.then(|| {
        format!(
            "table {name} has no primary key and no replica identity: the database refuses updates and deletes of its rows \
             while they are published. Give it a primary key, or: ALTER TABLE {name} REPLICA IDENTITY FULL;"
        )
    })
}

fn taken_out(table: &str, names: &Names) -> Error {
    let publication = sql_identifier(&names.publication);
    Error::Gap {
        what: format!("table {table} is not in publication `{}` any more: its changes are not sent", names.publication),
        hint: format!(
            "ALTER PUBLICATION {publication} ADD TABLE {table}; Rows written in between never come: {}",
            gap_hint(names)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::TableFilter;
    use super::*;

    fn named(oid: u32, name: &str) -> Table {
        Table { oid, schema: "public".into(), name: name.into(), ..Table::default() }
    }

    fn captured(tables: &[Table]) -> Captured {
        let filter = TableFilter { exclude: r"public\.x.*".into(), ..TableFilter::default() };
        Captured::new(tables.to_vec(), &Filter::new(&filter).unwrap())
    }

    fn compare(before: &[Table], now: &[Table], exists: &[(u32, bool)]) -> Result<Vec<String>, Error> {
        let names = Names { publication: "Pub".into(), ..Names::default() };
        captured(before).compare(&captured(now), &exists.iter().copied().collect(), &names)
    }

    #[test]
    fn only_a_table_taken_out_of_the_publication_is_a_gap() {
        let two = [named(1, "a"), named(2, "Big b")];
        assert_eq!(compare(&two, &two, &[]).unwrap(), Vec::<String>::new());
        let error = compare(&two, &two[..1], &[(2, false)]).unwrap_err();
        assert!(error.is_gap());
        let Error::Gap { hint, .. } = error else { unreachable!() };
        assert!(hint.starts_with(r#"ALTER PUBLICATION "Pub" ADD TABLE public."Big b";"#), "{hint}");
        assert!(compare(&two, &two[..1], &[]).unwrap()[0].contains("dropped"));
        let leaf = Table { partition: true, ..named(3, "leaf") };
        assert!(compare(&[leaf], &[], &[(3, false)]).unwrap()[0].contains("detached"));
        assert!(compare(&two, &[named(1, "a"), named(2, "xb")], &[(2, false)]).unwrap()[0].contains("another name"));
        let keyless = Table { keyless: true, ..named(4, "new") };
        let notices = compare(&two, &[&two[..], &[keyless]].concat(), &[]).unwrap();
        assert!(notices[0].contains("public.new is captured from now on") && notices[1].contains("REPLICA IDENTITY"));
        assert!(compare(&two, &[&two[..], &[named(5, "x5")]].concat(), &[]).unwrap().is_empty());
    }
}
