//! Which tables are captured: Debezium's include and exclude lists, compiled.
//!
//! Only names are judged here; whether a table is in the publication is asked elsewhere (`capture.rs`).

use super::config::TableFilter;
use tailwater_core::transform::outbox::{JavaRegex, RouteConfigError};

/// One list: its patterns as written, and compiled.
#[derive(Debug, Default)]
struct List(Vec<(String, JavaRegex)>);

/// A [`TableFilter`] ready to be asked.
#[derive(Debug, Default)]
pub struct Filter {
    include: List,
    exclude: List,
    include_schemas: List,
    exclude_schemas: List,
}

impl Filter {
    /// Compiles the lists. The error names the list and what is wrong with it.
    pub fn new(filter: &TableFilter) -> Result<Filter, String> {
        let exclusive = [
            ("tables.include", &filter.include, "tables.exclude", &filter.exclude),
            ("tables.include_schemas", &filter.include_schemas, "tables.exclude_schemas", &filter.exclude_schemas),
        ];
        for (one, include, other, exclude) in exclusive {
            if !include.is_empty() && !exclude.is_empty() {
                return Err(format!("{one} and {other} exclude each other: give one of them"));
            }
        }
        Ok(Filter {
            include: List::new("tables.include", &filter.include)?,
            exclude: List::new("tables.exclude", &filter.exclude)?,
            include_schemas: List::new("tables.include_schemas", &filter.include_schemas)?,
            exclude_schemas: List::new("tables.exclude_schemas", &filter.exclude_schemas)?,
        })
    }

    /// Whether a table is captured, by its names.
    pub fn takes(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        (self.include.is_empty() || self.include.matches(&name))
            && !self.exclude.matches(&name)
            && (self.include_schemas.is_empty() || self.include_schemas.matches(schema))
            && !self.exclude_schemas.matches(schema)
    }

    /// Whether the table is asked for by name, not by a pattern that happens to match it.
    pub fn names(&self, schema: &str, table: &str) -> bool {
        self.include.0.iter().any(|(text, _)| literal(text).is_some_and(|name| name == format!("{schema}.{table}")))
    }

    /// Whether tables are asked for at all; without an include list it is whatever the publication has.
    pub fn is_asked(&self) -> bool {
        !self.include.is_empty() || !self.include_schemas.is_empty()
    }

    /// The include list, for messages; `all tables` without one.
    pub fn describe(&self) -> String {
        let list = if self.include.is_empty() { &self.include_schemas } else { &self.include };
        let patterns: Vec<&str> = list.0.iter().map(|(text, _)| text.as_str()).collect();
        if patterns.is_empty() { "all tables".into() } else { patterns.join(", ") }
    }
}

impl List {
    fn new(name: &str, text: &str) -> Result<List, String> {
        let compile = |pattern: String| match JavaRegex::new(&format!("(?i){pattern}")) {
            Ok(regex) => Ok((pattern, regex)),
            Err(RouteConfigError::Regex { reason, .. }) => Err(format!("{name}: `{pattern}` cannot be used: {reason}")),
            Err(error) => Err(format!("{name}: {error}")),
        };
        split(text)
            .map_err(|error| format!("{name}: {error}"))?
            .into_iter()
            .map(compile)
            .collect::<Result<_, _>>()
            .map(List)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A pattern that cannot be decided on a name (too much backtracking) does not match it.
    fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|(_, regex)| regex.matches(name).unwrap_or(false))
    }
}

/// Splits at commas; a backslash keeps what follows it: `\,` is a comma in a pattern, other escapes stay.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        match character {
            ',' => parts.push(String::new()),
            '\\' => match chars.next() {
                Some(',') => parts.last_mut().expect("never empty").push(','),
                Some(escaped) => parts.last_mut().expect("never empty").extend(['\\', escaped]),
                None => return Err("it ends with a backslash".into()),
            },
            character => parts.last_mut().expect("never empty").push(character),
        }
    }
    Ok(parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
}

/// The only text a pattern is meant for, if it is that simple: `public\.orders`, `public.orders`.
fn literal(pattern: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(character) = chars.next() {
        match character {
            '\\' => out.push(chars.next().filter(|escaped| !escaped.is_ascii_alphanumeric())?),
            '.' if matches!(chars.peek(), Some('*' | '+' | '?' | '{')) => return None,
            '*' | '+' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '|' | '^' | '$' => return None,
            character => out.push(character),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &str, exclude: &str, include_schemas: &str, exclude_schemas: &str) -> Result<Filter, String> {
        Filter::new(&TableFilter {
            include: include.into(),
            exclude: exclude.into(),
            include_schemas: include_schemas.into(),
            exclude_schemas: exclude_schemas.into(),
        })
    }

    #[test]
    fn a_table_is_taken_as_the_lists_say() {
        let table = [
            // (include, exclude, schemas, without schemas, schema, table, taken)
            ("", "", "", "", "public", "orders", true),
            (r"public\.orders", "", "", "", "public", "orders", true),
            (r"public\.orders", "", "", "", "public", "orders_old", false),
            (r"public\.orders", "", "", "", "other", "orders", false),
            ("public.orders, public.items", "", "", "", "public", "items", true),
            ("PUBLIC.Orders", "", "", "", "public", "orders", true),
            ("orders", "", "", "", "public", "orders", false),
            (r"public\.o.*,app\..*", "", "", "", "app", "anything", true),
            (r"public\.a{1\,2}", "", "", "", "public", "aa", true),
            ("", r".*\.tmp_.*", "", "", "public", "tmp_1", false),
            ("", r".*\.tmp_.*", "", "", "public", "orders", true),
            ("", "", "app,billing", "", "billing", "x", true),
            ("", "", "app", "", "application", "x", false),
            (r"app\.x", "", "public", "", "app", "x", false),
            ("", "", "", "audit", "audit", "x", false),
        ];
        for (include, exclude, schemas, without, schema, name, taken) in table {
            let filter = filter(include, exclude, schemas, without).unwrap();
            assert_eq!(filter.takes(schema, name), taken, "{include} {exclude} {schemas} {without}: {schema}.{name}");
        }
    }

    #[test]
    fn what_cannot_be_a_filter_is_said() {
        assert!(filter("a.b", "a.c", "", "").unwrap_err().contains("tables.exclude"));
        assert!(filter("", "", "a", "b").unwrap_err().contains("tables.exclude_schemas"));
        assert!(filter("", "a(b", "", "").unwrap_err().starts_with("tables.exclude: "));
        assert!(filter("a\\", "", "", "").unwrap_err().contains("backslash"));
    }

    #[test]
    fn a_name_is_told_from_a_pattern() {
        let filter = filter(r"public\.orders, public.items, app\.t.*", "", "", "").unwrap();
        assert!(filter.names("public", "orders") && filter.names("public", "items"));
        assert!(!filter.names("app", "t1"));
    }
}
