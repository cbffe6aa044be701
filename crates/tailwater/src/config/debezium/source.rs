//! The PostgreSQL side of a file: connector, slot, publication, which table is the outbox, what the first start reads.

use super::super::origin::Origin;
use super::super::settings::nearest;
use super::Mapper;

const POSTGRES: &str = "io.debezium.connector.postgresql.PostgresConnector";
const TABLES: &str = "debezium.source.table.include.list";
const SCHEMAS: &str = "debezium.source.schema.include.list";
const SNAPSHOT: &str = "debezium.source.snapshot.mode";

impl Mapper<'_> {
    pub(super) fn source(&mut self) {
        self.connector();
        self.defaults();
        self.publication();
        self.table();
        self.snapshot();
        if self
            .value("debezium.source.skipped.operations")
            .is_some_and(|list| list.split(',').any(|op| op.trim() == "c"))
        {
            self.problem("debezium.source.skipped.operations", "`c` would skip every event: inserts are the events");
        }
    }

    fn connector(&mut self) {
        const KEY: &str = "debezium.source.connector.class";
        match self.value(KEY).map(str::to_owned) {
            Some(class) if class == POSTGRES => {}
            Some(class) => {
                self.problem(KEY, format!("`{class}` is not supported: this version reads PostgreSQL ({POSTGRES})"))
            }
            None => self.problem(KEY, format!("is missing: write {KEY}={POSTGRES}")),
        }
        let origin = self.origin(KEY);
        self.set("source.type", "postgres", origin);
        const PLUGIN: &str = "debezium.source.plugin.name";
        match self.value(PLUGIN) {
            Some("pgoutput") => {}
            None => self.decide(PLUGIN, "pgoutput, which every server has (Debezium: decoderbufs, an extension)"),
            Some(other) => {
                let text =
                    format!("`{other}` is not supported: write pgoutput, which every server since version 10 has");
                self.problem(PLUGIN, text);
            }
        }
        if self.value("debezium.source.offset.storage.file.filename").is_none() {
            let text = "no offset file is needed: the position is kept in `tailwater.state_dir` (tailwater-state) and in the slot";
            self.decide("debezium.source.offset.storage.file.filename", text);
        }
    }

    /// Names that have a default there.
    fn defaults(&mut self) {
        for (key, part, default) in [
            ("debezium.source.slot.name", "source.slot", "debezium"),
            ("debezium.source.publication.name", "source.publication", "dbz_publication"),
            ("debezium.source.database.hostname", "source.host", "localhost"),
        ] {
            if self.value(key).is_none() {
                self.set(part, default, Origin::Chosen("the key is absent"));
                self.decide(key, format!("`{default}`, since the file names none"));
            }
        }
    }

    fn publication(&mut self) {
        const MODE: &str = "debezium.source.publication.autocreate.mode";
        const MODES: [&str; 4] = ["all_tables", "disabled", "filtered", "no_tables"];
        match self.value(MODE).map(str::to_owned) {
            Some(mode) if mode == "disabled" => {}
            Some(mode) if !MODES.contains(&mode.as_str()) => {
                let hint = nearest(&mode, MODES.into_iter()).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                self.problem(MODE, format!("`{mode}` is none of {}{hint}", MODES.join(", ")));
            }
            _ => self.decide(
                MODE,
                "the publication is expected to exist: `tailwater init` creates it for the outbox only, inserts only (Debezium: \
                 created at start, by default for all tables, which needs a superuser)",
            ),
        }
    }

    /// Which table is the outbox.
    fn table(&mut self) {
        let schema = self.schema();
        let Some(list) = self.value(TABLES).map(str::to_owned) else {
            let schema_name = schema.unwrap_or_else(|| "public".into());
            let table = format!("{schema_name}.outbox");
            self.set("source.table", &table, Origin::Chosen("debezium.source.table.include.list is absent"));
            self.decide(TABLES, format!("the outbox is the table {table}, since the file names none"));
            return;
        };
        let written: Vec<String> =
            list.split(',').map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        let named: Vec<Option<String>> = written.iter().map(|part| literal(part)).collect();
        let chosen = match named.as_slice() {
            [Some(one)] => Some(one.clone()),
            many => {
                let by_predicate = self.predicate_table();
                many.iter().flatten().find(|table| Some(*table) == by_predicate.as_ref()).cloned()
            }
        };
        let origin = self.origin(TABLES);
        match chosen {
            Some(table) => {
                if let Some(schema) = schema
                    && table.split('.').next() != Some(&schema)
                {
                    self.problem(SCHEMAS, format!("the outbox {table} is not in schema {schema}"));
                }
                if written.len() > 1 {
                    self.decide(TABLES, format!("only {table} is read: the router would fail on rows of the others"));
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

    /// The table that the router's predicate names, if it names one.
    fn predicate_table(&self) -> Option<String> {
        let alias = self.value("debezium.transforms")?;
        if self.is_true(&format!("debezium.transforms.{alias}.negate")) {
            return None;
        }
        let predicate = self.value(&format!("debezium.transforms.{alias}.predicate"))?;
        let topic = literal(self.value(&format!("debezium.predicates.{predicate}.pattern"))?)?;
        let prefix = self.value("debezium.source.topic.prefix").unwrap_or_default();
        topic.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned)
    }

    fn snapshot(&mut self) {
        let mode = self.value(SNAPSHOT).map(str::to_lowercase);
        let origin = self.origin(SNAPSHOT);
        match mode.as_deref() {
            None => {
                let text = "rows that are in the outbox at the first start are published, as Debezium does (`initial`)";
                self.decide(SNAPSHOT, text);
            }
            Some("initial") => self.set("source.snapshot", "initial", origin),
            Some("when_needed") => {
                self.set("source.snapshot", "initial", origin);
                let text = "rows are read at the first start; when the slot is lost it stops and says so, instead of starting over";
                self.decide(SNAPSHOT, text);
            }
            Some("no_data" | "never" | "schema_only") => self.set("source.snapshot", "never", origin),
            Some("always") => {
                self.problem(
                    SNAPSHOT,
                    "`always` would publish every row again at each start: write initial or no_data",
                );
            }
            Some("initial_only") => {
                self.problem(SNAPSHOT, "`initial_only` stops after the first rows: write initial or no_data");
            }
            Some(other) => self.problem(SNAPSHOT, format!("`{other}` is not supported: write initial or no_data")),
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
