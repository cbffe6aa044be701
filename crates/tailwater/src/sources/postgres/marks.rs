//! Where in a snapshot a row stands: first or last of all, of its table, or neither.

use tailwater_core::SnapshotMarker;

/// What is known of a row when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    OfAll,
    OfTable,
    No,
}

/// Counts rows as they are read.
#[derive(Debug)]
pub(super) struct InTables {
    next: First,
}

impl Default for InTables {
    fn default() -> Self {
        InTables { next: First::OfAll }
    }
}

impl InTables {
    /// A table begins.
    pub fn table(&mut self) {
        if self.next == First::No {
            self.next = First::OfTable;
        }
    }

    /// A row was read.
    pub fn row(&mut self) -> First {
        std::mem::replace(&mut self.next, First::No)
    }
}

/// A row has one marker; where several would fit, Debezium's choice.
pub(super) fn marker(first: First, last_of_table: bool, last_of_all: bool) -> SnapshotMarker {
    match (first, last_of_table, last_of_all) {
        (_, _, true) => SnapshotMarker::Last,
        (First::OfAll, _, _) => SnapshotMarker::First,
        (_, true, _) => SnapshotMarker::LastInTable,
        (First::OfTable, _, _) => SnapshotMarker::FirstInTable,
        (First::No, false, false) => SnapshotMarker::Middle,
    }
}
