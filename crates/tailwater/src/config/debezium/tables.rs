//! Which table of a file is the outbox.

use super::super::origin::Origin;
use super::Mapper;

const TABLES: &str = "debezium.source.table.include.list";
const SCHEMAS: &str = "debezium.source.schema.include.list";

impl Mapper<'_> {
    /// Which table is the outbox.
    pub(super) fn table(&mut self) {
        let schema = self.schema();
        let Some(list) = self.value(TABLES).map(str::to_owned) else {
            let schema_name = schema.unwrap_or_else(|| "public".into());
            let table = format!("{schema_name}.outbox");
            self.set("source.table", &table, Origin::Chosen("debezium.source.table.include.list is absent"));
            self.decide(TABLES, format!("the outbox is the table {table}, since the file names none"));
            return;
        };
        let chosen = literal(&list);
        let origin = self.origin(TABLES);
        match chosen {
            Some(table) => {
                if let Some(schema) = schema
                    && table.split('.').next() != Some(&schema)
                {
                    self.problem(SCHEMAS, format!("the outbox {table} is not in schema {schema}"));
                }
                self.set("source.table", &table, origin);
            }
            None => {
                let text = format!("`{list}` does not say which table is the outbox: write one, as schema.table");
                self.problem(TABLES, text);
                // a name in its place, so that this is the only complaint
                self.set("source.table", "outbox", Origin::Default);
            }
        }
    }

    fn schema(&mut self) -> Option<String> {
        let list = self.value(SCHEMAS)?.to_owned();
        match literal(&list) {
            Some(schema) if !schema.contains(['.', ',']) => Some(schema),
            _ if self.value(TABLES).is_some() => None,
            _ => {
                self.problem(SCHEMAS, format!("`{list}` does not say where the outbox is: add {TABLES}=schema.table"));
                None
            }
        }
    }
}

/// The only text that a regular expression of an include list matches, if it is that simple.
pub(super) fn literal(pattern: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = pattern.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped) if !escaped.is_ascii_alphanumeric() => out.push(escaped),
                _ => return None,
            },
            // a dot followed by a quantifier is meant as a pattern, a single one as itself
            '.' if matches!(chars.peek(), Some('*' | '+' | '?' | '{')) => return None,
            '*' | '+' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '|' | '^' | '$' | ',' => return None,
            c => out.push(c),
        }
    }
    (!out.is_empty()).then_some(out)
}
