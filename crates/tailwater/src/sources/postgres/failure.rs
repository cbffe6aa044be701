//! What can go wrong with PostgreSQL, and the one table that says what to do about it.
//!
//! Unknown → try again: waiting is safe, skipping is not. Authentication, permission, settings → an operator, with the command.

use crate::net::tls::TlsError;
use std::fmt;
use tailwater_core::Failure;

/// An error of this module, before anybody decided what it means.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings themselves are wrong.
    #[error("{0}")]
    Config(String),
    #[error("connect to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("connection to the database lost")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the server offers no TLS, and sslmode requires it")]
    NoTls,
    #[error("the server asks for a password and none is configured")]
    NoPassword,
    #[error("{0} is not a {1} server")]
    WrongSession(String, &'static str),
    /// The server said so itself.
    #[error("the server said: {0}")]
    Server(Box<ServerError>),
    /// The ordinary SQL client reports something that is no server error.
    #[error("SQL session")]
    Sql(#[source] tokio_postgres::Error),
    #[error("unexpected answer of the server: {0}")]
    Protocol(String),
    #[error("no answer: {0}")]
    Timeout(&'static str),
    /// The stream ended because we wanted it to, or the server shut down.
    #[error("the stream has ended: {0}")]
    Ended(&'static str),
    /// A saved position that this source cannot have written.
    #[error("the saved position `{0}` cannot be read")]
    Position(String),
    /// The server has no room for one more of us; it may have some later.
    #[error("the server said: {error}. What to do: {hint}")]
    Limit { error: Box<ServerError>, hint: String },
    /// Something that must be there before the first start is not.
    #[error("{what}")]
    Missing { what: String, hint: String },
    /// Captured tables whose rows cannot be published as change events.
    #[error("{0}")]
    Unfit(String),
    /// Events may be missing for good if we simply went on.
    #[error("gap possible: {what}")]
    Gap { what: String, hint: String },
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Error::Server(Box::new(ServerError {
                severity: db.severity().to_owned(),
                code: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
            })),
            // The client has no other way to tell it.
            None if std::error::Error::source(&error).is_some_and(|cause| cause.to_string() == "password missing") => {
                Error::NoPassword
            }
            None => Error::Sql(error),
        }
    }
}

/// An `ErrorResponse` or `NoticeResponse` (protocol, "Error and Notice Message Fields").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl Error {
    /// The SQLSTATE, if the server spoke.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Server(error) => Some(&error.code),
            _ => None,
        }
    }

    pub fn is_gap(&self) -> bool {
        matches!(self, Error::Gap { .. })
    }
}

/// Names that make a hint a command to type.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub user: String,
    pub dbname: String,
    pub table: String,
    pub slot: String,
    pub publication: String,
}

/// Error → what to do now. The one such place for PostgreSQL.
pub fn classify(error: Error, names: &Names) -> Failure {
    match &error {
        Error::Server(server) => match verdict(server, names) {
            Verdict::Retry => Failure::retry(limit(error)),
            Verdict::Fatal(hint) => Failure::fatal(hint, error),
            Verdict::Gap(hint) => {
                let what = server.to_string();
                Failure::fatal(hint.clone(), Error::Gap { what, hint })
            }
        },
        Error::Config(_) => Failure::fatal("correct the connection's settings and start again", error),
        Error::NoTls => Failure::fatal(
            "switch TLS on at the server (`ALTER SYSTEM SET ssl = on;` with a certificate), or set sslmode = \"prefer\" if the \
             network is trusted",
            error,
        ),
        Error::NoPassword => Failure::fatal(
            "set password_file, password or the environment variable PGPASSWORD for the database connection",
            error,
        ),
        Error::Tls(tls) if tls.is_permanent() => {
            Failure::fatal("check sslmode, sslrootcert, sslcert and sslkey of the database connection", error)
        }
        Error::Position(_) => Failure::fatal(
            "the state file was written by something else or damaged: put back the right one, or, to begin again at the \
             slot's own position (events may repeat), move it away",
            error,
        ),
        Error::Unfit(_) => Failure::fatal(
            "leave out the column (column.exclude.list, `route.changes.column_exclude`) or the table (table.exclude.list, \
             `source.tables.exclude`), or alter the table, and start again",
            error,
        ),
        Error::Gap { hint, .. } | Error::Missing { hint, .. } => Failure::fatal(hint.clone(), error),
        Error::Connect(..)
        | Error::Io(_)
        | Error::Tls(_)
        | Error::Sql(_)
        | Error::WrongSession(..)
        | Error::Protocol(_)
        | Error::Limit { .. }
        | Error::Timeout(_)
        | Error::Ended(_) => Failure::retry(error),
    }
}

/// Waiting may be enough; if it is not, the setting is named.
fn limit(error: Error) -> Error {
    let Error::Server(server) = error else { return error };
    if server.code != "53300" {
        return Error::Server(server);
    }
    let setting = if server.message.contains("max_wal_senders") { "max_wal_senders" } else { "max_connections" };
    let each = if setting == "max_wal_senders" {
        "one for each pipeline and each standby server"
    } else {
        "of all roles together"
    };
    let hint = format!(
        "ALTER SYSTEM SET {setting} = …; (more than now: {each}) and restart PostgreSQL, or end sessions nobody needs"
    );
    Error::Limit { error: server, hint }
}

/// For connections that have no slot to talk of (`init`, `prune`, `status`).
pub fn classify_sql(error: impl Into<Error>, user: &str, dbname: &str) -> Failure {
    classify(error.into(), &Names { user: user.into(), dbname: dbname.into(), ..Names::default() })
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    Fatal(String),
    Gap(String),
}

/// What to do when events may be missing.
pub fn gap_hint(names: &Names) -> String {
    format!(
        "nothing was recreated. Find out what happened to slot `{slot}`; then compare the rows of {table} with what the \
         consumers have, and begin anew: SELECT pg_drop_replication_slot('{slot}'); (if it exists), move this pipeline's state \
         file away, start again: all rows still in the table are published once more, consumers skip those they know",
        slot = names.slot,
        table = if names.table.is_empty() { "the captured tables" } else { &names.table },
    )
}

fn verdict(error: &ServerError, names: &Names) -> Verdict {
    let Names { user, dbname, table, slot, publication } = names;
    let message = error.message.as_str();
    match error.code.as_str() {
        "42501"
            if message.contains("WAL sender") || message.contains("walsender") || message.contains("replication") =>
        {
            Verdict::Fatal(format!("ALTER ROLE {user} REPLICATION;"))
        }
        "42501" if message.contains("row-level security") => Verdict::Fatal(format!(
            "policies would hide rows from the snapshot: ALTER ROLE {user} BYPASSRLS; or, without the rows that are there: \
             snapshot = \"never\""
        )),
        "42501" if message.contains("schema") => {
            let schema = match table.split_once('.') {
                Some((schema, _)) => schema,
                None => last_word(message),
            };
            Verdict::Fatal(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {} TO {user};",
                if table.is_empty() { "the captured tables" } else { table }
            ))
        }
        "42501" => {
            let table = if table.is_empty() { last_word(message) } else { table };
            Verdict::Fatal(format!("GRANT SELECT ON {table} TO {user};"))
        }
        "28P01" => Verdict::Fatal(format!(
            "the password of role {user} is wrong: correct password_file, password or PGPASSWORD"
        )),
        "28000" if message.contains("pg_hba.conf") => Verdict::Fatal(format!(
            "add to the server's pg_hba.conf, with this machine's address, and reload: host {dbname} {user} ADDRESS/32 scram-sha-256"
        )),
        "28000" => Verdict::Fatal(format!("CREATE ROLE {user} LOGIN REPLICATION PASSWORD '…';")),
        "3D000" => {
            Verdict::Fatal(format!("database {dbname} does not exist: correct dbname, or: CREATE DATABASE {dbname};"))
        }
        "55000" if message.contains("wal_level") => {
            Verdict::Fatal("ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL".into())
        }
        "55000" if message.contains("publication") => Verdict::Gap(format!(
            "publication {publication} is missing: CREATE PUBLICATION {publication} FOR TABLE {}; {}",
            if table.is_empty() { "…" } else { table },
            gap_hint(names)
        )),
        // The wording of 14-15, 17 and 18; seen at START_REPLICATION and at the copy of a slot.
        "55000"
            if message.contains("cannot read from logical replication slot")
                || message.contains("can no longer")
                || message.contains("doesn't reserve WAL") =>
        {
            Verdict::Gap(gap_hint(names))
        }
        "42704" if message.contains("publication") || message.contains("replication slot") => {
            Verdict::Gap(gap_hint(names))
        }
        "42704" => Verdict::Fatal("a name that the server does not know: check the configuration".into()),
        "58P01" => Verdict::Gap(gap_hint(names)),
        "42P01" => Verdict::Fatal(format!("table {table} does not exist: create it, or correct `table`")),
        "42601" | "42703" | "42883" => {
            Verdict::Fatal("the server does not understand a statement: is it PostgreSQL 14 or later?".into())
        }
        "53400" => Verdict::Fatal(format!(
            "ALTER SYSTEM SET max_replication_slots = 10; (or more) and restart PostgreSQL, or drop a slot nobody needs; wanted: {slot}"
        )),
        "22023" => Verdict::Fatal("the server refuses a setting of the session: see its message".into()),
        // 55006 slot in use (the source stands by before it comes here), 55P03 lock not available, 57014 cancelled,
        // 57P0x shutting down or starting, 53x out of resources, 0A000 still a standby: all may pass.
        _ => Verdict::Retry,
    }
}

/// `permission denied for table orders`: the name.
fn last_word(message: &str) -> &str {
    message.rsplit(' ').next().unwrap_or(message).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            user: "relay".into(),
            dbname: "shop".into(),
            table: "public.outbox".into(),
            slot: "outbox_slot".into(),
            publication: "outbox_pub".into(),
        }
    }

    fn server(code: &str, message: &str) -> Error {
        Error::Server(Box::new(ServerError {
            severity: "ERROR".into(),
            code: code.into(),
            message: message.into(),
            ..ServerError::default()
        }))
    }

    #[test]
    fn every_sqlstate_has_its_consequence() {
        // (code, message as the server words it, what the hint must say; "" = try again)
        let table = [
            ("42501", "must be superuser or replication role to start walsender", "ALTER ROLE relay REPLICATION"),
            ("42501", "permission denied to start WAL sender", "ALTER ROLE relay REPLICATION"),
            ("42501", "must be superuser or replication role to use replication slots", "ALTER ROLE relay REPLICATION"),
            ("42501", "permission denied for table outbox", "GRANT SELECT ON public.outbox TO relay"),
            ("42501", "query would be affected by row-level security policy for table \"o\"", "BYPASSRLS"),
            ("42501", "permission denied for schema app", "GRANT USAGE ON SCHEMA public TO relay"),
            ("28P01", "password authentication failed for user \"relay\"", "password_file"),
            ("28000", "no pg_hba.conf entry for host \"10.0.0.1\"", "host shop relay"),
            ("28000", "role \"relay\" does not exist", "CREATE ROLE relay LOGIN REPLICATION"),
            ("3D000", "database \"shop\" does not exist", "CREATE DATABASE shop"),
            ("55000", "logical decoding requires wal_level >= logical", "wal_level = logical"),
            ("55000", "cannot read from logical replication slot \"s\"", "pg_drop_replication_slot"),
            ("55000", "can no longer get changes from replication slot \"s\"", "pg_drop_replication_slot"),
            ("55000", "can no longer access replication slot \"s\"", "pg_drop_replication_slot"),
            ("55000", "skipped loading publication \"outbox_pub\"", "CREATE PUBLICATION outbox_pub"),
            ("55000", "cannot use replication slot \"fo\" for logical decoding", ""),
            ("42704", "publication \"outbox_pub\" does not exist", "pg_drop_replication_slot"),
            ("42704", "replication slot \"outbox_slot\" does not exist", "pg_drop_replication_slot"),
            ("58P01", "requested WAL segment 000000010000000000000001 has already been removed", "state file"),
            ("42P01", "relation \"outbox\" does not exist", "public.outbox"),
            ("53400", "all replication slots are in use", "max_replication_slots"),
            ("53300", "sorry, too many clients already", ""),
            ("55006", "replication slot \"s\" is active for PID 1", ""),
            ("55P03", "canceling statement due to lock timeout", ""),
            ("57014", "canceling statement due to user request", ""),
            ("57P01", "terminating connection due to administrator command", ""),
            ("57P02", "terminating connection because of crash of another server process", ""),
            ("57P03", "the database system is starting up", ""),
            ("0A000", "logical decoding cannot be used while in recovery", ""),
            ("XX000", "something nobody has seen", ""),
        ];
        for (code, message, hint) in table {
            match classify(server(code, message), &names()) {
                Failure::Retry { .. } => assert_eq!(hint, "", "{code} {message} was taken for passing"),
                Failure::Fatal { hint: said, .. } => {
                    assert!(!hint.is_empty() && said.contains(hint), "{code} {message}: hint is {said:?}");
                }
            }
        }
    }

    #[test]
    fn a_limit_of_the_server_is_waited_for_and_named() {
        for (message, setting) in [
            ("number of requested standby connections exceeds max_wal_senders (currently 10)", "SET max_wal_senders"),
            ("sorry, too many clients already", "SET max_connections"),
        ] {
            let failure = classify(server("53300", message), &names());
            assert!(!failure.is_fatal() && failure.to_string().contains(setting), "{failure}");
        }
    }

    #[test]
    fn without_an_outbox_the_table_is_the_one_the_server_names() {
        let names = Names { table: String::new(), ..names() };
        let failure = classify(server("42501", "permission denied for table orders"), &names);
        assert!(failure.to_string().contains("GRANT SELECT ON orders TO relay;"), "{failure}");
    }

    #[test]
    fn what_is_not_from_the_server_is_tried_again_unless_an_operator_must_act() {
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!classify(Error::Io(broken()), &names()).is_fatal());
        assert!(!classify(Error::Connect("h:1".into(), broken()), &names()).is_fatal());
        assert!(!classify(Error::Timeout("x"), &names()).is_fatal());
        assert!(!classify(Error::Protocol("x".into()), &names()).is_fatal());
        assert!(classify(Error::NoTls, &names()).is_fatal());
        assert!(classify(Error::NoPassword, &names()).is_fatal());
        assert!(classify(Error::Config("x".into()), &names()).is_fatal());
        assert!(classify(Error::Position("x".into()), &names()).is_fatal());
        assert!(classify(Error::Tls(TlsError::NoRoots), &names()).is_fatal());
        assert!(!classify(Error::Tls(TlsError::Handshake(broken())), &names()).is_fatal());
    }
}
