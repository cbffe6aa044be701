//! Durations as people write them: `250ms`, `10s`, `5m`, `24h`, `7d`; a bare number is seconds.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use std::time::Duration;

/// Parses one duration; the error says what is accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong(text))?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return Err(wrong(text)),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong(text))
}

fn wrong(text: &str) -> String {
    format!("`{text}` is not a duration: write a number and ms, s, m, h or d, such as 250ms or 24h")
}

/// The shortest exact form.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Seconds(f64),
}

fn resolve<E: Error>(written: Written) -> Result<Duration, E> {
    match written {
        Written::Text(text) => parse(&text).map_err(E::custom),
        Written::Seconds(s) => Duration::try_from_secs_f64(s).map_err(|_| E::custom(wrong(&s.to_string()))),
    }
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    resolve(Written::deserialize(deserializer)?)
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub mod option {
    //! The same for a setting that may be absent.
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<Written>::deserialize(deserializer)?.map(resolve).transpose()
    }

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(d) => serializer.serialize_some(&super::format(*d)),
            None => serializer.serialize_none(),
        }
    }
}
