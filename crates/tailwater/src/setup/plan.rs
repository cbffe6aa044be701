//! From what is wanted and what is there to what `init` would do. Pure: no server, and nothing secret in what is shown.

use super::facts::{Facts, Publication, Table};
use super::layout::{self, NewColumn};
use super::sql::{TableName, ident, literal};
use crate::config::secret::Secret;
use tailwater_core::transform::outbox::OutboxOptions;

/// What should be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub table: TableName,
    pub publication: String,
    pub slot: String,
    /// The relay's.
    pub database: String,
    pub role: WantedRole,
    pub route: OutboxOptions,
}

/// The relay's role.
#[derive(Clone, Debug)]
pub struct WantedRole {
    pub name: String,
    pub password: Option<Secret>,
    /// May read the log.
    pub replication: bool,
}

/// What would be done, and what a person should know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub findings: Vec<Finding>,
}

/// One statement. Nothing is executed that was not shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// As people read it: a password is `***`.
    pub shown: String,
    /// Where `***` stands, this is sent: the password as SCRAM verifier, so that no server log ever holds it.
    pub verifier: Option<Secret>,
}

impl Step {
    fn new(shown: String) -> Self {
        Step { shown, verifier: None }
    }
}

/// Something that `init` does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
    /// The statement that would mend it.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Note,
    /// It will not work like this.
    Problem,
}

impl Plan {
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Problem)
    }

    pub(super) fn step(&mut self, statement: String) {
        self.steps.push(Step::new(statement));
    }

    pub(super) fn problem(&mut self, text: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding { severity: Severity::Problem, text: text.into(), remedy });
    }

    pub(super) fn note(&mut self, text: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding { severity: Severity::Note, text: text.into(), remedy });
    }
}

/// Compares.
pub fn plan(wanted: &Wanted, facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    server(&mut plan, wanted, facts);
    log(&mut plan, wanted, facts);
    match &facts.table {
        None => new_table(&mut plan, wanted, facts),
        Some(table) => existing_table(&mut plan, wanted, table),
    }
    match &facts.publication {
        None => plan.step(format!(
            "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert', publish_via_partition_root = true)",
            ident(&wanted.publication),
            wanted.table
        )),
        Some(publication) => existing_publication(&mut plan, wanted, facts, publication),
    }
    other_publications(&mut plan, wanted, facts);
    role(&mut plan, wanted, facts);
    grants(&mut plan, wanted, facts);
    plan
}

/// What any pipeline needs of a server.
pub(super) fn server(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    if facts.version_num < 140_000 {
        plan.problem(format!("the server is PostgreSQL {}; 14 or later is needed", facts.version_num / 10_000), None);
    }
    if facts.database != wanted.database {
        let text = format!(
            "the admin connection leads to database {}, the source to {}: correct one of them",
            facts.database, wanted.database
        );
        plan.problem(text, None);
    }
    if facts.in_recovery {
        plan.problem("the server is a standby: connect to its primary", None);
    }
}

/// What reading the log needs.
fn log(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    if facts.wal_level != "logical" {
        let remedy = "ALTER SYSTEM SET wal_level = 'logical';  -- then restart the server".to_owned();
        plan.problem(format!("wal_level is {}: the log does not hold the rows", facts.wal_level), Some(remedy));
    }
    if facts.slots_used >= facts.slots_max && facts.slot.is_none() {
        let more = format!(
            "ALTER SYSTEM SET max_replication_slots = {};  -- then restart the server",
            facts.slots_max.max(facts.slots_used) + 5
        );
        plan.problem(format!("all {} replication slots are in use, and `run` needs one", facts.slots_max), Some(more));
    }
    if facts.senders_used >= facts.senders_max {
        let more = format!("ALTER SYSTEM SET max_wal_senders = {};  -- then restart the server", facts.senders_max + 5);
        plan.problem(format!("all {} WAL senders are in use, and `run` needs one", facts.senders_max), Some(more));
    }
    let Some(slot) = &facts.slot else { return };
    if slot.lost {
        let text = format!("slot {} was invalidated: events may be missing; see `tailwater status`", wanted.slot);
        plan.problem(text, None);
    }
    if slot.plugin.as_deref() != Some("pgoutput") || slot.database.as_ref() != Some(&facts.database) {
        let whose = slot.database.as_deref().unwrap_or("no database (it is physical)");
        let plugin = slot.plugin.as_deref().unwrap_or("no");
        let text = format!(
            "slot {} exists, with plugin {plugin} in {whose}: it is not ours; choose another `slot`",
            wanted.slot
        );
        plan.problem(text, None);
    }
}

fn new_table(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    if !facts.schema_exists {
        plan.step(format!("CREATE SCHEMA {}", ident(&wanted.table.schema)));
    }
    let columns: Vec<String> = layout::columns(&wanted.route).iter().map(NewColumn::sql).collect();
    plan.step(format!("CREATE TABLE {} (\n  {}\n)", wanted.table, columns.join(",\n  ")));
    // pruning finds old rows by it
    plan.step(format!("CREATE INDEX ON {} ({})", wanted.table, ident(layout::time_column(&wanted.route))));
}

fn existing_table(plan: &mut Plan, wanted: &Wanted, table: &Table) {
    if !matches!(table.kind.as_str(), "r" | "p") {
        plan.problem(format!("{} is not a table: its changes are not in the log", wanted.table), None);
        return;
    }
    if table.persistence == "u" {
        let remedy = format!("ALTER TABLE {} SET LOGGED;", wanted.table);
        plan.problem(format!("{} is unlogged: its rows never reach the log", wanted.table), Some(remedy));
    }
    columns(plan, wanted, table);
}

/// The columns that the route reads.
pub(super) fn columns(plan: &mut Plan, wanted: &Wanted, table: &Table) {
    let missing: Vec<String> =
        layout::required(&wanted.route).into_iter().filter(|name| !table.columns.contains(name)).collect();
    if !missing.is_empty() {
        plan.problem(
            format!(
                "{} has no column {}, which the route reads (it has: {}); correct the route's options, or add it",
                wanted.table,
                missing.join(", "),
                table.columns.join(", ")
            ),
            None,
        );
    }
}

fn existing_publication(plan: &mut Plan, wanted: &Wanted, facts: &Facts, publication: &Publication) {
    let name = ident(&wanted.publication);
    let set_insert = Some(format!("ALTER PUBLICATION {name} SET (publish = 'insert');"));
    if !publication.has_table && !publication.all_tables {
        plan.step(format!("ALTER PUBLICATION {name} ADD TABLE {}", wanted.table));
    }
    if !publication.insert {
        let text = format!("publication {} does not publish inserts: nothing would arrive", wanted.publication);
        plan.problem(text, set_insert.clone());
    }
    if publication.update_or_delete {
        let what = format!("publication {} also publishes updates or deletes", wanted.publication);
        match &facts.table {
            Some(table) if !table.has_identity => plan.problem(
                format!(
                    "{what}, and {} has no primary key: PostgreSQL refuses to delete from it (pruning)",
                    wanted.table
                ),
                set_insert,
            ),
            _ => plan.note(format!("{what}: they travel for nothing, an outbox needs inserts only"), set_insert),
        }
    }
    if !publication.via_root && facts.table.as_ref().is_some_and(|table| table.kind == "p") {
        plan.problem(
            format!("{} is partitioned, and its rows would come under the names of its partitions", wanted.table),
            Some(format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);")),
        );
    }
    if publication.is_filtered {
        let text = format!(
            "publication {} leaves out some rows or columns of {}: those are never seen",
            wanted.publication, wanted.table
        );
        plan.note(text, None);
    }
}

/// The trap is the same whichever publication it is (observed on PostgreSQL 15 and 18).
fn other_publications(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    if facts.table.as_ref().is_none_or(|table| table.has_identity) {
        return;
    }
    for other in &facts.others_with_deletes {
        plan.problem(
            format!(
                "publication {other} publishes updates or deletes of {}, which has no primary key: PostgreSQL refuses to \
                 delete from it (pruning)",
                wanted.table
            ),
            Some(format!("ALTER PUBLICATION {} SET (publish = 'insert');", ident(other))),
        );
    }
}

pub(super) fn role(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    let name = ident(&wanted.role.name);
    let Some(role) = facts.role else {
        let attributes = if wanted.role.replication { "LOGIN REPLICATION" } else { "LOGIN" };
        let statement = format!("CREATE ROLE {name} {attributes}");
        let Some(password) = &wanted.role.password else {
            plan.step(statement);
            let text = format!("role {} gets no password: none is configured for the source", wanted.role.name);
            plan.note(text, Some(format!("ALTER ROLE {name} PASSWORD '…';")));
            return;
        };
        let verifier = postgres_protocol::password::scram_sha_256(password.expose().as_bytes());
        plan.steps.push(Step {
            shown: format!("{statement} PASSWORD '***'"),
            verifier: Some(Secret::new(literal(&verifier))),
        });
        return;
    };
    let mut attributes = Vec::new();
    if !role.login {
        attributes.push("LOGIN");
    }
    if wanted.role.replication && !role.replication && !role.superuser {
        attributes.push("REPLICATION");
    }
    if !attributes.is_empty() {
        plan.step(format!("ALTER ROLE {name} {}", attributes.join(" ")));
    }
    if role.superuser {
        let text = format!(
            "role {} is a superuser; the relay needs no more than {} one table",
            wanted.role.name,
            if wanted.role.replication { "REPLICATION and SELECT on" } else { "to read and to finish rows of" }
        );
        plan.note(text, None);
    }
}

pub(super) fn grants(plan: &mut Plan, wanted: &Wanted, facts: &Facts) {
    if facts.role.is_some_and(|role| role.superuser) {
        return;
    }
    let name = ident(&wanted.role.name);
    if !facts.can_connect {
        plan.step(format!("GRANT CONNECT ON DATABASE {} TO {name}", ident(&facts.database)));
    }
    if !facts.can_use_schema {
        plan.step(format!("GRANT USAGE ON SCHEMA {} TO {name}", ident(&wanted.table.schema)));
    }
    if !facts.can_select && !owns_it(wanted, facts) {
        plan.step(format!("GRANT SELECT ON {} TO {name}", wanted.table));
    }
}

/// The admin owns what it creates, and needs no grant for itself.
pub(super) fn owns_it(wanted: &Wanted, facts: &Facts) -> bool {
    facts.table.is_none() && facts.admin == wanted.role.name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            table: TableName::parse("outbox"),
            publication: "outbox_pub".into(),
            slot: "outbox_slot".into(),
            database: "shop".into(),
            role: WantedRole { name: "relay".into(), password: Some(Secret::new("s3'cret")), replication: true },
            route: OutboxOptions {
                route_by: "event_type".into(),
                key_column: "idempotency_key".into(),
                ..OutboxOptions::default()
            },
        }
    }

    fn empty() -> Facts {
        Facts {
            version_num: 150_018,
            wal_level: "logical".into(),
            slots_max: 10,
            senders_max: 10,
            database: "shop".into(),
            admin: "postgres".into(),
            schema_exists: true,
            can_connect: true,
            can_use_schema: true,
            ..Facts::default()
        }
    }

    fn complete() -> Facts {
        Facts {
            table: Some(Table {
                oid: 1,
                kind: "r".into(),
                persistence: "p".into(),
                columns: ["id", "event_type", "idempotency_key", "payload"].map(String::from).into(),
                has_identity: true,
            }),
            publication: Some(Publication { insert: true, via_root: true, has_table: true, ..Publication::default() }),
            role: Some(super::super::facts::Role { superuser: false, replication: true, login: true }),
            can_select: true,
            ..empty()
        }
    }

    fn shown(plan: &Plan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.shown.as_str()).collect()
    }

    #[test]
    fn everything_is_made_in_order_and_no_password_is_shown() {
        let plan = plan(&wanted(), &empty());
        assert_eq!(
            shown(&plan),
            [
                "CREATE TABLE public.outbox (\n  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),\n  event_type text NOT NULL,\n  \
                 user_id bigint,\n  occurred_at timestamptz NOT NULL DEFAULT now(),\n  idempotency_key text NOT NULL,\n  \
                 payload jsonb NOT NULL\n)",
                "CREATE INDEX ON public.outbox (occurred_at)",
                "CREATE PUBLICATION outbox_pub FOR TABLE public.outbox WITH (publish = 'insert', publish_via_partition_root = \
                 true)",
                "CREATE ROLE relay LOGIN REPLICATION PASSWORD '***'",
                "GRANT SELECT ON public.outbox TO relay",
            ]
        );
        assert!(!format!("{plan:?}").contains("cret"));
        let verifier = plan.steps[3].verifier.as_ref().unwrap().expose();
        assert!(verifier.starts_with("'SCRAM-SHA-256$"), "the server never sees the password itself");
    }

    #[test]
    fn where_all_is_there_nothing_is_done() {
        assert_eq!(plan(&wanted(), &complete()), Plan::default());
    }

    #[test]
    fn what_is_missing_is_added() {
        let mut facts = complete();
        facts.publication.as_mut().unwrap().has_table = false;
        facts.role.as_mut().unwrap().replication = false;
        facts.can_use_schema = false;
        let expected = [
            "ALTER PUBLICATION outbox_pub ADD TABLE public.outbox",
            "ALTER ROLE relay REPLICATION",
            "GRANT USAGE ON SCHEMA public TO relay",
        ];
        assert_eq!(shown(&plan(&wanted(), &facts)), expected);
    }

    /// Each row: how a good set-up differs, what is said, what would mend it, and whether it is a problem.
    #[test]
    fn what_differs_is_explained_and_left_alone() {
        type Change = fn(&mut Facts);
        let table: &[(Change, &str, &str, bool)] = &[
            (|f| f.wal_level = "replica".into(), "wal_level is replica", "SET wal_level = 'logical'", true),
            (|f| f.slots_used = 10, "all 10 replication slots", "max_replication_slots = 15", true),
            (|f| f.senders_used = 10, "all 10 WAL senders", "max_wal_senders = 15", true),
            (|f| f.version_num = 130_000, "PostgreSQL 13", "", true),
            (|f| f.in_recovery = true, "standby", "", true),
            (|f| f.database = "other".into(), "leads to database other", "", true),
            (|f| f.table.as_mut().unwrap().kind = "v".into(), "not a table", "", true),
            (|f| f.table.as_mut().unwrap().persistence = "u".into(), "unlogged", "SET LOGGED", true),
            (|f| f.table.as_mut().unwrap().columns.truncate(2), "no column idempotency_key, payload", "", true),
            (|f| f.publication.as_mut().unwrap().insert = false, "not publish inserts", "publish = 'insert'", true),
            (|f| f.publication.as_mut().unwrap().update_or_delete = true, "for nothing", "publish = 'insert'", false),
            (
                |f| {
                    f.publication.as_mut().unwrap().update_or_delete = true;
                    f.table.as_mut().unwrap().has_identity = false;
                },
                "has no primary key",
                "ALTER PUBLICATION outbox_pub SET (publish = 'insert');",
                true,
            ),
            (
                |f| {
                    f.others_with_deletes = vec!["Other".into()];
                    f.table.as_mut().unwrap().has_identity = false;
                },
                "publication Other",
                "ALTER PUBLICATION \"Other\" SET (publish = 'insert');",
                true,
            ),
            (
                |f| {
                    f.publication.as_mut().unwrap().via_root = false;
                    f.table.as_mut().unwrap().kind = "p".into();
                },
                "partitioned",
                "publish_via_partition_root = true",
                true,
            ),
            (|f| f.publication.as_mut().unwrap().is_filtered = true, "leaves out", "", false),
            (|f| f.role.as_mut().unwrap().superuser = true, "superuser", "", false),
            (
                |f| f.slot = Some(super::super::facts::Slot { plugin: Some("wal2json".into()), ..Default::default() }),
                "wal2json",
                "",
                true,
            ),
        ];
        for (change, text, remedy, is_problem) in table {
            let mut facts = complete();
            change(&mut facts);
            let plan = plan(&wanted(), &facts);
            assert_eq!(plan.steps, [], "{text}");
            let [finding] = plan.findings.as_slice() else { panic!("{text}: {:?}", plan.findings) };
            assert!(finding.text.contains(text), "{finding:?}");
            assert_eq!(finding.remedy.is_none(), remedy.is_empty(), "{finding:?}");
            assert!(finding.remedy.as_deref().unwrap_or_default().contains(remedy), "{finding:?}");
            assert_eq!(plan.has_problems(), *is_problem, "{finding:?}");
        }
    }
}
