//! A value that never shows itself: not in logs, errors, `--json`, nor in Debug output.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A password, a token, or a URL that may hold one. `expose` is the only way to the text.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself: for the wire, never for output.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A URL without its passwords: enough to see which server is meant. What is no URL stays hidden.
    pub fn as_url(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return "***".into() };
        // the last @: passwords are not always escaped
        let shown = match rest.rsplit_once('@') {
            Some((user, rest)) => match user.split_once(':') {
                Some((name, _)) => format!("{name}:***@{}", without_passwords(rest)),
                None => format!("{user}@{}", without_passwords(rest)),
            },
            None => without_passwords(rest),
        };
        format!("{scheme}://{shown}")
    }
}

/// Parameters of a URL; those that name a password lose their value.
fn without_passwords(rest: &str) -> String {
    let Some((path, parameters)) = rest.split_once('?') else { return rest.to_owned() };
    let parameter = |text: &str| match text.split_once('=') {
        Some((name, _)) if name.to_lowercase().contains("password") => format!("{name}=***"),
        _ => text.to_owned(),
    };
    format!("{path}?{}", parameters.split('&').map(parameter).collect::<Vec<_>>().join("&"))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_the_server_and_no_password() {
        for (url, shown) in [
            ("amqp://guest:hidden@mq:5672/%2f", "amqp://guest:***@mq:5672/%2f"),
            ("postgres://relay@db/shop", "postgres://relay@db/shop"),
            ("postgres://relay:hid/d@en@db/shop?sslmode=require", "postgres://relay:***@db/shop?sslmode=require"),
            ("postgres://db/shop?user=a&password=hidden&x=1", "postgres://db/shop?user=a&password=***&x=1"),
            ("postgres:///shop?sslpassword=hidden", "postgres:///shop?sslpassword=***"),
            ("hidden", "***"),
        ] {
            assert_eq!(Secret::new(url).as_url(), shown);
        }
    }
}
