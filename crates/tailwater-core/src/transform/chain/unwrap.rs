//! `ExtractNewRecordState`: the row instead of its envelope.
//!
//! By default a delete is a real tombstone, a null stays null, and what is not in the log decides nothing. Strict
//! compatibility does all of these as Debezium does. Not here: `drop.fields.*` (nothing makes the header that it reads).

use super::event::{is_envelope, position};
use super::{DeleteHandling, Step, UnwrapOptions};
use crate::change::OldTuple;
use crate::encode::connect::{ConnectHeader, ConnectRecord, Field, Schema, SchemaKind, Typed};
use crate::encode::strict::Datum;
use crate::{Change, Event};
use std::sync::Arc;

/// The members of the envelope that references may begin with, and those that are values themselves.
const TOP: [&str; 4] = ["op", "ts_ms", "ts_us", "ts_ns"];
const TRANSACTION: [&str; 3] = ["id", "total_order", "data_collection_order"];
const WHOLE: [&str; 5] = ["before", "after", "source", "transaction", "message"];
const SOURCE: [&str; 16] = [
    "version",
    "connector",
    "name",
    "ts_ms",
    "snapshot",
    "db",
    "sequence",
    "ts_us",
    "ts_ns",
    "schema",
    "table",
    "txId",
    "lsn",
    "xmin",
    "origin",
    "origin_lsn",
];

#[derive(Debug)]
pub(super) struct Unwrap {
    deletes: DeleteHandling,
    fields: Vec<Reference>,
    headers: Vec<Reference>,
    route_by: Option<String>,
    replace_null: bool,
    strict: bool,
    /// Schemas of tables with their further members, by the schemas they are made of.
    known: Vec<(Arc<Schema>, Arc<Schema>)>,
}

/// So many tables' schemas are remembered; then it starts anew.
const REMEMBERED: usize = 64;

/// A member of the envelope to be placed beside the row or in a header.
#[derive(Clone, Debug, PartialEq)]
struct Reference {
    parent: Option<String>,
    member: String,
    name: String,
}

type Refusal = (&'static str, String, &'static str);

impl Unwrap {
    pub fn new(options: &UnwrapOptions, strict: bool) -> Result<Unwrap, Refusal> {
        let references = |option, list: &Option<String>, prefix: &str| -> Result<Vec<Reference>, Refusal> {
            let list = list.as_deref().filter(|list| !list.is_empty());
            let items = list.into_iter().flat_map(|list| list.split(',')).map(str::trim);
            items
                .map(|item| Reference::new(item, prefix, strict).map_err(|reason| (option, item.to_owned(), reason)))
                .collect()
        };
        Ok(Unwrap {
            deletes: options.deletes,
            fields: references("add_fields", &options.add_fields, &options.add_fields_prefix)?,
            headers: references("add_headers", &options.add_headers, &options.add_headers_prefix)?,
            route_by: options.route_by.clone().filter(|name| !name.is_empty()),
            replace_null: options.replace_null.unwrap_or(strict),
            strict,
            known: Vec::new(),
        })
    }

    pub fn apply(&mut self, change: &Change, mut record: ConnectRecord) -> Result<Step, String> {
        if record.value.datum == Datum::Null {
            // A tombstone has only its operation.
            let operation = self.headers.iter().filter(|header| header.member == "op");
            record.headers.extend(
                operation.map(|header| ConnectHeader { name: header.name.as_str().into(), value: Typed::text("d") }),
            );
            return Ok(match self.deletes {
                DeleteHandling::RewriteWithTombstone => Step::Record(record),
                _ => Step::Dropped("tombstone"),
            });
        }
        if !is_envelope(&record.value) {
            return Ok(Step::Record(record));
        }
        let envelope = std::mem::replace(&mut record.value, Typed::NONE);
        for header in &self.headers {
            if let Some(value) = header.read(&envelope) {
                record.headers.push(ConnectHeader { name: header.name.as_str().into(), value });
            }
        }
        let (before, after) = (part(&envelope, "before")?, part(&envelope, "after")?);
        if after.datum != Datum::Null {
            self.route(change, &mut record, &after)?;
            record.value = self.finish(&envelope, after, "false")?;
            return Ok(Step::Record(record));
        }
        if before.datum == Datum::Null && !matches!(&change.event, Event::Row(_)) {
            return Ok(Step::Dropped("truncate"));
        }
        if self.deletes == DeleteHandling::Drop {
            return Ok(Step::Dropped("delete"));
        }
        self.route(change, &mut record, &before)?;
        record.value = match self.deletes {
            DeleteHandling::Tombstone if self.strict => Typed { schema: after.schema, datum: Datum::Null },
            DeleteHandling::Rewrite | DeleteHandling::RewriteWithTombstone => {
                if before.datum == Datum::Null {
                    return Err(
                        "a delete without its old row cannot be rewritten: ALTER TABLE … REPLICA IDENTITY FULL".into(),
                    );
                }
                self.finish(&envelope, before, "true")?
            }
            _ => Typed::NONE,
        };
        Ok(Step::Record(record))
    }

    /// The topic by a column of the row.
    fn route(&self, change: &Change, record: &mut ConnectRecord, row: &Typed) -> Result<(), String> {
        let Some(name) = &self.route_by else { return Ok(()) };
        let place = position(row, name).ok_or_else(|| format!("there is no column {name:?} to route by"))?;
        let column = match &row.datum {
            Datum::Struct(members) if !self.strict => members.get(place).map(|(_, datum)| datum),
            _ => row.member(name),
        };
        match column.unwrap_or(&Datum::Null) {
            Datum::Text(text) if text.trim().is_empty() => {}
            Datum::Text(text) => record.topic = text.as_str().into(),
            Datum::Null => {
                let text = row.schema.as_ref().and_then(|schema| schema.fields().get(place));
                if !text.is_some_and(|field| field.schema.kind == SchemaKind::String) {
                    return Err(format!("column {name:?} is no text: it cannot name a topic"));
                }
                let known = !matches!(&change.event, Event::Row(row) if matches!(row.old, Some(OldTuple::Key(_))) && row.new.is_none());
                if !self.strict && !known {
                    return Err(format!(
                        "column {name:?} of the old row is not in the log, so that its topic is not known: use REPLICA IDENTITY FULL"
                    ));
                }
            }
            _ => return Err(format!("column {name:?} is no text: it cannot name a topic")),
        }
        Ok(())
    }

    /// The row with its further members, in a schema that is not optional.
    fn finish(&mut self, envelope: &Typed, row: Typed, deleted: &str) -> Result<Typed, String> {
        let (Some(schema), Datum::Struct(mut members)) = (row.schema, row.datum) else {
            return Err("the row is no struct".into());
        };
        let rewrites = matches!(self.deletes, DeleteHandling::Rewrite | DeleteHandling::RewriteWithTombstone);
        if rewrites {
            if self.replace_null {
                for (field, (_, datum)) in schema.fields().iter().zip(&mut members) {
                    if let (Datum::Null, Some(default)) = (&datum, &field.schema.default) {
                        *datum = default.clone();
                    }
                }
            }
            members.push((Datum::name("__deleted"), Datum::Text(deleted.into())));
        }
        for reference in &self.fields {
            if let Some(value) = reference.read(envelope) {
                members.push((Datum::name(&reference.name), value.datum));
            }
        }
        let schema = match self.known.iter().find(|(of, _)| Arc::ptr_eq(of, &schema)) {
            Some((_, known)) => Arc::clone(known),
            None => {
                let made = self.schema(envelope, &schema, rewrites).shared();
                if self.known.len() >= REMEMBERED {
                    self.known.clear();
                }
                self.known.push((schema, Arc::clone(&made)));
                made
            }
        };
        Ok(Typed { schema: Some(schema), datum: Datum::Struct(members) })
    }

    fn schema(&self, envelope: &Typed, row: &Schema, rewrites: bool) -> Schema {
        let mut fields = row.fields().to_vec();
        if rewrites {
            fields.push(Field { name: "__deleted".into(), schema: Schema::of(SchemaKind::String).optional().shared() });
        }
        for reference in &self.fields {
            if let Some(Typed { schema: Some(schema), .. }) = reference.read(envelope) {
                fields.push(Field { name: reference.name.as_str().into(), schema });
            }
        }
        let mut schema = row.clone();
        schema.kind = SchemaKind::Struct(fields);
        schema.optional = false;
        schema.default = None;
        schema
    }
}

impl Reference {
    /// `member`, `parent.member`, with `:name` behind it.
    fn new(item: &str, prefix: &str, strict: bool) -> Result<Reference, &'static str> {
        let mut parts = item.split(':');
        let path = parts.next().unwrap_or_default();
        let alias = parts.next();
        if parts.next().is_some() || alias.is_some_and(str::is_empty) {
            return Err("it is not member:name");
        }
        let mut path = path.split('.');
        let (first, second) = (path.next().unwrap_or_default(), path.next());
        let (parent, member) = match second {
            Some(member) => (Some(first), member),
            None if TOP.contains(&first) => (None, first),
            None if TRANSACTION.contains(&first) => (Some("transaction"), first),
            None => (Some("source"), first),
        };
        if path.next().is_some() || member.is_empty() {
            return Err("it is not member or parent.member");
        }
        if WHOLE.contains(&member) && (second.is_none() || parent == Some(member)) {
            return Err("only members with a single value can be placed");
        }
        let exists = match parent {
            None => true,
            Some("source") => SOURCE.contains(&member),
            Some("transaction") => TRANSACTION.contains(&member),
            // Any column, whose names are not known here.
            Some("before" | "after") => true,
            Some(_) => return Err("its parent must be source, transaction, before or after"),
        };
        if !exists && !strict {
            return Err("a change event has no such member");
        }
        let name = match (alias, second) {
            (Some(alias), _) => format!("{prefix}{alias}"),
            (None, None) => format!("{prefix}{member}"),
            (None, Some(_)) => format!("{prefix}{first}_{member}"),
        };
        Ok(Reference { parent: parent.map(Into::into), member: member.into(), name })
    }

    /// The value with its schema, made optional; `None`: there is no such member.
    fn read(&self, envelope: &Typed) -> Option<Typed> {
        let fields = envelope.schema.as_ref()?.fields();
        let find = |name: &str| fields.iter().position(|field| *field.name == *name);
        let Datum::Struct(members) = &envelope.datum else { return None };
        let parent = match &self.parent {
            None => None,
            Some(name) => Some(find(name)?),
        };
        let nested = parent.and_then(|place| {
            let schema = &fields.get(place)?.schema;
            let at = schema.fields().iter().position(|field| *field.name == *self.member)?;
            let datum = match members.get(place) {
                Some((_, Datum::Struct(inner))) => inner.get(at).map(|(_, datum)| datum.clone()),
                _ => None,
            };
            Some((Arc::clone(&schema.fields().get(at)?.schema), datum.unwrap_or(Datum::Null)))
        });
        let (schema, datum) = nested.or_else(|| {
            let at = find(&self.member)?;
            Some((Arc::clone(&fields.get(at)?.schema), members.get(at)?.1.clone()))
        })?;
        let schema = if schema.optional && schema.default.is_none() {
            schema
        } else {
            (*schema).clone().optional().with_default(None).shared()
        };
        Some(Typed { schema: Some(schema), datum })
    }
}

/// `before` or `after` with its schema.
fn part(envelope: &Typed, name: &str) -> Result<Typed, String> {
    let schema = envelope.schema.as_ref().and_then(|schema| schema.field(name)).map(|field| Arc::clone(&field.schema));
    let Datum::Struct(members) = &envelope.datum else { return Err("the envelope is no struct".into()) };
    let at = position(envelope, name).and_then(|at| members.get(at));
    Ok(Typed { schema, datum: at.map_or(Datum::Null, |(_, datum)| datum.clone()) })
}
