//! Where a JSON pointer leads in a text: the text is compared byte for byte, so it is not parsed and written again.

use std::ops::Range;

/// The bytes of the value at this pointer. Keys are without escapes in all masks.
pub fn span(text: &str, pointer: &str) -> Option<Range<usize>> {
    let mut at = 0;
    for key in pointer.split('/').skip(1) {
        at = member(text, at, key)?;
    }
    Some(at..end(text, at)?)
}

/// Where the value of this member begins, in the object that begins at `at`.
fn member(text: &str, at: usize, key: &str) -> Option<usize> {
    let mut at = skip(text, at);
    (text.as_bytes().get(at) == Some(&b'{')).then_some(())?;
    at += 1;
    loop {
        at = skip(text, at);
        let name_end = end(text, at)?;
        let name = text.get(at + 1..name_end - 1)?;
        let value = skip(text, skip(text, name_end) + 1);
        if name == key {
            return Some(value);
        }
        at = skip(text, end(text, value)?);
        (text.as_bytes().get(at) == Some(&b',')).then_some(())?;
        at += 1;
    }
}

fn skip(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the value that begins at `at` ends.
fn end(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    Some(at + values.byte_offset())
}

#[test]
fn a_pointer_leads_to_its_value() {
    let text = r#"{"a": [1,{"b":2}],"c":{"d":"x}","e":null}}"#;
    let at = |pointer| span(text, pointer).map(|range| &text[range]);
    assert_eq!(at("/a"), Some(r#"[1,{"b":2}]"#));
    assert_eq!(at("/c/d"), Some("\"x}\""));
    assert_eq!(at("/c/e"), Some("null"));
    assert_eq!(at("/x"), None);
}
