//! JSON text: writing strings, and checking that a text is one JSON value without building it.
//!
//! Not here: a document model. A payload that is JSON already is passed on as it is.

/// How far strings are escaped; both forms mean the same to every parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// What RFC 8259 section 7 demands, nothing more.
    Needed,
    /// As Kafka's JsonConverter: characters beyond the BMP as two upper-case `\uXXXX` (observed with Connect 4.3).
    Surrogates,
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends `text` as a JSON string, with its quotes.
pub fn write_string(out: &mut Vec<u8>, text: &str, escapes: Escapes) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let astral = byte >= 0xF0 && escapes == Escapes::Surrogates;
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && !astral {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        if astral {
            let Some(character) = text[at..].chars().next() else { break };
            let mut units = [0u16; 2];
            for unit in character.encode_utf16(&mut units) {
                write_unicode_escape(out, *unit);
            }
            at += character.len_utf8();
        } else {
            write_escape(out, byte);
            at += 1;
        }
        from = at;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x09 => b't',
        0x0A => b'n',
        0x0C => b'f',
        0x0D => b'r',
        _ => return write_unicode_escape(out, u16::from(byte)),
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends `\uXXXX` with upper-case digits.
pub fn write_unicode_escape(out: &mut Vec<u8>, unit: u16) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(HEX[usize::from(unit >> shift) & 0xF]);
    }
}

/// Whether `text` is exactly one JSON value (RFC 8259), white space around it allowed. Any depth; nothing is built.
pub fn is_value(text: &[u8]) -> bool {
    let mut scan = Scan { text, at: 0 };
    scan.document().is_some() && scan.at == text.len()
}

/// Whether `text` is exactly one JSON number.
pub fn is_number(text: &[u8]) -> bool {
    let mut scan = Scan { text, at: 0 };
    scan.number().is_some() && scan.at == text.len()
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// One value with everything in it; containers are kept on a stack, not in recursion.
    fn document(&mut self) -> Option<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek()? {
                opening @ (b'{' | b'[') => {
                    self.at += 1;
                    self.space();
                    if self.peek()? != closing(opening) {
                        if opening == b'{' {
                            self.member_name()?;
                        }
                        open.push(opening);
                        continue;
                    }
                    self.at += 1;
                }
                b'"' => self.string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value is complete: close what ends here, then the next one, or the end.
            loop {
                self.space();
                let Some(&container) = open.last() else { return Some(()) };
                let next = self.peek()?;
                self.at += 1;
                if next == closing(container) {
                    open.pop();
                } else if next == b',' {
                    if container == b'{' {
                        self.space();
                        self.member_name()?;
                    }
                    break;
                } else {
                    return None;
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn member_name(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.word(b":")
    }

    fn string(&mut self) -> Option<()> {
        self.word(b"\"")?;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let digits = self.text.get(self.at..self.at + 4)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

fn closing(opening: u8) -> u8 {
    if opening == b'{' { b'}' } else { b']' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str, escapes: Escapes) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text, escapes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_far_as_needed() {
        assert_eq!(
            string("a\"\\\n\u{b}/<\u{7f}\u{2028}é😀", Escapes::Needed),
            "\"a\\\"\\\\\\n\\u000B/<\u{7f}\u{2028}é😀\""
        );
        assert_eq!(string("x😀y", Escapes::Surrogates), "\"x\\uD83D\\uDE00y\"");
        assert_eq!(string("", Escapes::Needed), "\"\"");
    }

    #[test]
    fn a_value_is_told_from_what_is_none() {
        for good in
            ["{}", "[]", " {\"a\" : [1, -0.5e+3, null, true, \"\\u00e4\\n\"] } ", "0", "\"x\"", "[[[]],{\"\":{}}]"]
        {
            assert!(is_value(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " ",
            "{",
            "{]",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            "+1",
            "nul",
            "1 2",
            "\"\n\"",
            "\"\\x\"",
            "{}x",
            "NaN",
            "'a'",
        ] {
            assert!(!is_value(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(is_value(deep.as_bytes()));
    }

    proptest! {
        #[test]
        fn any_text_survives_as_a_string(text in "\\PC*|[\\x00-\\x20\"\\\\😀]*") {
            for escapes in [Escapes::Needed, Escapes::Surrogates] {
                prop_assert_eq!(&serde_json::from_str::<String>(&string(&text, escapes)).unwrap(), &text);
            }
        }

        #[test]
        fn the_check_agrees_with_a_parser(text in "[\\[\\]{}\",:0-9eE.+\\-tfnrualse\\\\ ]{0,12}") {
            // serde_json refuses numbers beyond its range and lone surrogates; those texts are valid JSON all the same.
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_value(text.as_bytes()), parsed, "{}", text);
        }
    }
}
