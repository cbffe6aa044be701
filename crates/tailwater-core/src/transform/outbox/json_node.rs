//! JSON text → a document as Jackson's `readTree` sees it: the first value counts, what follows it does not.
//!
//! Only strict compatibility builds documents. Limits are Jackson's: 1,000 levels, numbers of 1,000 characters.

use super::expand::Node;

const LEVELS_MAX: usize = 1000;
const NUMBER_LENGTH_MAX: usize = 1000;

/// The first value of the text; `None` where it is not JSON.
pub fn parse(text: &str) -> Option<Node> {
    Parser { text, at: 0, level: 0 }.value()
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    level: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self) -> Option<Node> {
        self.space();
        match self.peek()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string().map(Node::Text),
            b't' => self.word("true", Node::Bool(true)),
            b'f' => self.word("false", Node::Bool(false)),
            b'n' => self.word("null", Node::Null),
            _ => self.number(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes this byte, after white space, if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, node: Node) -> Option<Node> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())?;
        Some(node)
    }

    fn nested(&mut self, parse: impl Fn(&mut Self) -> Option<Node>) -> Option<Node> {
        self.level += 1;
        if self.level > LEVELS_MAX {
            return None;
        }
        self.at += 1;
        let node = parse(self);
        self.level -= 1;
        node
    }

    fn object(&mut self) -> Option<Node> {
        let mut members: Vec<(Vec<u16>, Node)> = Vec::new();
        if self.takes(b'}') {
            return Some(Node::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            if !self.takes(b':') {
                return None;
            }
            let value = self.value()?;
            match members.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => members.push((name, value)),
            }
            if self.takes(b'}') {
                return Some(Node::Object(members));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn array(&mut self) -> Option<Node> {
        let mut items = Vec::new();
        if self.takes(b']') {
            return Some(Node::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.takes(b']') {
                return Some(Node::Array(items));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        let mut units = Vec::new();
        loop {
            let character = self.text.get(self.at..)?.chars().next()?;
            self.at += character.len_utf8();
            match character {
                '"' => return Some(units),
                '\\' => units.push(self.escape()?),
                '\0'..'\x20' => return None,
                _ => units.extend_from_slice(character.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let escaped = self.peek()?;
        self.at += 1;
        Some(u16::from(match escaped {
            b'"' | b'\\' | b'/' => escaped,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                return digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?;
            }
            _ => return None,
        }))
    }

    fn number(&mut self) -> Option<Node> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.digits()?;
        if whole.len() > 1 && whole.starts_with('0') {
            return None;
        }
        let mut decimal = false;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            decimal = true;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
            decimal = true;
        }
        let text = &self.text[from..self.at];
        if text.len() > NUMBER_LENGTH_MAX {
            return None;
        }
        if decimal {
            return text.parse().ok().map(Node::Double);
        }
        Some(match text.parse::<i64>() {
            Ok(number) => i32::try_from(number).map_or(Node::Long(number), Node::Int),
            Err(_) => Node::Big,
        })
    }

    fn digits(&mut self) -> Option<&'a str> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > from).then(|| &self.text[from..self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts() {
        assert_eq!(parse(" 1 2"), Some(Node::Int(1)));
        assert_eq!(
            parse("[true, -2147483649]x"),
            Some(Node::Array(vec![Node::Bool(true), Node::Long(-2_147_483_649)]))
        );
        assert_eq!(parse("\"\\u00e4\\/\""), Some(Node::Text(vec![0xE4, 0x2F])));
        for bad in ["", "01", "[1", "{\"a\"}", "\"\\x\"", "nul", "-", "1.", "\"\\u12\""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn depth_is_limited_before_the_stack_is() {
        assert!(parse(&format!("{}{}", "[".repeat(1000), "]".repeat(1000))).is_some());
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
