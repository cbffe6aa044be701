//! Which letters are meant. Pure: a letter and a time in, yes or no out.

use super::Letter;
use std::time::Duration;

/// All conditions must hold; none given: every letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Message ids or places.
    pub ids: Vec<String>,
    /// Part of the reason, whatever its case.
    pub reason: Option<String>,
    pub event_type: Option<String>,
    pub key: Option<String>,
    pub older_than: Option<Duration>,
    pub newer_than: Option<Duration>,
}

impl Filter {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// A letter of unknown age is neither older nor newer than anything.
    pub fn matches(&self, letter: &Letter, now_s: i64) -> bool {
        let named = |id: &String| Some(id) == letter.message_id.as_ref() || *id == letter.place;
        let same = |wanted: &Option<String>, value: &Option<String>| wanted.is_none() || wanted == value;
        let age = letter.age(now_s);
        let reason = letter.reason.as_deref().unwrap_or_default().to_lowercase();
        (self.ids.is_empty() || self.ids.iter().any(named))
            && self.reason.as_ref().is_none_or(|part| reason.contains(&part.to_lowercase()))
            && same(&self.event_type, &letter.event_type)
            && same(&self.key, &letter.key)
            && self.older_than.is_none_or(|limit| age.is_some_and(|age| age > limit))
            && self.newer_than.is_none_or(|limit| age.is_some_and(|age| age <= limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            place: "#3".into(),
            message_id: Some("m1".into()),
            event_type: Some("order.placed".into()),
            key: Some("k".into()),
            reason: Some("rejected from Orders".into()),
            died_at: Some(1000),
            made_at: Some(500),
            ..Letter::default()
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let text = |text: &str| Some(text.to_owned());
        let hour = Some(Duration::from_secs(3600));
        for (filter, matches) in [
            (Filter::default(), true),
            (Filter { ids: vec!["m1".into()], ..Filter::default() }, true),
            (Filter { ids: vec!["x".into(), "#3".into()], ..Filter::default() }, true),
            (Filter { ids: vec!["m".into()], ..Filter::default() }, false),
            (Filter { reason: text("from orders"), ..Filter::default() }, true),
            (Filter { reason: text("expired"), ..Filter::default() }, false),
            (Filter { event_type: text("order.placed"), key: text("k"), ..Filter::default() }, true),
            (Filter { event_type: text("order.placed"), key: text("other"), ..Filter::default() }, false),
            (Filter { event_type: text("order"), ..Filter::default() }, false),
            (Filter { older_than: hour, ..Filter::default() }, true),
            (Filter { newer_than: hour, ..Filter::default() }, false),
        ] {
            assert_eq!(filter.matches(&letter(), 1000 + 3601), matches, "{filter:?}");
        }
        let ageless = Letter { died_at: None, made_at: None, ..letter() };
        assert!(!Filter { older_than: hour, ..Filter::default() }.matches(&ageless, 9000));
        assert!(!Filter { newer_than: hour, ..Filter::default() }.matches(&ageless, 9000));
    }

    #[test]
    fn the_inbox_has_known_a_letter_since_it_was_made() {
        assert_eq!(letter().age(1100), Some(Duration::from_secs(100)));
        assert_eq!(letter().age_of_first_delivery(1100), Some(Duration::from_secs(600)));
        assert_eq!(letter().age(0), Some(Duration::ZERO), "a clock that is behind");
    }
}
