//! The heart of Tailwater: what a change is, what a message is, what is safe to confirm.
//!
//! Architecture invariant: this crate does no I/O, reads no clock, opens no socket and knows no runtime. Whatever it
//! does is a function of its arguments, so a simulation can run the very code that production runs.

pub mod batch;
pub mod change;
pub mod duration;
pub mod encode;
pub mod failure;
pub mod ledger;
pub mod message;
pub mod pgoutput;
pub mod position;
pub mod route;
pub mod seams;
pub mod secret;
pub mod transform;

pub use batch::Batch;
pub use change::{
    Change, Column, Commit, Event, LogicalMessage, Operation, Origin, Relation, ReplicaIdentity, Row, SnapshotMarker,
    Tuple, Value,
};
pub use failure::{BoxError, Failure};
pub use message::{Header, HeaderValue, Headers, Message, MessageId, Timestamp};
pub use position::Position;
pub use seams::{Checkpoints, Confirm, OpenSource, Publisher, Rejection, Settled, Sink, Slice, Source};
