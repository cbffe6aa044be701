//! A column's default expression → the default of its schema, as far as Debezium understands it (observed).

use super::read::{Reading, read};
use crate::encode::strict::{Datum, quoted};

/// `None`: the schema has no default. `strict`: where Debezium makes one up for a function's result, so is it here.
pub(super) fn default(reading: &Reading, expression: &str, not_null: bool, uuid: bool, strict: bool) -> Option<Datum> {
    // Of these Debezium takes no default at all.
    if matches!(
        reading,
        Reading::FreeDecimal
            | Reading::Bytes(_)
            | Reading::Money { .. }
            | Reading::MoneyText
            | Reading::MoneyDouble
            | Reading::HstoreJson
            | Reading::HstoreMap
            | Reading::Array(_)
            | Reading::AlwaysNull
    ) {
        return None;
    }
    let literal = match literal(expression) {
        Literal::Null => return None,
        Literal::Text(text) => text,
        Literal::Call if !strict => return None,
        Literal::Call if uuid => return Some(Datum::Text("00000000-0000-0000-0000-000000000000".into())),
        Literal::Call if *reading == Reading::Text => return Some(Datum::Text(String::new())),
        Literal::Call if not_null => return Some(super::column::zero(reading)),
        Literal::Call | Literal::Expression => return None,
    };
    let literal = match (reading, literal.as_str()) {
        (Reading::Bool, "true") => "t",
        (Reading::Bool, "false") => "f",
        (_, literal) => literal,
    };
    read(reading, literal, true).ok().filter(|datum| *datum != Datum::Null)
}

enum Literal {
    Null,
    Text(String),
    /// A function's result.
    Call,
    Expression,
}

/// The text of an expression as `pg_get_expr` prints it.
fn literal(expression: &str) -> Literal {
    if let Some((text, cast)) = expression.strip_prefix('\'').and_then(quoted) {
        return if cast.is_empty() || cast.starts_with("::") { Literal::Text(text) } else { Literal::Expression };
    }
    let bare = expression.split("::").next().unwrap_or_default();
    let inner = bare.strip_prefix('(').and_then(|bare| bare.strip_suffix(')')).unwrap_or(bare);
    if inner == "NULL" {
        Literal::Null
    } else if matches!(inner, "true" | "false")
        || (inner.parse::<f64>().is_ok() && inner.starts_with(|first: char| first.is_ascii_digit() || first == '-'))
    {
        Literal::Text(inner.into())
    } else if expression.split_once('(').is_some_and(|(name, _)| is_name(name)) || is_name(expression) {
        Literal::Call
    } else {
        Literal::Expression
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Debezium 3.7.0.
    #[test]
    fn literals_have_a_value_and_expressions_have_none() {
        let of = |reading: Reading, text: &str, not_null| default(&reading, text, not_null, false, true);
        assert_eq!(of(Reading::Integer, "5", false), Some(Datum::Int(5)));
        assert_eq!(of(Reading::Integer, "'-7'::smallint", false), Some(Datum::Int(-7)));
        assert_eq!(of(Reading::Text, "'a''b'::text", false), Some(Datum::Text("a'b".into())));
        assert_eq!(of(Reading::Text, "upper('x'::text)", false), Some(Datum::Text(String::new())));
        assert_eq!(of(Reading::Bool, "true", false), Some(Datum::Bool(true)));
        assert_eq!(of(Reading::Integer, "(1 + 2)", false), None);
        assert_eq!(
            of(Reading::Timestamp { unit: super::super::read::Unit::Micros }, "now()", true),
            Some(Datum::Int(0))
        );
        assert_eq!(default(&Reading::Integer, "nextval('s'::regclass)", true, false, false), None);
        assert_eq!(of(Reading::FreeDecimal, "2.50", false), None);
        assert_eq!(of(Reading::Text, "NULL::character varying", false), None);
    }
}
