//! What is known of a table: its topic, its columns, its key, their schemas. Made once per description of the table.

use super::ChangeOptions;
use super::column::{Mapped, Type, is_mapped_there, mapped, placeholder, zero};
use super::defaults::default;
use super::envelope::{Parts, field};
use super::read::{Reading, read};
use super::router::Filters;
use crate::encode::connect::{Schema, SchemaKind};
use crate::encode::plain::utf8;
use crate::encode::strict::Datum;
use crate::pgoutput::oid;
use crate::{Column, Relation, ReplicaIdentity, Tuple, Value};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Table {
    pub topic: Arc<str>,
    pub envelope: Arc<Schema>,
    columns: Vec<Member>,
    /// The key's members, in the order of the key.
    key: Option<(Arc<Schema>, Vec<Member>)>,
    /// Part of the key is not in the replica identity: the key of an old row cannot be known.
    pub key_unknown: bool,
    strict: bool,
}

/// A column that is written.
#[derive(Clone, Debug)]
struct Member {
    index: usize,
    column: Arc<str>,
    name: Arc<[u16]>,
    schema: Arc<Schema>,
    reading: Reading,
    /// Debezium makes up a value for a column that is never null, where it is not in the log.
    fill: Option<Datum>,
    placeholder: Option<Datum>,
    /// Part of the replica identity.
    logged: bool,
}

impl Table {
    /// An error names the column that cannot be written.
    pub fn new(
        relation: &Relation,
        options: &ChangeOptions,
        filters: &Filters,
        parts: &Parts,
        strict: bool,
    ) -> Result<Table, String> {
        let topic = filters.topic(&relation.schema, &relation.name);
        let keys = key_columns(relation, filters)?;
        let mut members = Vec::with_capacity(relation.columns.len());
        let mut lower: Vec<String> = Vec::new();
        let mut key = vec![None; keys.len()];
        for (index, column) in relation.columns.iter().enumerate() {
            let name = column.name.to_lowercase();
            if strict && lower.contains(&name) {
                return Err(format!("columns that differ only by case: {}", column.name));
            }
            lower.push(name);
            let place = keys.iter().position(|key| *key == index);
            let wanted = filters.writes(&relation.schema, &relation.name, &column.name)?;
            if !wanted && place.is_none() {
                continue;
            }
            let Some(member) = Member::new(index, column, options, strict) else {
                if strict && !is_mapped_there(Type::of(column)) {
                    continue;
                }
                return Err(refused(relation, column));
            };
            if let Some(slot) = place.and_then(|place| key.get_mut(place)) {
                *slot = Some(member.clone());
            }
            if wanted {
                members.push(member);
            }
        }
        let named = |members: &[Member], suffix: &str| {
            let fields = members.iter().map(|member| field(&member.column, Arc::clone(&member.schema))).collect();
            Schema::of(SchemaKind::Struct(fields)).named(format!("{topic}.{suffix}"), None)
        };
        let key: Vec<Member> = key.into_iter().flatten().collect();
        let value = named(&members, "Value").optional().shared();
        let before = if strict || relation.identity == ReplicaIdentity::Full {
            Arc::clone(&value)
        } else {
            let partly: Vec<Member> = members.iter().map(Member::unknown_if_not_logged).collect();
            named(&partly, "Value").optional().shared()
        };
        let known = |member: &Member| relation.columns.get(member.index).is_some_and(|column| column.key);
        Ok(Table {
            envelope: parts.envelope_schema(&topic, &before, &value),
            key_unknown: relation.identity != ReplicaIdentity::Full && !key.iter().all(known),
            key: (!key.is_empty()).then(|| (named(&key, "Key").shared(), key)),
            columns: members,
            topic,
            strict,
        })
    }

    /// The new row as a struct. `old`: where a value that an update did not touch may stand.
    pub fn row(&self, tuple: &Tuple, old: Option<&Tuple>) -> Result<Datum, String> {
        self.values(&self.columns, tuple, old)
    }

    /// The row's key and its schema; `None`: the table has none.
    pub fn key(&self, tuple: &Tuple) -> Result<Option<(&Arc<Schema>, Datum)>, String> {
        let Some((schema, members)) = &self.key else { return Ok(None) };
        Ok(Some((schema, self.values(members, tuple, None)?)))
    }

    fn values(&self, members: &[Member], tuple: &Tuple, old: Option<&Tuple>) -> Result<Datum, String> {
        let mut values = Vec::with_capacity(members.len());
        for member in members {
            let mut value = tuple.0.get(member.index).unwrap_or(&Value::Null);
            if *value == Value::Unchanged
                && let Some(known) = old.and_then(|old| old.0.get(member.index))
            {
                value = known;
            }
            let datum = member.datum(value, self.strict);
            let datum = datum.map_err(|why| format!("column {} cannot be written: {why}", member.column))?;
            values.push((Arc::clone(&member.name), datum));
        }
        Ok(Datum::Struct(values))
    }
}

impl Member {
    fn new(index: usize, column: &Column, options: &ChangeOptions, strict: bool) -> Option<Member> {
        let of = Type::of(column);
        let Mapped { schema, reading } = mapped(of, options, strict)?;
        let catalog = column.catalog.clone().unwrap_or_default();
        let not_null = catalog.not_null || catalog.primary_key.is_some();
        let default = catalog
            .default
            .as_deref()
            .filter(|_| has_default(of))
            .and_then(|expression| default(&reading, expression, not_null, of.oid == oid::UUID, strict));
        let placeholder = placeholder(&reading, &schema, &options.unavailable_value);
        let fill = (strict && not_null).then(|| default.clone().unwrap_or_else(|| zero(&reading)));
        let schema = if not_null { schema } else { schema.optional() };
        Some(Member {
            index,
            column: Arc::clone(&column.name),
            name: Datum::name(&column.name),
            schema: schema.with_default(default).shared(),
            reading,
            fill,
            placeholder,
            logged: column.key,
        })
    }

    /// The same, for an old row: null where only the replica identity is in the log.
    fn unknown_if_not_logged(&self) -> Member {
        if self.logged || self.schema.optional {
            return self.clone();
        }
        Member { schema: (*self.schema).clone().optional().shared(), ..self.clone() }
    }

    fn datum(&self, value: &Value, strict: bool) -> Result<Datum, String> {
        match value {
            Value::Null => Ok(self.fill.clone().unwrap_or(Datum::Null)),
            Value::Unchanged => self.placeholder.clone().map_or_else(
                || {
                    let hint = "its value is not in the log and its type has no room for a placeholder: use REPLICA IDENTITY FULL";
                    Err(hint.to_owned())
                },
                Ok,
            ),
            _ => match utf8(value).map_err(|error| error.to_string())? {
                Some(text) => read(&self.reading, text, strict),
                None => Ok(Datum::Null),
            },
        }
    }
}

/// Types of which Debezium reads defaults (observed).
fn has_default(of: Type<'_>) -> bool {
    !matches!(
        of.oid,
        oid::INET | oid::CIDR | oid::MACADDR | oid::MACADDR8 | oid::TSVECTOR | oid::NAME | oid::CHAR | oid::OID
    ) && !(3904..=3926).contains(&of.oid)
}

/// Columns of the key, by `message_key_columns`, the primary key, or the replica identity.
fn key_columns(relation: &Relation, filters: &Filters) -> Result<Vec<usize>, String> {
    if let Some(names) = filters.key_columns(&relation.schema, &relation.name)? {
        let chosen: Vec<usize> = names.iter().filter_map(|name| relation.column(name)).collect();
        if chosen.len() == names.len() {
            return Ok(chosen);
        }
        if !filters.strict {
            return Err(format!("message_key_columns names a column that {} does not have", relation.name));
        }
    }
    let place = |column: &Column| column.catalog.as_ref().and_then(|catalog| catalog.primary_key);
    let mut primary: Vec<(u32, usize)> =
        relation.columns.iter().enumerate().filter_map(|(index, column)| Some((place(column)?, index))).collect();
    primary.sort_unstable();
    if !primary.is_empty() {
        return Ok(primary.into_iter().map(|(_, index)| index).collect());
    }
    // Under identity FULL every column is marked: that is no key.
    if relation.identity == ReplicaIdentity::Full {
        return Ok(Vec::new());
    }
    Ok(relation.columns.iter().enumerate().filter(|(_, column)| column.key).map(|(index, _)| index).collect())
}

fn refused(relation: &Relation, column: &Column) -> String {
    let name = match &column.catalog {
        Some(catalog) => catalog.type_name.to_string(),
        None => format!("with number {}", column.type_oid),
    };
    let (schema, table, column) = (&relation.schema, &relation.name, &column.name);
    format!(
        "column {column} of {schema}.{table} has type {name}, which change events do not cover: leave it out with column.exclude.list={schema}.{table}.{column}"
    )
}
