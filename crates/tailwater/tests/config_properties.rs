//! The readers of files: what Java properties mean, and that no text whatever makes them panic.
#![allow(clippy::unwrap_used)] // a panic is a failed test

use proptest::prelude::*;
use tailwater::config::load::{Collected, Inputs, load, read_text};
use tailwater::config::properties::{Property, parse};

fn pairs(text: &str) -> Vec<(String, String)> {
    parse(text).unwrap().into_iter().map(|Property { key, value, .. }| (key, value)).collect()
}

fn one(key: &str, value: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), value.to_owned())]
}

#[test]
fn separators_are_equals_colon_or_blanks() {
    for text in ["a=b", "a:b", "a b", " a = b", "a\t:\tb", "a   b", "\u{c}a=b"] {
        assert_eq!(pairs(text), one("a", "b"), "{text:?}");
    }
    assert_eq!(pairs("a==b"), one("a", "=b"));
    assert_eq!(pairs("a b=c"), one("a", "b=c"));
    assert_eq!(pairs("a"), one("a", ""));
    assert_eq!(pairs("=b"), one("", "b"));
    assert_eq!(pairs("a=b "), one("a", "b "), "blanks at the end belong to the value");
}

#[test]
fn comments_and_empty_lines_are_skipped() {
    assert_eq!(pairs("# x=1\n  ! y=2\n\n \t\na=b#c"), one("a", "b#c"));
    assert_eq!(pairs("# not continued \\\na=b"), one("a", "b"));
}

#[test]
fn lines_are_continued_by_an_odd_number_of_backslashes() {
    assert_eq!(pairs("a=b,\\\n   c,\\\r\n\td"), one("a", "b,c,d"));
    assert_eq!(pairs("a=b\\\\\nc=d"), vec![("a".into(), "b\\".into()), ("c".into(), "d".into())]);
    assert_eq!(pairs("a=b\\"), one("a", "b"));
    assert_eq!(pairs("a\\\n=b"), one("a", "b"));
    assert_eq!(pairs("a=b\\\n# no comment here"), one("a", "b# no comment here"));
}

#[test]
fn escapes_are_those_of_java() {
    assert_eq!(pairs(r"a\ b\=c\:d=e"), one("a b=c:d", "e"));
    assert_eq!(pairs("a=\\t\\n\\r\\f\\\\\\q\\\""), one("a", "\t\n\r\u{c}\\q\""));
    assert_eq!(pairs(r"a=\u0041\u00e9\uD83D\uDE00"), one("a", "Aé😀"));
    assert_eq!(pairs("a=é😀"), one("a", "é😀"));
}

#[test]
fn a_broken_unicode_escape_names_its_line() {
    for text in ["\na=\\u12", "\na=\\u00zz", "\na=\\uD83D", "\na=\\uD83D\\u0041", "\n\\u="] {
        assert_eq!(parse(text).unwrap_err().0, 2, "{text:?}");
    }
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    let lines: Vec<usize> = parse("a=1\r\nb=2\rc=3\\\n  4\nd=5").unwrap().iter().map(|p| p.line).collect();
    assert_eq!(lines, [1, 2, 3, 5]);
}

/// As `java.util.Properties.store` writes.
fn escape(text: &str, key: bool) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        match c {
            ' ' if key || n == 0 => out.push_str("\\ "),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{c}' => out.push_str("\\f"),
            '=' | ':' | '#' | '!' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
        }
    }
    out
}

const RECIPE: &str = "debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.database.hostname=localhost
debezium.source.table.include.list=public.outbox
debezium.sink.type=rabbitmq
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.route.topic.replacement=${routedByValue}
";

const NATIVE: &str = "[pipelines.a.source]
type = \"postgres\"
url = \"postgres://a@b/c\"
slot = \"s\"
publication = \"p\"
table = \"t\"
[pipelines.a.sink]
type = \"rabbitmq\"
urls = [\"amqp://a\"]
topology.queues = [{ name = \"q\" }]
";

fn swallow(name: &str, text: &str) {
    let mut collected = Collected::default();
    read_text(name, text, &[], &mut collected);
    let _ = collected.settings.build();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read_again(written in prop::collection::vec((".{0,20}", ".{0,40}"), 0..8)) {
        let text: String =
            written.iter().map(|(key, value)| format!("{}={}\n", escape(key, true), escape(value, false))).collect();
        prop_assert_eq!(pairs(&text), written);
    }

    #[test]
    fn the_properties_reader_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn escapes_and_ends_of_lines_in_any_order_do_not_panic(text in r"[a\\u0D8=: \n\r\t#!${}]{0,60}") {
        let _ = parse(&text);
        swallow("x.properties", &text);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        swallow("x.toml", &text);
        swallow("x.properties", &text);
        swallow("x", &text);
    }

    #[test]
    fn nearly_right_files_do_not_panic(at in any::<prop::sample::Index>(), cut in 0..12usize, patch in ".{0,6}", own in any::<bool>()) {
        let (name, text) = if own { ("x.toml", NATIVE) } else { ("x.properties", RECIPE) };
        let start = at.index(text.len());
        let end = (start + cut).min(text.len());
        swallow(name, &format!("{}{patch}{}", &text[..start], &text[end..]));
    }

    #[test]
    fn any_keys_and_values_do_not_panic(
        keys in prop::collection::vec(("[a-z.0-9_-]{1,30}", "[ -~]{0,20}"), 1..5),
        variables in prop::collection::vec(("(TAILWATER|DEBEZIUM)_[A-Z0-9_]{0,30}", "[ -~]{0,20}"), 0..4),
    ) {
        let lines: String = keys.iter().map(|(key, value)| format!("debezium.{key}={value}\ntailwater.{key}={value}\n")).collect();
        let mut collected = Collected::default();
        read_text("x.properties", &format!("{RECIPE}{lines}"), &variables, &mut collected);
        let _ = collected.settings.build();
        let _ = load(&Inputs { environment: variables, ..Inputs::default() });
    }
}
