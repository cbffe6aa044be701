//! Where in a snapshot a row stands: first or last of all, of its table, or neither.

use tailwater_core::SnapshotMarker;

/// What is known of a row when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    OfAll,
    OfTable,
    No,
}

/// Counts tables and rows as they are read. As in Debezium the first of all is one of the first table: there is none if that
/// table is empty.
#[derive(Debug, Default)]
pub(super) struct InTables {
    begun: bool,
    next: Option<First>,
}

impl InTables {
    /// A table begins.
    pub fn table(&mut self) {
        let later = std::mem::replace(&mut self.begun, true);
        self.next = Some(if later { First::OfTable } else { First::OfAll });
    }

    /// A row was read.
    pub fn row(&mut self) -> First {
        self.next.take().unwrap_or(First::No)
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
