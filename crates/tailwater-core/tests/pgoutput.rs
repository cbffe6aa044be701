//! The pgoutput decoder: each message type byte for byte, the round trip, hostile bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use tailwater_core::change::OldTuple;
use tailwater_core::pgoutput::{DecodeError, PgOutput, decode, encode, oid, pg_us, unix_us};
use tailwater_core::{Column, Relation, ReplicaIdentity, Tuple, Value};

fn text(value: &'static str) -> Value {
    Value::Text(Bytes::from_static(value.as_bytes()))
}

fn column(name: &str, type_oid: u32, key: bool) -> Column {
    Column { name: name.into(), type_oid, type_modifier: -1, key, catalog: None }
}

/// Bytes as the documentation lays them out, beside what they mean. Those of the first group were recorded from
/// PostgreSQL 15.
fn every_message_type() -> Vec<(&'static str, &'static [u8], PgOutput)> {
    let row = || Tuple(vec![text("1"), text("a")]);
    let raw = Bytes::from_static;
    vec![
        (
            "begin",
            b"B\0\0\0\0\x12\xbd\xdaH\0\x03\x03\xd5\x11\x11Y\xe4\0\0/k",
            PgOutput::Begin { final_lsn: 314_432_072, time_pg_us: 848_638_579_399_140, xid: 12_139 },
        ),
        (
            "commit",
            b"C\0\0\0\0\0\x12\xbd\xdaH\0\0\0\0\x12\xbd\xdax\0\x03\x03\xd5\x11\x11Y\xe4",
            PgOutput::Commit { commit_lsn: 314_432_072, end_lsn: 314_432_120, time_pg_us: 848_638_579_399_140 },
        ),
        (
            "relation",
            b"R\0\0\x85upublic\0t_shard1\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0name\0\0\0\0\x19\xff\xff\xff\xff",
            PgOutput::Relation(Relation {
                oid: 34_165,
                schema: "public".into(),
                name: "t_shard1".into(),
                identity: ReplicaIdentity::Default,
                columns: vec![column("id", oid::INT4, true), column("name", oid::TEXT, false)],
            }),
        ),
        ("insert", b"I\0\0\x85uN\0\x02t\0\0\0\x011t\0\0\0\x01a", PgOutput::Insert { relation: 34_165, new: row() }),
        (
            "delete by key",
            b"D\0\0\x85uK\0\x02t\0\0\0\x011n",
            PgOutput::Delete { relation: 34_165, old: OldTuple::Key(Tuple(vec![text("1"), Value::Null])) },
        ),
        (
            "update without the old row",
            b"U\0\0\x85uN\0\x02t\0\0\0\x011t\0\0\0\x01a",
            PgOutput::Update { relation: 34_165, old: None, new: row() },
        ),
        (
            "update that changed the key",
            b"U\0\0\0\x07K\0\x02t\0\0\0\x010nN\0\x02t\0\0\0\x011t\0\0\0\x01a",
            PgOutput::Update { relation: 7, old: Some(OldTuple::Key(Tuple(vec![text("0"), Value::Null]))), new: row() },
        ),
        (
            "update with the full old row, toasted value untouched",
            b"U\0\0\0\x07O\0\x02t\0\0\0\x010t\0\0\0\x01aN\0\x02t\0\0\0\x011u",
            PgOutput::Update {
                relation: 7,
                old: Some(OldTuple::Full(Tuple(vec![text("0"), text("a")]))),
                new: Tuple(vec![text("1"), Value::Unchanged]),
            },
        ),
        (
            "delete with the full old row",
            b"D\0\0\0\x07O\0\x01b\0\0\0\x02\0\xff",
            PgOutput::Delete { relation: 7, old: OldTuple::Full(Tuple(vec![Value::Binary(raw(b"\0\xff"))])) },
        ),
        (
            "truncate of two tables",
            b"T\0\0\0\x02\x03\0\0\0\x07\0\0\0\x08",
            PgOutput::Truncate { relations: vec![7, 8], cascade: true, restart_identity: true },
        ),
        (
            "transactional message",
            b"M\x01\0\0\0\0\0\0\0\x10p\0\0\0\0\x02hi",
            PgOutput::Message { transactional: true, lsn: 16, prefix: raw(b"p"), content: raw(b"hi") },
        ),
        (
            "message that is not transactional, empty",
            b"M\0\0\0\0\0\0\0\0\x10\0\0\0\0\0",
            PgOutput::Message { transactional: false, lsn: 16, prefix: raw(b""), content: raw(b"") },
        ),
        ("origin", b"O\0\0\0\0\0\0\0\x01up\0", PgOutput::Origin { commit_lsn: 1, name: raw(b"up") }),
        ("type", b"Y\0\0@\0public\0mood\0", PgOutput::Type { oid: 16_384, schema: raw(b"public"), name: raw(b"mood") }),
        (
            "relation of the system schema",
            b"R\0\0\0\x01\0pg_class\0n\0\0",
            PgOutput::Relation(Relation {
                oid: 1,
                schema: "pg_catalog".into(),
                name: "pg_class".into(),
                identity: ReplicaIdentity::Nothing,
                columns: vec![],
            }),
        ),
    ]
}

#[test]
fn every_message_type_reads_and_writes_as_documented() {
    for (name, bytes, message) in every_message_type() {
        assert_eq!(decode(Bytes::from_static(bytes)).as_ref(), Ok(&message), "{name}");
        assert_eq!(encode(&message), bytes, "{name}");
    }
}

/// T26: a value that the update did not touch is neither NULL nor empty.
#[test]
fn an_untouched_toast_value_is_a_value_of_its_own() {
    let update = decode(Bytes::from_static(b"U\0\0\0\x07N\0\x03ut\0\0\0\0n")).expect("a valid update");
    let PgOutput::Update { new: Tuple(values), .. } = update else { panic!("an update") };
    assert_eq!(values, [Value::Unchanged, text(""), Value::Null]);
}

#[test]
fn values_are_slices_of_the_input() {
    let input = Bytes::from(b"I\0\0\0\x07N\0\x01t\0\0\0\x05hello".to_vec());
    let PgOutput::Insert { new: Tuple(values), .. } = decode(input.clone()).expect("a valid insert") else { panic!() };
    let Value::Text(value) = &values[0] else { panic!() };
    assert_eq!(value.as_ptr(), input[13..].as_ptr());
}

#[test]
fn a_message_cut_anywhere_is_an_error_and_so_is_one_byte_more() {
    for (name, bytes, _) in every_message_type() {
        for length in 0..bytes.len() {
            assert!(decode(Bytes::from_static(&bytes[..length])).is_err(), "{name} cut at {length}");
        }
        let longer = Bytes::from([bytes, b"x"].concat());
        assert_eq!(decode(longer), Err(DecodeError::TrailingBytes(1)), "{name}");
    }
}

/// T25: lengths that lie must not cost memory, or more than an error.
#[test]
fn a_length_that_lies_allocates_nothing() {
    let cases: [(&[u8], DecodeError); 7] = [
        (b"I\0\0\0\x07N\0\x01t\x7f\xff\xff\xff", DecodeError::UnexpectedEnd { length: 13, wanted: 13 + 0x7fff_ffff }),
        (b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xff", DecodeError::NegativeLength { at: 9 }),
        (b"I\0\0\0\x07N\xff\xff", DecodeError::UnexpectedEnd { length: 8, wanted: 9 }),
        (b"T\x7f\xff\xff\xff\0", DecodeError::UnexpectedEnd { length: 6, wanted: 10 }),
        (b"T\xff\xff\xff\xff\0", DecodeError::NegativeLength { at: 1 }),
        (b"R\0\0\0\x01a\0b\0d\xff\xff", DecodeError::UnexpectedEnd { length: 12, wanted: 13 }),
        (b"M\0\0\0\0\0\0\0\0\x10no end", DecodeError::UnterminatedString { at: 10 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(Bytes::from_static(bytes)), Err(error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn unknown_marks_are_named_with_their_place() {
    let cases: [(&[u8], &str); 7] = [
        (b"S\0\0\0\x01\x01", "unknown message type 'S'"),
        (b"\x01", "unknown message type 0x01"),
        (b"I\0\0\0\x07X\0\0", "unknown tuple mark 'X' at byte 5"),
        (b"U\0\0\0\x07K\0\0K", "unknown tuple mark 'K' at byte 8"),
        (b"D\0\0\0\x07N\0\0", "unknown tuple mark 'N' at byte 5"),
        (b"I\0\0\0\x07N\0\x01z", "unknown column mark 'z' at byte 8"),
        (b"R\0\0\0\x01a\0b\0x\0\0", "unknown replica identity 'x'"),
    ];
    for (bytes, text) in cases {
        assert_eq!(decode(Bytes::from_static(bytes)).map_err(|e| e.to_string()), Err(text.to_owned()));
    }
    assert_eq!(decode(Bytes::from_static(b"R\0\0\0\x01\xff\0b\0d\0\0")), Err(DecodeError::NotUtf8 { at: 5 }));
}

#[test]
fn postgres_counts_time_from_the_year_2000() {
    assert_eq!(unix_us(0), 946_684_800_000_000);
    assert_eq!(pg_us(unix_us(-1)), -1);
    assert_eq!(unix_us(i64::MAX), i64::MAX, "the far end saturates");
    assert_eq!(pg_us(i64::MIN), i64::MIN);
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn string() -> impl Strategy<Value = Bytes> {
    vec(1..=255_u8, 0..20).prop_map(Bytes::from)
}

fn name() -> impl Strategy<Value = Arc<str>> {
    "[^\0]{1,12}".prop_map(Arc::from)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        bytes().prop_map(Value::Text),
        bytes().prop_map(Value::Binary),
    ];
    vec(value, 0..8).prop_map(Tuple)
}

fn old() -> impl Strategy<Value = OldTuple> {
    prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)]
}

fn relation() -> impl Strategy<Value = Relation> {
    use ReplicaIdentity::{Default, Full, Index, Nothing};
    let identity = prop_oneof![Just(Default), Just(Nothing), Just(Full), Just(Index)];
    let column = (name(), any::<u32>(), any::<i32>(), any::<bool>())
        .prop_map(|(name, type_oid, type_modifier, key)| Column { name, type_oid, type_modifier, key, catalog: None });
    (any::<u32>(), name(), name(), identity, vec(column, 0..6))
        .prop_map(|(oid, schema, name, identity, columns)| Relation { oid, schema, name, identity, columns })
}

fn message() -> impl Strategy<Value = PgOutput> {
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(final_lsn, time_pg_us, xid)| PgOutput::Begin {
            final_lsn,
            time_pg_us,
            xid
        }),
        any::<(u64, u64, i64)>().prop_map(|(commit_lsn, end_lsn, time_pg_us)| PgOutput::Commit {
            commit_lsn,
            end_lsn,
            time_pg_us
        }),
        (any::<u64>(), string()).prop_map(|(commit_lsn, name)| PgOutput::Origin { commit_lsn, name }),
        relation().prop_map(PgOutput::Relation),
        (any::<u32>(), string(), string()).prop_map(|(oid, schema, name)| PgOutput::Type { oid, schema, name }),
        (any::<u32>(), tuple()).prop_map(|(relation, new)| PgOutput::Insert { relation, new }),
        (any::<u32>(), proptest::option::of(old()), tuple()).prop_map(|(relation, old, new)| PgOutput::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), old()).prop_map(|(relation, old)| PgOutput::Delete { relation, old }),
        (vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(|(relations, cascade, restart_identity)| {
            PgOutput::Truncate { relations, cascade, restart_identity }
        }),
        (any::<bool>(), any::<u64>(), string(), bytes()).prop_map(|(transactional, lsn, prefix, content)| {
            PgOutput::Message { transactional, lsn, prefix, content }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same(message in message()) {
        prop_assert_eq!(decode(encode(&message)), Ok(message));
    }

    /// T25: whatever comes, an answer and not a panic.
    #[test]
    fn random_bytes_never_panic(kind in prop::sample::select(b"BCORYIUDTMSEcA\0".to_vec()), rest in vec(any::<u8>(), 0..200)) {
        let body = Bytes::from([&[kind][..], &rest].concat());
        if let Ok(message) = decode(body) {
            prop_assert_eq!(decode(encode(&message)), Ok(message));
        }
    }

    /// T25: a real message with one byte changed or its end lost.
    #[test]
    fn damaged_messages_never_panic(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), keep in any::<prop::sample::Index>()) {
        let mut body = encode(&message).to_vec();
        let index = at.index(body.len());
        body[index] = byte;
        let _ = decode(Bytes::from(body.clone()));
        body.truncate(keep.index(body.len()));
        let _ = decode(Bytes::from(body));
    }
}
