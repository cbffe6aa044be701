//! The text format of COPY → values, as the stream would send them.

use bytes::Bytes;
use tailwater_core::{Tuple, Value};

/// One line of COPY's text format (documentation of COPY, "Text Format"). Values without an escape stay slices.
pub(crate) fn parse_line(line: Bytes) -> Tuple {
    let end = if line.last() == Some(&b'\n') { line.len() - 1 } else { line.len() };
    let line = line.slice(..end);
    let mut values = Vec::new();
    let mut from = 0;
    loop {
        let to = memchr::memchr(b'\t', &line[from..]).map_or(line.len(), |tab| from + tab);
        let field = line.slice(from..to);
        values.push(match memchr::memchr(b'\\', &field) {
            None => Value::Text(field),
            Some(_) if field.as_ref() == b"\\N" => Value::Null,
            Some(_) => Value::Text(unescape(&field)),
        });
        if to == line.len() {
            return Tuple(values);
        }
        from = to + 1;
    }
}

fn unescape(field: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => *other,
            None => b'\\',
        });
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_copy_is_read_as_the_stream_would_send_it() {
        let line = Bytes::from_static(b"1\t\\N\t\t\\\\x00ff\ta\\tb\\nc\\rd\\\\e\t\\\\N\n");
        let text = |text: &'static [u8]| Value::Text(Bytes::from_static(text));
        let expected = [text(b"1"), Value::Null, text(b""), text(b"\\x00ff"), text(b"a\tb\nc\rd\\e"), text(b"\\N")];
        assert_eq!(parse_line(line).0, expected);
        assert_eq!(parse_line(Bytes::from_static(b"\n")).0, [text(b"")]);
    }
}
