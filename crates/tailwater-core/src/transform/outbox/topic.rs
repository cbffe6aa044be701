//! Route value → topic: Kafka's `RegexRouter` with a whole match and Java's replacement syntax.
//!
//! Event types are few and events many, so results are remembered.

use super::RouteConfigError;
use super::java_regex::JavaRegex;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// So many route values are remembered; then all are forgotten and it starts anew.
const REMEMBERED: usize = 4096;

/// Names topics.
#[derive(Debug)]
pub struct TopicNames {
    regex: JavaRegex,
    replacement: Vec<Part>,
    known: HashMap<Bytes, Arc<str>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
}

impl TopicNames {
    pub fn new(regex: &str, replacement: &str) -> Result<TopicNames, RouteConfigError> {
        let regex = JavaRegex::new(regex)?;
        let parts = parse_replacement(replacement, &regex)
            .map_err(|reason| RouteConfigError::Replacement { replacement: replacement.into(), reason })?;
        Ok(TopicNames { regex, replacement: parts, known: HashMap::new() })
    }

    /// The topic of a route value. An error says why the pattern could not be applied to it.
    pub fn name(&mut self, value: &[u8]) -> Result<Arc<str>, String> {
        if let Some(topic) = self.known.get(value) {
            return Ok(Arc::clone(topic));
        }
        let text = std::str::from_utf8(value).map_err(|_| "it is not UTF-8".to_owned())?;
        let topic: Arc<str> = self.compute(text)?.into();
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        // A copy: a slice would pin the buffer that the row arrived in.
        self.known.insert(Bytes::copy_from_slice(value), Arc::clone(&topic));
        Ok(topic)
    }

    /// A value that does not match as a whole stays as it is. One that does has its *first match* replaced, as Java's
    /// `replaceFirst` looks for it anew.
    fn compute(&self, value: &str) -> Result<String, String> {
        if !self.regex.matches(value)? {
            return Ok(value.to_owned());
        }
        let Some(captures) = self.regex.find(value)? else { return Ok(value.to_owned()) };
        let Some(found) = captures.get(0) else { return Ok(value.to_owned()) };
        let mut topic = value[..found.start()].to_owned();
        for part in &self.replacement {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Group(group) => topic.push_str(captures.get(*group).map_or("", |m| m.as_str())),
            }
        }
        topic.push_str(&value[found.end()..]);
        Ok(topic)
    }
}

/// Java's `Matcher.appendReplacement`: `\x` is x, `${name}` a named group, `$12` the longest group number that exists.
/// `$${name}` is taken for `${name}`: property files escape the dollar so.
fn parse_replacement(replacement: &str, regex: &JavaRegex) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = replacement.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\\' => text.push(rest.next().ok_or("a character must follow the backslash at its end")?),
            '$' => {
                let mut ahead = rest.clone();
                if ahead.next() == Some('$') && ahead.next() == Some('{') {
                    rest.next();
                }
                let group = match rest.next() {
                    Some('{') => named_group(&mut rest, regex)?,
                    Some(digit) if digit.is_ascii_digit() => numbered_group(digit, &mut rest, regex)?,
                    _ => return Err("a group number or {name} must follow $; a dollar sign itself is \\$".into()),
                };
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Group(group));
            }
            other => text.push(other),
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn named_group(rest: &mut Rest<'_>, regex: &JavaRegex) -> Result<usize, String> {
    let mut name = String::new();
    loop {
        match rest.next() {
            Some('}') => break,
            Some(character) if character.is_ascii_alphanumeric() => name.push(character),
            _ => return Err(format!("${{{name} must be letters and digits and end with }}")),
        }
    }
    regex.group(&name).ok_or_else(|| format!("the regular expression has no group (?<{name}>…)"))
}

fn numbered_group(first: char, rest: &mut Rest<'_>, regex: &JavaRegex) -> Result<usize, String> {
    let digit = |c: char| c.to_digit(10).map(|d| d as usize);
    let mut group = digit(first).unwrap_or(0);
    if group > regex.groups() {
        return Err(format!("the regular expression has no group {group}, only {}", regex.groups()));
    }
    while let Some(next) = rest.peek().copied().and_then(digit) {
        match group * 10 + next {
            longer if longer <= regex.groups() => group = longer,
            _ => break,
        }
        rest.next();
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(regex: &str, replacement: &str, value: &str) -> String {
        let mut names = TopicNames::new(regex, replacement).unwrap();
        let first = names.name(value.as_bytes()).unwrap();
        assert_eq!(names.name(value.as_bytes()).unwrap(), first, "remembered as computed");
        first.to_string()
    }

    const ANY: &str = "(?<routedByValue>.*)";

    #[test]
    fn topics_are_named_as_java_would() {
        assert_eq!(name(ANY, "outbox.event.${routedByValue}", "User"), "outbox.event.User");
        assert_eq!(name(ANY, "outbox.event.${routedByValue}", ""), "outbox.event.");
        assert_eq!(name("(.*)", "d.$10", "User"), "d.User0");
        assert_eq!(name("(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)", "$10", "abcdefghij"), "j");
        assert_eq!(name("(.*)", "esc\\_$1-\\x", "U"), "esc_U-x");
        assert_eq!(name("([A-Za-z]+)-([0-9]+)", "$2.$1.x", "User-12"), "12.User.x");
        assert_eq!(name("([A-Za-z]+)-([0-9]+)", "$2.$1.x", "User"), "User", "no match: the bare value");
        assert_eq!(name("(a)|(b)", "<$1$2>", "b"), "<b>", "a group that took no part is empty");
        assert_eq!(name("a|ab", "<$0>", "ab"), "<a>b", "the first match is looked for anew");
        assert_eq!(name(ANY, "all.events", "x"), "all.events");
        assert_eq!(name(ANY, "o.${routedByValue}", "a\nb"), "a\nb", "a line end is not matched by a dot");
    }

    /// Seed recipe, point 1: property files write `$${…}`, people write `${…}`.
    #[test]
    fn one_dollar_or_two_name_the_same_topic() {
        assert_eq!(name(ANY, "${routedByValue}", "report.requested"), "report.requested");
        assert_eq!(name(ANY, "$${routedByValue}", "report.requested"), "report.requested");
    }

    #[test]
    fn a_replacement_that_java_would_choke_on_is_refused_at_construction() {
        for bad in ["x$", "x.$7", "${nope}", "${routedByValue", "a\\", "$$", "$x", "${a b}"] {
            let error = TopicNames::new(ANY, bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn the_memory_for_names_is_bounded() {
        let mut names = TopicNames::new(ANY, "t.${routedByValue}").unwrap();
        for number in 0..(2 * REMEMBERED + 10) {
            assert_eq!(&*names.name(number.to_string().as_bytes()).unwrap(), format!("t.{number}"));
        }
        assert!(names.known.len() <= REMEMBERED);
    }
}
