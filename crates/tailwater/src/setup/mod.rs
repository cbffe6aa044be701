//! What `init` makes in the database and at the broker: it looks, says what it would do, and does that, nothing else.
//!
//! Never the slot: `run` creates it together with its snapshot. Nothing that exists is altered unless it is part of what is
//! missing (a table in a publication, an attribute of the role); what differs otherwise is explained.

pub mod sql;
