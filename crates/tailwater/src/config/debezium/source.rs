//! The PostgreSQL side of a file: connector, slot, publication, what the first start reads.

use super::super::origin::Origin;
use super::super::settings::nearest;
use super::Mapper;
use super::keys::Mode;

const POSTGRES: &str = "io.debezium.connector.postgresql.PostgresConnector";
const AUTOCREATE: &str = "debezium.source.publication.autocreate.mode";
const AUTOCREATE_MODES: [&str; 4] = ["all_tables", "disabled", "filtered", "no_tables"];
const SNAPSHOT: &str = "debezium.source.snapshot.mode";

impl Mapper<'_> {
    pub(super) fn source(&mut self) {
        self.connector();
        self.defaults();
        self.snapshot();
        match self.mode {
            Mode::Outbox => self.outbox(),
            Mode::Changes => self.changes(),
        }
    }

    fn outbox(&mut self) {
        self.publication_of_outbox();
        self.table();
        let skipped = self.value("debezium.source.skipped.operations");
        if skipped.is_some_and(|list| list.split(',').any(|op| op.trim() == "c")) {
            self.problem("debezium.source.skipped.operations", "`c` would skip every event: inserts are the events");
        }
    }

    fn changes(&mut self) {
        self.set("route.kind", "changes", Origin::Chosen("the file has no outbox event router alone"));
        const PREFIX: &str = "debezium.source.topic.prefix";
        if self.value(PREFIX).is_none_or(str::is_empty) {
            self.problem(PREFIX, "is missing: every topic begins with it");
        }
        // without a filter there every message is an event
        self.set("source.messages", "true", Origin::Chosen("as Debezium reads logical messages"));
        self.publication_of_changes();
        const UNAVAILABLE: &str = "debezium.source.unavailable.value.placeholder";
        if let Some(text) = self.value(UNAVAILABLE).map(str::to_owned) {
            if text.starts_with("hex:") {
                self.problem(UNAVAILABLE, "bytes written as `hex:…` are not supported: write a text");
            }
            let origin = self.origin(UNAVAILABLE);
            self.set("route.changes.unavailable_value", &text, origin);
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

    /// The mode as written; a word that is none is a problem.
    fn autocreate(&mut self) -> Option<String> {
        let mode = self.value(AUTOCREATE)?.to_lowercase();
        if !AUTOCREATE_MODES.contains(&mode.as_str()) {
            let near = nearest(&mode, AUTOCREATE_MODES.into_iter());
            let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            self.problem(AUTOCREATE, format!("`{mode}` is none of {}{hint}", AUTOCREATE_MODES.join(", ")));
        }
        Some(mode)
    }

    fn publication_of_outbox(&mut self) {
        if !matches!(self.autocreate().as_deref(), Some("disabled")) {
            self.decide(
                AUTOCREATE,
                "the publication is expected to exist: `tailwater init` creates it for the outbox only, inserts only (Debezium: \
                 created at start, by default for all tables, which needs a superuser)",
            );
        }
    }

    fn publication_of_changes(&mut self) {
        let origin = self.origin(AUTOCREATE);
        match self.autocreate().as_deref() {
            Some(mode) => self.set("source.publication_autocreate", mode, origin),
            None => {
                self.set("source.publication_autocreate", "filtered", Origin::Chosen("the key is absent"));
                self.decide(
                    AUTOCREATE,
                    "a publication that is missing is made for the captured tables (Debezium: for all tables, which needs a \
                     superuser, and forbids updates and deletes of every table without a primary key)",
                );
            }
        }
    }

    fn snapshot(&mut self) {
        let mode = self.value(SNAPSHOT).map(str::to_lowercase);
        let origin = self.origin(SNAPSHOT);
        match mode.as_deref() {
            None => {
                let text = "rows that are there at the first start are published, as Debezium does (`initial`)";
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
