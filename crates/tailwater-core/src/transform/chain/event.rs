//! A struct with its schema, member by member: what the links read rows with.

use crate::encode::connect::{Schema, Typed};
use crate::encode::strict::Datum;
use std::sync::Arc;

/// Whether a record is a change event: Debezium's transforms go by the name of its schema.
pub(super) fn is_envelope(value: &Typed) -> bool {
    value.schema.as_ref().and_then(|schema| schema.name.as_deref()).is_some_and(|name| name.ends_with(".Envelope"))
}

/// Where a struct has this member.
pub(super) fn position(value: &Typed, name: &str) -> Option<usize> {
    value.schema.as_ref()?.fields().iter().position(|field| *field.name == *name)
}

/// The new row of a change event.
pub(super) struct Event<'a> {
    schema: &'a Schema,
    members: &'a [(Arc<[u16]>, Datum)],
    /// Debezium reads a null in a column with a default as the default.
    defaults: bool,
}

impl<'a> Event<'a> {
    /// `None`: there is no new row.
    pub fn of(envelope: &'a Typed, defaults: bool) -> Option<Event<'a>> {
        let Datum::Struct(members) = &envelope.datum else { return None };
        let at = position(envelope, "after")?;
        let (_, Datum::Struct(members)) = members.get(at)? else { return None };
        let schema = &envelope.schema.as_ref()?.fields().get(at)?.schema;
        Some(Event { schema, members, defaults })
    }

    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// The value of a column with its schema; `None`: there is no such column.
    pub fn column(&self, name: &str) -> Option<(&'a Arc<Schema>, &'a Datum)> {
        let at = self.schema.fields().iter().position(|field| *field.name == *name)?;
        let schema = &self.schema.fields().get(at)?.schema;
        let datum = match (&self.members.get(at)?.1, &schema.default) {
            (Datum::Null, Some(default)) if self.defaults => default,
            (datum, _) => datum,
        };
        Some((schema, datum))
    }
}
