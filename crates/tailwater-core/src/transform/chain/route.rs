//! The chain as a route: records of a change, link by link, to messages.

use super::decode::Decode;
use super::event_router::{EventRouter, Wire};
use super::predicate::Check;
use super::unwrap::Unwrap;
use super::{ChainConfigError, Link, Step, Transform};
use crate::encode::connect::{ConnectRecord, Converter, Converters};
use crate::route::{Compatibility, Format, Route, Routed};
use crate::transform::changes::{ChangeOptions, ChangeRouter, ChangeSettings, Outcome};
use crate::transform::outbox::OutboxOptions;
use crate::transform::outbox::columns::Columns;
use crate::transform::outbox::reject::rejected;
use crate::transform::outbox::topic::TopicNames;
use crate::{Change, Event, Message, Operation, Relation};
use std::sync::Arc;

/// Change events through a chain of transforms; without any, change events as they are.
#[derive(Debug)]
pub struct ChainRoute {
    router: ChangeRouter,
    links: Vec<(Check, Built)>,
    converters: Converters,
    /// Of the first outbox router: where a rejected row has its id, its key and its type.
    outbox: Option<OutboxOptions>,
    strict: bool,
}

#[derive(Debug)]
enum Built {
    EventRouter(Box<EventRouter>),
    Unwrap(Box<Unwrap>),
    Regex(TopicNames),
    Decode(Decode),
}

impl ChainRoute {
    /// Checks all that can be checked without a record.
    pub fn new(
        links: &[Link],
        options: &ChangeOptions,
        settings: &ChangeSettings,
        converters: Converters,
    ) -> Result<ChainRoute, ChainConfigError> {
        check_converters(&converters)?;
        let outbox = links.iter().find_map(|link| match &link.transform {
            Transform::EventRouter(options) => Some(options.clone()),
            _ => None,
        });
        if outbox.is_none() && converters.value.format == Format::Binary {
            let reason = "change events are no bytes: use json or string";
            return Err(ChainConfigError::Binary { part: "values", reason });
        }
        let strict = settings.compatibility == Compatibility::Strict;
        let built = links
            .iter()
            .enumerate()
            .map(|(index, link)| {
                let reason = |reason| ChainConfigError::Route { link: index + 1, reason };
                if link.negate && link.predicate.is_none() {
                    return Err(ChainConfigError::Negate { link: index + 1 });
                }
                let check = Check::new(link.predicate.as_ref(), link.negate).map_err(reason)?;
                Ok((check, build(index + 1, &link.transform, strict, &converters)?))
            })
            .collect::<Result<Vec<_>, ChainConfigError>>()?;
        Ok(ChainRoute { router: ChangeRouter::new(options, settings)?, outbox, strict, links: built, converters })
    }

    /// Whether the rows of this table can be written: what is refused, by name. For checks before the first change.
    pub fn check(&mut self, relation: &Arc<Relation>) -> Result<(), String> {
        match self.links.first() {
            // Of an outbox only new rows are written.
            Some((Check::Always, Built::EventRouter(_))) => self.router.check_new_rows(relation),
            _ => self.router.check(relation),
        }
    }

    /// What an outbox router drops whatever the row is, before the row is written for it.
    fn no_event(&self, change: &Change) -> Result<Option<&'static str>, String> {
        let (Event::Row(row), Some((Check::Always, Built::EventRouter(router)))) = (&change.event, self.links.first())
        else {
            return Ok(None);
        };
        match row.operation {
            Operation::Delete => Ok(Some("delete")),
            // In strict compatibility one that changes the key is an event.
            Operation::Update if !self.strict => router.update().map(Some),
            _ => Ok(None),
        }
    }

    fn messages(&mut self, change: &Change) -> Result<Routed, String> {
        if let Some(rule) = self.no_event(change)? {
            return Ok(Routed::Filtered(rule));
        }
        let records = match self.router.records(change)? {
            Outcome::Records(records) => records,
            Outcome::Filtered(rule) => return Ok(Routed::Filtered(rule)),
        };
        let mut messages: Vec<Message> = Vec::with_capacity(records.len());
        let mut dropped = "nothing to publish";
        for record in records {
            match run(&mut self.links, change, record)? {
                Step::Record(record) => messages.push(self.converters.message(&record)?),
                Step::Dropped(rule) => dropped = rule,
            }
        }
        Ok(match <[Message; 1]>::try_from(messages) {
            Ok([message]) => Routed::Message(message),
            Err(none) if none.is_empty() => Routed::Filtered(dropped),
            Err(messages) => Routed::Messages(messages),
        })
    }
}

/// The options of an outbox router that is all there is: no other link, no predicate, no schemas, columns read as they are by
/// default. Then [`OutboxRouter`](crate::transform::outbox::OutboxRouter) does the same without a chain.
pub fn outbox_alone<'a>(
    links: &'a [Link],
    options: &ChangeOptions,
    converters: &Converters,
) -> Option<&'a OutboxOptions> {
    let [Link { transform: Transform::EventRouter(outbox), predicate: None, negate: false }] = links else {
        return None;
    };
    let Converters { key, value, header } = converters;
    let (plain, defaults) =
        ([key, value, header].iter().all(|of| !of.schemas && !of.numeric), ChangeOptions::default());
    // Neither the rows that these skip nor the topics that they name are those of an outbox.
    let same = ChangeOptions {
        skipped_operations: defaults.skipped_operations.clone(),
        tombstones_on_delete: defaults.tombstones_on_delete,
        topic_delimiter: defaults.topic_delimiter.clone(),
        unavailable_value: defaults.unavailable_value.clone(),
        ..options.clone()
    } == defaults;
    let skips_new_rows = options.skipped_operations.split(',').any(|word| word.trim() == "c");
    (plain && same && !skips_new_rows).then_some(outbox)
}

impl Route for ChainRoute {
    fn apply(&mut self, change: &Change) -> Routed {
        self.messages(change).unwrap_or_else(|reason| {
            let columns = match (&self.outbox, &change.event) {
                (Some(options), Event::Row(row)) => Columns::find(options, &[], &row.relation, true).ok(),
                _ => None,
            };
            rejected(change, columns.as_ref(), reason)
        })
    }
}

fn run(links: &mut [(Check, Built)], change: &Change, mut record: ConnectRecord) -> Result<Step, String> {
    for (check, built) in links {
        if !check.takes(&record)? {
            continue;
        }
        let step = match built {
            Built::EventRouter(router) => router.apply(change, record)?,
            Built::Unwrap(unwrap) => unwrap.apply(change, record)?,
            Built::Decode(decode) => decode.apply(record)?,
            Built::Regex(names) => {
                let topic = names.name(record.topic.as_bytes());
                record.topic = topic.map_err(|why| format!("topic {}: {why}", record.topic))?;
                Step::Record(record)
            }
        };
        record = match step {
            Step::Record(record) => record,
            dropped @ Step::Dropped(_) => return Ok(dropped),
        };
    }
    Ok(Step::Record(record))
}

fn build(link: usize, transform: &Transform, strict: bool, converters: &Converters) -> Result<Built, ChainConfigError> {
    let reason = |reason| ChainConfigError::Route { link, reason };
    let wire = Wire { strict, format: converters.value.format, schemas: converters.value.schemas };
    Ok(match transform {
        Transform::EventRouter(options) => {
            Built::EventRouter(Box::new(EventRouter::new(options, wire).map_err(reason)?))
        }
        Transform::ExtractNewRecordState(options) => {
            let unwrap = Unwrap::new(options, strict);
            Built::Unwrap(Box::new(unwrap.map_err(|(option, value, reason)| ChainConfigError::Option {
                link,
                option,
                value,
                reason,
            })?))
        }
        Transform::RegexRouter(options) => {
            Built::Regex(TopicNames::new(&options.regex, &options.replacement).map_err(reason)?)
        }
        Transform::DecodeLogicalDecodingMessageContent(options) => Built::Decode(Decode::new(*options, wire)),
    })
}

fn check_converters(converters: &Converters) -> Result<(), ChainConfigError> {
    let Converters { key, value, header } = converters;
    for (part, Converter { format, schemas, .. }) in [("keys", key), ("values", value), ("headers", header)] {
        if *format == Format::Plain && part != "headers" {
            return Err(ChainConfigError::PlainFormat { part });
        }
        if *schemas && *format != Format::Json {
            return Err(ChainConfigError::Schemas { part });
        }
    }
    if header.format == Format::Binary {
        return Err(ChainConfigError::Binary { part: "headers", reason: "use plain, string or json" });
    }
    Ok(())
}
