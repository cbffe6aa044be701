//! Java regular expressions in terms of ours: `java.util.regex.Pattern` without flags.
//!
//! Covered: everything an ordinary topic pattern uses, with Java's meaning of `.`, `\d`, `\w`, `\s` (ASCII) and of a whole
//! match. What has no counterpart here (octal and control escapes, `\G`, `\X`, `\N{…}`) is refused at construction.

use super::RouteConfigError;
use fancy_regex::{Captures, Regex};

/// A pattern, compiled.
#[derive(Debug)]
pub struct JavaRegex {
    /// For `Matcher.matches`.
    whole: Regex,
    /// For `Matcher.find`.
    anywhere: Regex,
}

impl JavaRegex {
    pub fn new(pattern: &str) -> Result<JavaRegex, RouteConfigError> {
        let refuse = |reason: String| RouteConfigError::Regex { pattern: pattern.into(), reason };
        let ours = translate(pattern).map_err(refuse)?;
        let compile = |text: &str| Regex::new(text).map_err(|error| refuse(error.to_string()));
        Ok(JavaRegex { anywhere: compile(&ours)?, whole: compile(&format!(r"\A(?:{ours})\z"))? })
    }

    /// `Matcher.matches`: the whole text. An error is a pattern that went over the limit of backtracking on this text.
    pub fn matches(&self, text: &str) -> Result<bool, String> {
        self.whole.is_match(text).map_err(|error| error.to_string())
    }

    /// `Matcher.find`: the first match anywhere.
    pub fn find<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, String> {
        self.anywhere.captures(text).map_err(|error| error.to_string())
    }

    /// Number of groups, without group 0.
    pub fn groups(&self) -> usize {
        self.anywhere.captures_len() - 1
    }

    /// Number of the group with this name.
    pub fn group(&self, name: &str) -> Option<usize> {
        self.anywhere.capture_names().position(|n| n == Some(name))
    }
}

fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut depth = 0usize;
    let mut rest = pattern.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => translate_escape(&mut out, &mut rest, depth > 0)?,
            '[' => {
                depth += 1;
                out.push('[');
            }
            ']' if depth > 0 => {
                depth -= 1;
                out.push(']');
            }
            // Java without DOTALL: any character but a line terminator.
            '.' if depth == 0 => out.push_str(r"[^\n\r\x{85}\x{2028}\x{2029}]"),
            other => out.push(other),
        }
    }
    Ok(out)
}

fn translate_escape(out: &mut String, rest: &mut std::str::Chars<'_>, in_class: bool) -> Result<(), String> {
    let escaped = rest.next().ok_or("it ends with a backslash")?;
    // Inside a class a nested class is a union, in Java and here alike.
    match escaped {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[a-zA-Z0-9_]"),
        'W' => out.push_str("[^a-zA-Z0-9_]"),
        's' => out.push_str(r"[ \t\n\x0B\f\r]"),
        'S' => out.push_str(r"[^ \t\n\x0B\f\r]"),
        'h' => out.push_str(r"[ \t\x{A0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}]"),
        'v' => out.push_str(r"[\n\x0B\f\r\x{85}\x{2028}\x{2029}]"),
        'R' if !in_class => out.push_str(r"(?:\r\n|[\n\x0B\f\r\x{85}\x{2028}\x{2029}])"),
        'e' => out.push_str(r"\x{1B}"),
        'Z' if !in_class => out.push_str(r"(?=(?:\r\n|[\n\r\x{85}\x{2028}\x{2029}])?\z)"),
        'Q' => quote(out, rest),
        'u' => {
            let digits: String = rest.by_ref().take(4).collect();
            if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err("\\u needs four hex digits".into());
            }
            out.push_str(&format!("\\x{{{digits}}}"));
        }
        'p' | 'P' => property(out, rest, escaped == 'P')?,
        'k' | 'x' | 't' | 'n' | 'r' | 'f' | 'a' | 'b' | 'B' | 'A' | 'z' | '1'..='9' => out.extend(['\\', escaped]),
        other if other.is_ascii_alphanumeric() => return Err(format!("\\{other} is not supported")),
        other if other.is_ascii() => out.extend(['\\', other]),
        other => out.push(other),
    }
    Ok(())
}

/// `\Q…\E`: literal text.
fn quote(out: &mut String, rest: &mut std::str::Chars<'_>) {
    let text = rest.as_str();
    let (quoted, after) = text.split_once("\\E").unwrap_or((text, ""));
    out.push_str(&fancy_regex::escape(quoted));
    *rest = after.chars();
}

/// `\p{…}`: POSIX classes are ASCII in Java; the rest are Unicode properties under the same names.
fn property(out: &mut String, rest: &mut std::str::Chars<'_>, negated: bool) -> Result<(), String> {
    let text = rest.as_str();
    let name = match text.strip_prefix('{') {
        Some(braced) => braced.split_once('}').ok_or("\\p{ without its }")?.0,
        None => text.get(..1).ok_or("\\p needs a property")?,
    };
    let class = match name {
        "Lower" => "a-z",
        "Upper" => "A-Z",
        "ASCII" => r"\x00-\x7F",
        "Alpha" => "a-zA-Z",
        "Digit" => "0-9",
        "Alnum" => "a-zA-Z0-9",
        "Punct" => r"!-/:-@\[-`{-~",
        "Graph" => "!-~",
        "Print" => " -~",
        "Blank" => r" \t",
        "Cntrl" => r"\x00-\x1F\x7F",
        "XDigit" => "0-9a-fA-F",
        "Space" => r" \t\n\x0B\f\r",
        _ => "",
    };
    if class.is_empty() {
        let name = name.strip_prefix("Is").unwrap_or(name);
        out.push_str(&format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' }));
    } else {
        out.push_str(&format!("[{}{class}]", if negated { "^" } else { "" }));
    }
    *rest = text[name.len() + if text.starts_with('{') { 2 } else { 0 }..].chars();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        JavaRegex::new(pattern).unwrap().matches(text).unwrap()
    }

    #[test]
    fn a_match_is_a_match_of_the_whole_text() {
        assert!(matches("a|ab", "ab"));
        assert!(!matches("a", "ab"));
        assert!(!matches("outbox.event.*", "p.public.outbox"));
        assert!(matches(r"p\.public\.outbox", "p.public.outbox"));
    }

    #[test]
    fn a_dot_and_the_classes_mean_what_they_mean_in_java() {
        assert!(matches(".*", "a b/c"));
        for line_end in ["a\nb", "a\r", "a\u{85}", "\u{2028}"] {
            assert!(!matches(".*", line_end), "{line_end:?}");
        }
        assert!(!matches(r"\d", "٣"));
        assert!(!matches(r"\w+", "é"));
        assert!(matches(r"[\w.]+", "a.b_1"));
        assert!(matches(r"[.]", "."));
        assert!(!matches(r"[.]", "x"));
        assert!(matches(r"[\d-]+", "1-2"));
        assert!(matches(r"\Qa.b\E\.c", "a.b.c"));
        assert!(!matches(r"\Qa.b\E", "axb"));
        assert!(matches(r"\p{Upper}\p{L}+\u0041", "AéA"));
        assert!(matches(r"\p{IsAlphabetic}\P{Digit}", "éx"));
        assert!(matches(r"(?<x>a)\k<x>", "aa"));
        assert!(matches(r"(?!b).+", "abc"));
        assert!(matches("(?i)user", "USER"));
        assert!(matches("a++b", "aab"));
    }

    #[test]
    fn what_does_not_compile_is_refused_with_the_pattern() {
        for bad in [" [[a-z]", "(", "a\\", r"\G", r"\u00", r"\p{Nonsense}"] {
            let error = JavaRegex::new(bad).unwrap_err().to_string();
            assert!(error.contains(bad.trim()), "{error}");
        }
    }
}
