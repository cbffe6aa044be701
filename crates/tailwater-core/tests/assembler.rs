//! The assembler: messages of one stream → changes with their transaction and ordinal.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use tailwater_core::change::OldTuple;
use tailwater_core::pgoutput::{Assembled, Assembler, PgOutput, SequenceError, encode, oid, unix_us};
use tailwater_core::{Change, Column, Event, Operation, Relation, ReplicaIdentity, Row, Tuple, Value};

const SYSTEM: u64 = 7_300_000_000_000_000_001;

fn relation(oid: u32, columns: usize) -> Relation {
    let column = |i: usize| Column {
        name: format!("c{i}").into(),
        type_oid: oid::TEXT,
        type_modifier: -1,
        key: i == 0,
        catalog: None,
    };
    Relation {
        oid,
        schema: "public".into(),
        name: "outbox".into(),
        identity: ReplicaIdentity::Default,
        columns: (0..columns).map(column).collect(),
    }
}

fn begin(lsn: u64) -> PgOutput {
    PgOutput::Begin { final_lsn: lsn, time_pg_us: 5, xid: 77 }
}

fn commit(lsn: u64) -> PgOutput {
    PgOutput::Commit { commit_lsn: lsn, end_lsn: lsn + 48, time_pg_us: 5 }
}

fn insert(relation: u32, width: usize) -> PgOutput {
    PgOutput::Insert { relation, new: Tuple(vec![Value::Text(Bytes::from_static(b"v")); width]) }
}

fn message(transactional: bool, lsn: u64) -> PgOutput {
    let text = Bytes::from_static(b"m");
    PgOutput::Message { transactional, lsn, prefix: text.clone(), content: text }
}

fn assembler() -> Assembler {
    let mut assembler = Assembler::new(SYSTEM);
    take(&mut assembler, 0, &PgOutput::Relation(relation(7, 2)));
    assembler
}

fn take(assembler: &mut Assembler, lsn: u64, message: &PgOutput) -> Assembled {
    assembler.apply(lsn, encode(message)).expect("the frame holds")
}

fn change(assembled: Assembled) -> Change {
    match assembled {
        Assembled::Change(change) => change,
        other => panic!("expected a change, got {other:?}"),
    }
}

fn reason(change: &Change) -> &str {
    match &change.event {
        Event::Undecodable { reason, .. } => reason,
        other => panic!("expected something undecodable, got {other:?}"),
    }
}

/// T13: Begin shares its LSN with the first row, and the rows of a COPY share one: only the ordinal tells them apart.
#[test]
fn changes_that_share_an_lsn_have_ordinals_of_their_own() {
    let mut assembler = assembler();
    assert_eq!(take(&mut assembler, 100, &begin(900)), Assembled::Nothing);
    for ordinal in 0..10_000 {
        let change = change(take(&mut assembler, 100, &insert(7, 2)));
        assert_eq!((change.lsn, change.ordinal, change.commit.lsn), (100, ordinal, 900));
    }
    let Assembled::Commit(commit) = take(&mut assembler, 948, &commit(900)) else { panic!("a commit") };
    assert_eq!((commit.lsn, commit.end_lsn, commit.xid, commit.system_id), (900, 948, Some(77), SYSTEM));
    assert_eq!(commit.time_us, unix_us(5));
}

#[test]
fn a_row_carries_its_operation_table_and_both_tuples() {
    let mut assembler = assembler();
    take(&mut assembler, 1, &begin(9));
    let key = OldTuple::Key(Tuple(vec![Value::Text(Bytes::from_static(b"k")), Value::Null]));
    let new = Tuple(vec![Value::Unchanged; 2]);
    let update = PgOutput::Update { relation: 7, old: Some(key.clone()), new: new.clone() };
    let delete = PgOutput::Delete { relation: 7, old: key.clone() };
    let table = Arc::new(relation(7, 2));
    let row = |operation, old, new| Event::Row(Row { operation, relation: table.clone(), old, new });
    assert_eq!(change(take(&mut assembler, 2, &update)).event, row(Operation::Update, Some(key.clone()), Some(new)));
    assert_eq!(change(take(&mut assembler, 3, &delete)).event, row(Operation::Delete, Some(key), None));
}

#[test]
fn rows_messages_and_truncated_tables_all_count() {
    let mut assembler = assembler();
    take(&mut assembler, 0, &PgOutput::Relation(relation(8, 1)));
    take(&mut assembler, 1, &begin(9));
    assert_eq!(change(take(&mut assembler, 2, &insert(7, 2))).ordinal, 0);
    assert_eq!(change(take(&mut assembler, 3, &message(true, 3))).ordinal, 1);
    let truncate = PgOutput::Truncate { relations: vec![7, 8], cascade: true, restart_identity: false };
    let Assembled::Changes(changes) = take(&mut assembler, 4, &truncate) else { panic!("two changes") };
    assert_eq!(changes.iter().map(|c| c.ordinal).collect::<Vec<_>>(), [2, 3]);
    assert!(changes.iter().all(|c| matches!(&c.event, Event::Truncate { cascade: true, restart_identity: false, .. })));
    assert_eq!(assembler.open_transaction().map(|(commit, seen)| (commit.lsn, seen)), Some((9, 4)));
}

/// T14: it is emitted at once, belongs to no transaction and takes no ordinal of the one that is open.
#[test]
fn a_message_that_is_not_transactional_stands_alone() {
    let mut assembler = assembler();
    let before = change(take(&mut assembler, 50, &message(false, 50)));
    assert_eq!((before.commit.lsn, before.commit.end_lsn, before.commit.xid, before.ordinal), (50, 50, None, 0));
    take(&mut assembler, 60, &begin(90));
    assert_eq!(change(take(&mut assembler, 60, &insert(7, 2))).ordinal, 0);
    let within = change(take(&mut assembler, 70, &message(false, 70)));
    assert_eq!((within.commit.lsn, within.ordinal), (70, 0));
    let row = change(take(&mut assembler, 80, &insert(7, 2)));
    assert_eq!((row.commit.lsn, row.ordinal), (90, 1));
    assert_eq!(change(take(&mut assembler, 90, &message(true, 90))).ordinal, 2);
}

/// T25: each of these is one change with its reason and its bytes, and the transaction after it is read as ever.
#[test]
fn what_cannot_be_understood_keeps_its_place_and_the_stream_goes_on() {
    let cases: [(Bytes, &str); 5] = [
        (encode(&insert(99, 2)), "relation 99 was never described in this stream"),
        (encode(&insert(7, 3)), "a row of relation 7 has 3 columns, its description has 2"),
        (Bytes::from_static(b"I\0\0\0\x07N\0\x02t"), "ends at byte 9 where byte 13 was needed"),
        (Bytes::from_static(b"?"), "unknown message type '?'"),
        (Bytes::new(), "ends at byte 0 where byte 1 was needed"),
    ];
    for (raw, expected) in cases {
        let mut assembler = assembler();
        take(&mut assembler, 1, &begin(9));
        take(&mut assembler, 2, &insert(7, 2));
        let parked = change(assembler.apply(3, raw.clone()).expect("the stream goes on"));
        assert_eq!((reason(&parked), parked.ordinal, parked.lsn, parked.commit.lsn), (expected, 1, 3, 9));
        assert!(matches!(&parked.event, Event::Undecodable { raw: kept, .. } if *kept == raw));
        assert_eq!(change(take(&mut assembler, 4, &insert(7, 2))).ordinal, 2);
        assert!(matches!(take(&mut assembler, 5, &commit(9)), Assembled::Commit(_)));
        take(&mut assembler, 6, &begin(20));
        assert!(matches!(change(take(&mut assembler, 7, &insert(7, 2))).event, Event::Row(_)));
    }
}

/// T25: an old description must not be used for rows that follow a new, unreadable one.
#[test]
fn a_broken_description_makes_its_rows_undecodable_until_the_next_one() {
    let mut assembler = assembler();
    take(&mut assembler, 1, &begin(9));
    let broken = Bytes::from_static(b"R\0\0\0\x07public\0outbox\0x\0\0");
    assert_eq!(assembler.apply(0, broken), Ok(Assembled::Nothing));
    let parked = change(take(&mut assembler, 2, &insert(7, 2)));
    assert_eq!(reason(&parked), "the description of relation 7 cannot be read: unknown replica identity 'x'");
    take(&mut assembler, 0, &PgOutput::Relation(relation(7, 2)));
    assert!(matches!(change(take(&mut assembler, 3, &insert(7, 2))).event, Event::Row(_)));
    assert_eq!(assembler.apply(0, Bytes::from_static(b"R\0\0")), Ok(Assembled::Nothing), "no oid: nothing is trusted");
    assert!(matches!(change(take(&mut assembler, 4, &insert(7, 2))).event, Event::Undecodable { .. }));
}

#[test]
fn a_description_may_be_completed_from_the_catalog() {
    let mut assembler = assembler();
    let mut described = relation(7, 2);
    described.columns[0].catalog = Some(Default::default());
    assembler.describe(Arc::new(described.clone()));
    take(&mut assembler, 1, &begin(9));
    let Event::Row(row) = change(take(&mut assembler, 2, &insert(7, 2))).event else { panic!("a row") };
    assert_eq!(*row.relation, described);
}

/// Without the frame nobody can say what may be confirmed: an error, never a guess.
#[test]
fn a_broken_frame_is_an_error() {
    type Step = (u64, Bytes);
    let b = |lsn| (lsn, encode(&begin(lsn)));
    let cases: [(Vec<Step>, SequenceError); 7] = [
        (vec![b(9), b(20)], SequenceError::NestedBegin { lsn: 20.into() }),
        (vec![(9, encode(&commit(9)))], SequenceError::CommitWithoutBegin { lsn: 9.into() }),
        (vec![b(9), (20, encode(&commit(20)))], SequenceError::OtherCommit { begin: 9.into(), commit: 20.into() }),
        (vec![(5, encode(&insert(7, 2)))], SequenceError::OutsideTransaction { lsn: 5.into() }),
        (vec![(5, encode(&message(true, 5)))], SequenceError::OutsideTransaction { lsn: 5.into() }),
        (vec![(5, Bytes::from_static(b"B\0"))], frame("begin", 9)),
        (vec![b(9), (5, Bytes::from_static(b"C\0"))], frame("commit", 10)),
    ];
    for (mut steps, expected) in cases {
        let mut assembler = assembler();
        let (lsn, last) = steps.pop().expect("each case has a last step");
        for (lsn, body) in steps {
            assembler.apply(lsn, body).expect("the steps before it are fine");
        }
        assert_eq!(assembler.apply(lsn, last), Err(expected));
    }
}

fn frame(kind: &'static str, wanted: usize) -> SequenceError {
    let source = tailwater_core::pgoutput::DecodeError::UnexpectedEnd { length: 2, wanted };
    SequenceError::Frame { kind, lsn: 5.into(), source }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// T25: random bodies inside a transaction: ordinals stay contiguous, nothing panics.
    #[test]
    fn any_bytes_inside_a_transaction_keep_the_count(
        bodies in vec((prop::sample::select(b"IUDTMRYO?".to_vec()), vec(any::<u8>(), 0..30)), 0..20)
    ) {
        let mut assembler = assembler();
        take(&mut assembler, 1, &begin(9));
        let mut next = 0;
        for (kind, rest) in bodies {
            let body = Bytes::from([&[kind][..], &rest].concat());
            let changes = match assembler.apply(2, body).expect("the frame holds") {
                Assembled::Change(change) => vec![change],
                Assembled::Changes(changes) => changes,
                _ => vec![],
            };
            for change in changes.iter().filter(|c| c.commit.lsn == 9) {
                prop_assert_eq!(change.ordinal, next);
                next += 1;
            }
        }
    }
}
