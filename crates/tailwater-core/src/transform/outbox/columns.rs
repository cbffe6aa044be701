//! Where a table keeps what the router needs: column names → indexes, once per relation.
//!
//! A table that lacks a column is remembered with the reason; its rows are rejected, not dropped.

use super::placement::{Place, Placement};
use super::{MissingColumn, OutboxOptions};
use crate::Relation;
use crate::encode::json::{Escapes, write_string};
use crate::encode::kind::Kind;
use std::sync::Arc;

/// A column: its index in the tuple and what its text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub index: usize,
    pub kind: Kind,
}

/// Columns of one table.
#[derive(Debug)]
pub struct Columns {
    pub id: Slot,
    /// The table has no column `id` and none was named: the key stands in.
    pub id_is_key: bool,
    pub key: Slot,
    pub event_type: Option<Slot>,
    pub payload: Slot,
    pub timestamp: Option<Slot>,
    pub route: Slot,
    pub headers: Vec<(Arc<str>, Slot)>,
    /// With what stands before the value in the envelope: `,"alias":`.
    pub members: Vec<Member>,
    pub partition: Option<Slot>,
}

#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub prefix: Vec<u8>,
    pub slot: Slot,
}

impl Columns {
    /// Looks all columns up, in the order in which Debezium's router asks for them.
    pub fn find(
        options: &OutboxOptions,
        placements: &[Placement],
        relation: &Relation,
        id_may_be_key: bool,
    ) -> Result<Columns, String> {
        let find = |name: &str| {
            let index = relation.column(name)?;
            Some(Slot { index, kind: Kind::of(relation.columns.get(index)?) })
        };
        let need = |name: &str, what: &str| {
            find(name)
                .ok_or_else(|| format!("table {}.{} has no {what} column {name:?}", relation.schema, relation.name))
        };
        let payload = need(&options.payload_column, "payload")?;
        let timestamp = options.timestamp_column.as_deref().map(|name| need(name, "timestamp")).transpose()?;
        let key_name = &options.key_column;
        let id_is_key =
            id_may_be_key && options.id_column.is_none() && find("id").is_none() && find(key_name).is_some();
        let id =
            if id_is_key { need(key_name, "key")? } else { need(options.id_column.as_deref().unwrap_or("id"), "id")? };
        if let Some(version) = &options.schema_version_column
            && placements.iter().any(|p| p.place == Place::Envelope)
        {
            let slot = need(version, "schema version")?;
            if slot.kind != Kind::Int4 {
                return Err(format!("column {version:?} is no schema version: it must be an integer column"));
            }
        }
        let mut columns = Columns {
            id,
            id_is_key,
            key: Slot { index: 0, kind: Kind::Text },
            event_type: find(&options.type_column),
            payload,
            timestamp,
            route: Slot { index: 0, kind: Kind::Text },
            headers: Vec::new(),
            members: Vec::new(),
            partition: None,
        };
        for placement in placements {
            match find(&placement.column) {
                Some(slot) => columns.place(placement, slot),
                None if options.missing_column == MissingColumn::Ignore => {}
                None => {
                    need(&placement.column, "additional")?;
                }
            }
        }
        columns.key = need(key_name, "key")?;
        columns.route = need(&options.route_by, "route")?;
        Ok(columns)
    }

    fn place(&mut self, placement: &Placement, slot: Slot) {
        match placement.place {
            Place::Header => self.headers.push((placement.alias.as_str().into(), slot)),
            Place::Partition => self.partition = Some(slot),
            Place::Envelope => {
                let mut prefix = vec![b','];
                write_string(&mut prefix, &placement.alias, Escapes::Needed);
                prefix.push(b':');
                self.members.push(Member { name: placement.alias.clone(), prefix, slot });
            }
        }
    }
}
