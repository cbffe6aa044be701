//! What `init` makes in the database and at the broker: it looks, says what it would do, and does that, nothing else.
//!
//! ```text
//!   facts::look ──▶ plan::plan ──▶ shown ──▶ postgres::apply (one transaction)
//!   the catalog     pure           a yes
//! ```
//!
//! Never the slot: `run` creates it together with its snapshot. Nothing that exists is altered, except to add what is
//! missing (a table to a publication, an attribute to the role); what differs otherwise is explained, with the statement.

pub mod broker;
pub mod changes;
pub mod facts;
pub mod layout;
pub mod plan;
pub mod poll;
pub mod postgres;
pub mod sql;
