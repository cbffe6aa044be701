//! A run of changes in source order: what a source hands over in one go.

use crate::{Change, Position};

/// Changes in source order and the place right after them.
///
/// No changes = idle progress: everything up to `upto` is known to hold nothing for us, and may be confirmed as soon as
/// all that came before is settled.
#[derive(Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Bytes of memory really held by `changes`: the read buffer they pin, not only their own length.
    pub size_bytes: usize,
    /// Right after the last change; carries the ordinal when it lies inside a transaction.
    pub upto: Position,
}
