//! The format of `application.properties`, as `java.util.Properties` reads it, from UTF-8. Keys and values only: what
//! they mean, and `${…}` in them, is judged elsewhere.

use std::iter::Peekable;
use std::str::Chars;

/// One setting of a file. The last of several with the same key counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub key: String,
    pub value: String,
    /// Line on which it begins, from 1.
    pub line: usize,
}

/// Reads a file's text. The only thing that can be wrong is a unicode escape: line and reason.
pub fn parse(text: &str) -> Result<Vec<Property>, (usize, String)> {
    logical_lines(text).into_iter().map(|(line, content)| property(line, &content)).collect()
}

/// Lines with continuations joined and comments gone; escapes untouched.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (number, natural) in natural_lines(text).into_iter().enumerate() {
        let content = natural.trim_start_matches(is_space);
        if pending.is_none() && (content.is_empty() || content.starts_with(['#', '!'])) {
            continue;
        }
        let (start, mut joined) = pending.take().unwrap_or((number + 1, String::new()));
        let continues = content.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        joined.push_str(if continues { &content[..content.len() - 1] } else { content });
        if continues {
            pending = Some((start, joined));
        } else {
            lines.push((start, joined));
        }
    }
    lines.extend(pending);
    lines
}

/// Ends of lines are `\n`, `\r` or both together.
fn natural_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        lines.push(&rest[..end]);
        let width = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
    lines.push(rest);
    lines
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn property(line: usize, content: &str) -> Result<Property, (usize, String)> {
    let mut chars = content.chars().peekable();
    let at = |reason| (line, reason);
    let key = unescape(&mut chars, |c| is_space(c) || c == '=' || c == ':').map_err(at)?;
    while chars.next_if(|c| is_space(*c)).is_some() {}
    if chars.next_if(|c| *c == '=' || *c == ':').is_some() {
        while chars.next_if(|c| is_space(*c)).is_some() {}
    }
    let value = unescape(&mut chars, |_| false).map_err(at)?;
    Ok(Property { key, value, line })
}

/// Takes characters up to an unescaped `end`, which stays.
fn unescape(chars: &mut Peekable<Chars<'_>>, end: impl Fn(char) -> bool) -> Result<String, String> {
    let mut out = String::new();
    while let Some(c) = chars.next_if(|c| !end(*c)) {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => out.push(unicode(chars)?),
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}

/// The rest of `\uXXXX`; characters beyond 16 bits are written as two of them.
fn unicode(chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let first = four_digits(chars)?;
    if let Some(c) = char::from_u32(first) {
        return Ok(c);
    }
    let lone = || format!("\\u{first:04X} is half of a character: the other half must follow");
    if chars.next() != Some('\\') || chars.next() != Some('u') {
        return Err(lone());
    }
    let second = four_digits(chars)?;
    match char::decode_utf16([first as u16, second as u16]).next() {
        Some(Ok(c)) => Ok(c),
        _ => Err(lone()),
    }
}

fn four_digits(chars: &mut Peekable<Chars<'_>>) -> Result<u32, String> {
    let mut value = 0;
    for _ in 0..4 {
        let digit = chars.next().and_then(|c| c.to_digit(16));
        value = value * 16 + digit.ok_or("\\u needs four hexadecimal digits")?;
    }
    Ok(value)
}
