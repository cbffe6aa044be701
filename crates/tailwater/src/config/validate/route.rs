//! The route: what its options say, and whether they go together with each other, the source and the rest.

use super::super::{PipelineConfig, RouteConfig, RouteKind, SourceConfig};
use super::Check;
use crate::assemble::{self, RouteError};
use tailwater_core::route::Format;
use tailwater_core::transform::chain::ChainConfigError;
use tailwater_core::transform::changes::{ChangeConfigError, ChangeOptions};
use tailwater_core::transform::outbox::{OutboxOptions, RouteConfigError};

impl Check<'_> {
    /// What the router finds wrong with its options, at the option's place.
    pub(super) fn route(&mut self, name: &str, pipeline: &PipelineConfig) {
        let route = &pipeline.route;
        let at = |part: &str| format!("pipelines.{name}.route.{part}");
        if let Err(error) = assemble::route(route, "") {
            self.require(false, &at(&part(&error, route)), &error.to_string());
        }
    }

    /// Rows of one table.
    pub(super) fn outbox(&mut self, name: &str, pipeline: &PipelineConfig) {
        let at = |part: &str| format!("pipelines.{name}.{part}");
        let table = pipeline.source.table();
        if let SourceConfig::Postgres(source) = &pipeline.source {
            let text = "name the outbox table, as schema.table or table (change events of several tables: route.kind = \"changes\")";
            self.require(!table.is_empty(), &at("source.table"), text);
            let text =
                "the outbox is one table: name it in `table` (change events of several: route.kind = \"changes\")";
            self.require(source.tables == Default::default(), &at("source.tables"), text);
        }
        let text = "says how change events are written: add route.kind = \"changes\", or leave it out";
        self.require(pipeline.route.changes == ChangeOptions::default(), &at("route.changes"), text);
        let text = "change events go through them: an outbox has its router alone";
        self.require(pipeline.route.transforms.is_empty(), &at("route.transforms"), text);
        let text = "an outbox's numbers are JSON numbers already: only change events have decimals in base64";
        self.require(!pipeline.route.key_numeric && !pipeline.route.value_numeric, &at("route.value_numeric"), text);
        let text = "is none of the members that schemas describe: leave out the schemas";
        let lsn = pipeline.route.outbox.lsn_header.is_none() || !pipeline.route.has_schemas();
        self.require(lsn, &at("route.outbox.lsn_header"), text);
        self.topics(name, pipeline, table);
    }

    /// A predicate that leaves the outbox out would leave nothing to publish: a mistake that looks like health.
    fn topics(&mut self, name: &str, pipeline: &PipelineConfig, table: &str) {
        let Some(pattern) = &pipeline.route.only_topics else { return };
        let path = format!("pipelines.{name}.route.only_topics");
        let table = if table.contains('.') { table.to_owned() } else { format!("public.{table}") };
        let topic = format!("{}.{table}", pipeline.route.topic_prefix);
        // a pattern that is none is the router's complaint
        if let Ok(regex) = fancy_regex::Regex::new(&format!("^(?:{pattern})$")) {
            let taken = regex.is_match(&topic).unwrap_or(false) != pipeline.route.negate;
            let text = format!("leaves out the outbox itself: its topic before the router is {topic}");
            self.require(taken, &path, &text);
        }
    }

    /// Every change of several tables.
    pub(super) fn changes(&mut self, name: &str, pipeline: &PipelineConfig) {
        let at = |part: &str| format!("pipelines.{name}.{part}");
        let route = &pipeline.route;
        match &pipeline.source {
            SourceConfig::Postgres(source) => {
                let text = "names an outbox: which tables change events come from is said in `source.tables`";
                self.require(source.table.is_empty(), &at("source.table"), text);
                let one = !source.messages || source.message_prefix.is_none();
                self.require(one, &at("source.message_prefix"), "give messages or message_prefix, not both");
            }
            SourceConfig::PostgresPoll(_) => {
                let text = "a polled table tells no updates and deletes: change events need type = \"postgres\", which reads the log";
                self.require(false, &at("source.type"), text);
            }
        }
        let text = "deletes delivered rows of an outbox: rows that change events come from are not ours to delete";
        self.require(pipeline.prune.is_none(), &at("prune"), text);
        let text = "says how an outbox is read: leave it out, or leave out route.kind = \"changes\"";
        self.require(route.outbox == OutboxOptions::default(), &at("route.outbox"), text);
        let text = "chooses among outboxes: say in `source.tables` which tables are captured";
        self.require(route.only_topics.is_none() && !route.negate, &at("route.only_topics"), text);
        let text = "at least 2: digits would be lost";
        self.require(route.changes.money_fraction_digits >= 2, &at("route.changes.money_fraction_digits"), text);
        let text = "a topic begins with it: it must not be empty";
        self.require(!route.topic_prefix.is_empty(), &at("route.topic_prefix"), text);
        // a transform may make bytes of it
        let formats = [("key_format", route.key_format()), ("value_format", route.value_format)];
        for (part, format) in formats.into_iter().filter(|_| route.transforms.is_empty()) {
            let text = "a change event is a struct: write json (or string, which no program reads)";
            self.require(format != Format::Binary, &at(&format!("route.{part}")), text);
        }
    }
}

/// The setting that an error is about, below `route`.
fn part(error: &RouteError, route: &RouteConfig) -> String {
    match error {
        RouteError::Outbox(error) => outbox_part(error, route),
        RouteError::Chain(error) => chain_part(error, route),
    }
}

fn chain_part(error: &ChainConfigError, route: &RouteConfig) -> String {
    match error {
        // an outbox with schemas is a chain of its router
        ChainConfigError::Route { reason, .. } if route.kind == RouteKind::Outbox => outbox_part(reason, route),
        ChainConfigError::Changes(error) => match error {
            ChangeConfigError::Pattern { option, .. } | ChangeConfigError::Both { option } => {
                format!("changes.{option}")
            }
            ChangeConfigError::KeyColumns { .. } => "changes.message_key_columns".into(),
            ChangeConfigError::Operation(_) => "changes.skipped_operations".into(),
            ChangeConfigError::Delimiter(_) => "changes.topic_delimiter".into(),
        },
        ChainConfigError::Route { .. } | ChainConfigError::Option { .. } | ChainConfigError::Negate { .. } => {
            "transforms".into()
        }
        ChainConfigError::PlainFormat { part } | ChainConfigError::Binary { part, .. } => {
            format!("{}_format", part.trim_end_matches('s'))
        }
        ChainConfigError::Schemas { part } => format!("{}_schemas", part.trim_end_matches('s')),
    }
}

fn outbox_part(error: &RouteConfigError, route: &RouteConfig) -> String {
    let part = match error {
        RouteConfigError::Regex { pattern, .. } if Some(pattern) == route.only_topics.as_ref() => "only_topics",
        RouteConfigError::Regex { .. } => "outbox.topic_regex",
        RouteConfigError::Replacement { .. } => "outbox.topic_replacement",
        RouteConfigError::Placement { .. }
        | RouteConfigError::Place { .. }
        | RouteConfigError::DuplicateMember { .. }
        | RouteConfigError::BinaryEnvelope => "outbox.placement",
        RouteConfigError::PlainFormat { part: "key" } => "key_format",
        RouteConfigError::PlainFormat { .. } => "value_format",
        RouteConfigError::BinaryHeaders => "header_format",
        RouteConfigError::LsnHeader => "outbox.lsn_header",
        RouteConfigError::Empty { option } => return format!("outbox.{option}"),
    };
    part.into()
}
