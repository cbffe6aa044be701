//! What a caller may ask for, checked before anything is written. No I/O.

use serde::{Deserialize, Serialize};

/// Body of `POST /reports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// Whose activity.
    pub user_id: i64,
    /// First day (UTC, `YYYY-MM-DD`); none: from the beginning.
    #[serde(default)]
    pub from: Option<String>,
    /// Last day, included; none: up to now.
    #[serde(default)]
    pub to: Option<String>,
}

impl ReportRequest {
    /// The first thing that is wrong, in words for the caller.
    pub fn check(&self) -> Result<(), String> {
        if self.user_id < 1 {
            return Err("`user_id` must be a positive number".into());
        }
        let (from, to) = (day("from", &self.from)?, day("to", &self.to)?);
        match (from, to) {
            (Some(from), Some(to)) if from > to => Err("`from` is later than `to`".into()),
            _ => Ok(()),
        }
    }
}

fn day(field: &str, value: &Option<String>) -> Result<Option<jiff::civil::Date>, String> {
    let Some(text) = value else { return Ok(None) };
    let date = (text.len() == 10).then(|| text.parse::<jiff::civil::Date>().ok()).flatten();
    date.map(Some).ok_or_else(|| format!("`{field}` must be a day like 2026-01-31"))
}

/// The value of an `Idempotency-Key` header, with or without the quotes of a structured field.
pub fn idempotency_key(header: &str) -> Result<&str, String> {
    let header = header.trim();
    let key = header.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(header);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.~:".contains(&b);
    if key.is_empty() || key.len() > 128 || !key.bytes().all(allowed) {
        return Err("`Idempotency-Key` must be 1 to 128 letters, digits or - _ . ~ : (a UUID is a good choice)".into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        serde_json::from_str::<ReportRequest>(json).map_err(|e| e.to_string())?.check()
    }

    #[test]
    fn a_request_is_checked_and_the_error_names_the_field() {
        assert_eq!(check(r#"{"user_id": 1}"#), Ok(()));
        assert_eq!(check(r#"{"user_id": 1, "from": "2026-01-31", "to": "2026-01-31"}"#), Ok(()));
        for (json, word) in [
            (r#"{"user_id": 0}"#, "user_id"),
            (r#"{}"#, "user_id"),
            (r#"{"user_id": "1"}"#, "i64"),
            (r#"{"user_id": 1, "form": "2026-01-31"}"#, "form"),
            (r#"{"user_id": 1, "from": "2026-02-30"}"#, "from"),
            (r#"{"user_id": 1, "to": "yesterday"}"#, "to"),
            (r#"{"user_id": 1, "from": "2026-02-01", "to": "2026-01-31"}"#, "later"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn an_idempotency_key_cannot_carry_a_line_break_into_a_mail_header() {
        assert_eq!(idempotency_key("\"8e03978e-40d5\""), Ok("8e03978e-40d5"));
        assert_eq!(idempotency_key("user-17:2026"), Ok("user-17:2026"));
        let long = "x".repeat(129);
        for bad in ["", "\"\"", "a b", "a\r\nBcc: x", "ä", "a>b", &long] {
            assert!(idempotency_key(bad).is_err(), "{bad:?}");
        }
    }
}
