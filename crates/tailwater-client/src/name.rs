//! Names of tables and columns, quoted so that no name can become SQL. Not a parser of SQL identifiers: a dot separates the
//! schema from the table, and everything else is taken literally.

use std::fmt;
use std::str::FromStr;

/// A name that PostgreSQL would refuse or cut off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("an empty name; write `table` or `schema.table`")]
    Empty,
    #[error("the name {0:?} is longer than 63 bytes: PostgreSQL would cut it off")]
    TooLong(String),
    #[error("the name {0:?} contains a NUL byte")]
    Nul(String),
    #[error("the name {0:?} has more than one dot; write `table` or `schema.table`")]
    TooManyParts(String),
}

/// A table's name, checked and quoted. Case is kept: `Outbox` is not `outbox`.
///
/// ```
/// let table: tailwater_client::Table = "app.outbox".parse()?;
/// assert_eq!(table.to_string(), r#""app"."outbox""#);
/// # Ok::<(), tailwater_client::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(String);

impl Table {
    /// `name` is `table` (found through the session's `search_path`) or `schema.table`.
    pub fn new(name: &str) -> Result<Table, NameError> {
        match name.split('.').collect::<Vec<_>>()[..] {
            [table] => Ok(Table(quote(table)?)),
            [schema, table] => Ok(Table(format!("{}.{}", quote(schema)?, quote(table)?))),
            _ => Err(NameError::TooManyParts(name.into())),
        }
    }
}

impl FromStr for Table {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Table, NameError> {
        Table::new(name)
    }
}

/// As it stands in SQL.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One identifier in double quotes, inner quotes doubled (PostgreSQL manual, section 4.1.1).
pub(crate) fn quote(name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.contains('\0') {
        return Err(NameError::Nul(name.into()));
    }
    if name.len() > 63 {
        return Err(NameError::TooLong(name.into()));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_sql() {
        for (name, sql) in [
            ("outbox", r#""outbox""#),
            ("app.outbox", r#""app"."outbox""#),
            ("Out Box", r#""Out Box""#),
            (r#"a"; DROP TABLE b; --"#, r#""a""; DROP TABLE b; --""#),
        ] {
            assert_eq!(Table::new(name).unwrap().to_string(), sql);
        }
    }

    #[test]
    fn names_that_postgresql_would_cut_off_or_refuse_are_errors() {
        assert_eq!(Table::new(""), Err(NameError::Empty));
        assert_eq!(Table::new("a."), Err(NameError::Empty));
        assert!(matches!(Table::new("a.b.c"), Err(NameError::TooManyParts(_))));
        assert!(matches!(Table::new(&"x".repeat(64)), Err(NameError::TooLong(_))));
        assert!(matches!(Table::new("a\0b"), Err(NameError::Nul(_))));
    }
}
