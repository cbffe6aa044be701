//! The first start: rows that are there already, then the log, nothing lost in between.

use crate::harness::{Driven, Outbox, PATIENCE, ROOM, expected, values};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tailwater::config::secret::Secret;
use tailwater::metrics::{State, Status};
use tailwater::sources::postgres::config::Snapshot;
use tailwater_core::{Change, Event, Operation, Position};
use testbed::{eventually, shared_postgres, unique};

async fn slot_exists(outbox: &Outbox) -> bool {
    let sql = "select count(*) from pg_replication_slots where slot_name = $1";
    outbox.sql.query_one(sql, &[&outbox.config.slot]).await.unwrap().get::<_, i64>(0) == 1
}

fn operation(change: &Change) -> Operation {
    let Event::Row(row) = &change.event else { panic!("not a row") };
    row.operation
}

/// The source waits for its rows to be settled, however long it is driven.
async fn nothing_comes(source: &mut Driven) {
    let waited = tokio::time::timeout(Duration::from_millis(500), source.source.next(ROOM)).await;
    assert!(waited.is_err(), "it went on before its rows were settled");
}

#[tokio::test]
async fn rows_from_before_the_first_start_come_first_then_the_log() {
    let outbox = Outbox::new(shared_postgres().await).await;
    outbox.insert(0..2500).await;
    let mut source = outbox.open(None).await;
    outbox.insert(2500..2600).await;
    let rows = source.take(2500).await;
    assert_eq!(values(&rows), expected(0..2500));
    assert!(rows.iter().all(|row| row.commit.snapshot && operation(row) == Operation::Snapshot));
    nothing_comes(&mut source).await;
    assert!(!slot_exists(&outbox).await, "the slot is the proof that all rows are settled: not before");
    source.confirm_all().await;
    let rows = source.take(100).await;
    assert_eq!(values(&rows), expected(2500..2600));
    assert!(rows.iter().all(|row| !row.commit.snapshot && operation(row) == Operation::Insert));
    assert!(slot_exists(&outbox).await);
}

/// T15: a table keeps its rows wherever vacuum made room. Without a numeric key their order is that of their time; without
/// one, or with one that may be empty, that of the transactions that wrote them; inside a transaction that of its commands.
#[tokio::test]
async fn rows_of_a_table_without_a_number_come_in_the_order_they_were_written() {
    for time in ["", ", sent_at timestamptz", ", at timestamptz not null default now()", ", created_at timestamptz"] {
        let outbox = Outbox::new(shared_postgres().await).await;
        let make = format!(
            "drop table outbox; create table outbox (id uuid primary key default gen_random_uuid(), v text{time}) with \
             (autovacuum_enabled = false); alter publication pub add table outbox"
        );
        outbox.sql.batch_execute(&make).await.unwrap();
        let columns = if time.contains("created_at") { "(v, created_at)" } else { "(v)" };
        let value = if time.contains("created_at") { ", now()" } else { "" };
        let insert = async |text: String| {
            outbox.sql.batch_execute(&format!("insert into outbox {columns} values ({text}{value})")).await.unwrap();
        };
        // several pages, the first of which are empty again
        for i in 0..40 {
            insert(format!("repeat('x', 1000) || {i}")).await;
        }
        outbox.sql.batch_execute("delete from outbox where v < repeat('x', 1000) || 3").await.unwrap();
        outbox.sql.batch_execute("vacuum outbox").await.unwrap();
        let written = "select array_agg(v order by xmin::text::int8) from outbox";
        let mut expected: Vec<String> = outbox.sql.query_one(written, &[]).await.unwrap().get(0);
        for i in 0..20 {
            insert(format!("'later{i}'")).await;
            expected.push(format!("later{i}"));
        }
        // wide and narrow ones go to different pages
        let transaction: Vec<String> = (0..60)
            .map(|i| format!("insert into outbox {columns} values (repeat('y', {}) || {i}{value})", i % 3 * 900 + 1))
            .collect();
        outbox.sql.batch_execute(&format!("begin; {}; commit", transaction.join("; "))).await.unwrap();
        expected.extend((0..60).map(|i| format!("{}{i}", "y".repeat(i % 3 * 900 + 1))));
        let heap: Vec<String> =
            outbox.sql.query_one("select array_agg(v order by ctid) from outbox", &[]).await.unwrap().get(0);
        assert_ne!(heap, expected, "the table itself is out of order");
        let rows = outbox.open(None).await.take(expected.len()).await;

        assert_eq!(values(&rows), expected, "a table with{time}");
    }
}

/// PostgreSQL 14 lists a partition twice that is published besides its table.
#[tokio::test]
async fn rows_of_a_partition_that_is_published_twice_come_once_in_the_order_they_were_written() {
    for via_root in [false, true] {
        let outbox = Outbox::new(shared_postgres().await).await;
        let make = format!(
            "drop table outbox; create table outbox (part int, v text) partition by list (part); \
             create table outbox_0 partition of outbox for values in (0); \
             create table outbox_1 partition of outbox for values in (1); drop publication pub; \
             create publication pub for table outbox, outbox_0, outbox_1 \
             with (publish = 'insert', publish_via_partition_root = {via_root})"
        );
        outbox.sql.batch_execute(&make).await.unwrap();
        let insert = async |range: std::ops::Range<u32>| {
            for i in range {
                let sql = format!("insert into outbox values ({}, 'v{i}')", i % 2);
                outbox.sql.batch_execute(&sql).await.unwrap();
            }
        };
        insert(0..20).await;
        let mut source = outbox.open(None).await;
        let before = source.take(20).await;
        source.confirm_all().await;
        insert(20..22).await;
        let after = source.take(2).await;

        let part = |i: u32| (0..20).filter(move |n| n % 2 == i);
        let written: Vec<u32> = if via_root { (0..20).collect() } else { part(0).chain(part(1)).collect() };
        let written: Vec<String> = written.iter().map(|i| format!("v{i}")).collect();
        assert_eq!(values(&before), written, "via root: {via_root}");
        assert_eq!(values(&after), expected(20..22), "nothing comes again");
    }
}

#[tokio::test]
async fn an_empty_table_is_a_snapshot_too() {
    let outbox = Outbox::new(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    let first = source.next().await.unwrap();
    assert!(first.changes.is_empty(), "the begin of the stream is worth saving");
    outbox.insert(0..3).await;
    assert_eq!(values(&source.take(3).await), expected(0..3));
}

#[tokio::test]
async fn a_slot_that_exists_is_streamed_without_a_snapshot() {
    let outbox = Outbox::new(shared_postgres().await).await;
    outbox.insert(0..3).await;
    outbox.create_slot().await;
    outbox.insert(3..5).await;
    assert_eq!(values(&outbox.open(None).await.take(2).await), expected(3..5));
}

#[tokio::test]
async fn without_a_snapshot_only_what_comes_after_is_read() {
    let mut outbox = Outbox::new(shared_postgres().await).await;
    outbox.config.snapshot = Snapshot::Never;
    outbox.insert(0..3).await;
    let mut source = outbox.open(None).await;
    outbox.insert(3..5).await;
    assert_eq!(values(&source.take(2).await), expected(3..5));
}

/// T31: whatever step it dies at, the next start brings every row that was not settled; nothing is ever missing.
#[tokio::test]
async fn a_crash_at_any_step_of_the_first_start_costs_duplicates_only() {
    for step in
        ["slot created", "some rows read", "all rows read", "some rows settled", "all rows settled", "handed over"]
    {
        let outbox = Outbox::new(shared_postgres().await).await;
        outbox.insert(0..3000).await;
        let mut source = outbox.open(None).await;
        let mut saved: Option<Position> = None;
        let mut settled: Vec<String> = Vec::new();
        match step {
            "slot created" => {}
            "some rows read" => drop(source.next().await.unwrap()),
            "all rows read" => {
                source.take(3000).await;
                nothing_comes(&mut source).await;
            }
            "some rows settled" => {
                settled = values(&source.next().await.unwrap().changes);
                source.confirm_all().await;
                saved = source.upto.clone();
            }
            _ => {
                settled = values(&source.take(3000).await);
                source.confirm_all().await;
                saved = source.upto.clone();
                if step == "handed over" {
                    assert!(source.next().await.unwrap().changes.is_empty());
                }
            }
        }
        drop(source);
        outbox.insert(3000..3005).await;
        let mut source = outbox.open(saved).await;
        let mut seen = settled;
        let last = "v3004".to_owned();
        while seen.last() != Some(&last) {
            seen.extend(values(&source.next().await.unwrap().changes));
            source.confirm_all().await;
        }
        let mut distinct: Vec<String> = seen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 3005, "died after `{step}`: {} of 3005 rows came", distinct.len());
    }
}

#[tokio::test]
async fn with_writers_running_no_row_is_lost_between_snapshot_and_stream() {
    let pg = shared_postgres().await;
    let outbox = Outbox::new(pg).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (client, stop) = (pg.client(&outbox.database).await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut committed = 0;
            for i in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return committed;
                }
                let end = if i % 5 == 4 { "rollback" } else { "commit" };
                let sql = format!(
                    "begin; insert into outbox (v) values ('w{writer}-{i}'); savepoint s; \
                     insert into outbox (v) values ('gone'); rollback to s; {end}"
                );
                client.batch_execute(&sql).await.unwrap();
                committed += usize::from(end == "commit");
            }
            unreachable!()
        }));
    }
    let mut source = outbox.open(None).await;
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut committed = None;
    let (mut from_snapshot, mut total) = (0, 0);
    while committed.is_none_or(|committed| total < committed) {
        let batch = source.next().await.unwrap();
        source.confirm_all().await;
        from_snapshot += batch.changes.iter().filter(|change| change.commit.snapshot).count();
        total += batch.changes.len();
        for value in values(&batch.changes) {
            *counts.entry(value).or_default() += 1;
        }
        if committed.is_none() && total - from_snapshot > 200 {
            stop.store(true, Ordering::SeqCst);
            let mut sum = 0;
            for writer in writers.drain(..) {
                sum += writer.await.unwrap();
            }
            committed = Some(sum);
        }
    }
    assert_eq!(counts.len(), committed.unwrap());
    assert!(counts.values().all(|count| *count == 1), "none twice");
    assert!(!counts.contains_key("gone"));
    eprintln!("{from_snapshot} rows by snapshot, {} by stream", total - from_snapshot);
}

#[tokio::test]
async fn snapshot_and_stream_print_every_value_alike() {
    let outbox = Outbox::new(shared_postgres().await).await;
    outbox
        .sql
        .batch_execute(
            "alter table outbox add a timestamptz, add b bytea, add c float8, add d interval, add e money, add f jsonb, \
             add g text[], add h bool, add i numeric, add j float4, add k text, add l int generated always as (7) stored",
        )
        .await
        .unwrap();
    let insert = "insert into outbox (v, a, b, c, d, e, f, g, h, i, j, k) values ('x', '2024-04-03 23:07:08.9+03', \
                  '\\x00ff5c', 0.1, '1 day 2:03:04', 12.5, '{\"a\": [1, \"\\t\"]}', array['a,b', null, 'q\"'], true, \
                  1.50, 0.1, E'tab\\tnew\\nback\\\\slash\\r\\b\\f\\v ende')";
    outbox.sql.batch_execute(insert).await.unwrap();
    let mut source = outbox.open(None).await;
    let first = source.take(1).await.remove(0);
    source.confirm_all().await;
    outbox.sql.batch_execute(insert).await.unwrap();
    let second = source.take(1).await.remove(0);
    let (Event::Row(first), Event::Row(second)) = (first.event, second.event) else { panic!("rows") };
    assert_eq!(first.relation, second.relation);
    assert_eq!(first.new.unwrap().0[1..], second.new.unwrap().0[1..], "all but the id");
}

/// From 18 on a publication may have stored generated columns: then the snapshot has them too.
#[tokio::test]
async fn a_generated_column_is_in_the_snapshot_if_it_is_in_the_stream() {
    let outbox = Outbox::new(shared_postgres().await).await;
    let version = "select current_setting('server_version_num')::int >= 180000";
    let can_publish: bool = outbox.sql.query_one(version, &[]).await.unwrap().get(0);
    let generated = "alter table outbox add n int generated always as (length(v)) stored";
    outbox.sql.batch_execute(generated).await.unwrap();
    if can_publish {
        let publish = "alter publication pub set (publish_generated_columns = stored)";
        outbox.sql.batch_execute(publish).await.unwrap();
    }
    outbox.insert(0..2).await;
    let mut source = outbox.open(None).await;
    let mut rows = source.take(2).await;
    source.confirm_all().await;
    outbox.insert(2..4).await;
    rows.extend(source.take(2).await);
    for row in &rows {
        let Event::Row(row) = &row.event else { panic!("not a row") };
        let columns: Vec<&str> = row.relation.columns.iter().map(|column| &*column.name).collect();
        let expected: &[&str] = if can_publish { &["id", "v", "n"] } else { &["id", "v"] };
        assert_eq!((columns.as_slice(), row.new.as_ref().unwrap().0.len()), (expected, expected.len()));
    }
}

#[tokio::test]
async fn a_role_with_replication_and_select_is_enough() {
    let pg = shared_postgres().await;
    let mut outbox = Outbox::new(pg).await;
    let role = unique("relay");
    outbox.sql.batch_execute(&format!("create role {role} login replication")).await.unwrap();
    let url = pg.url(&outbox.database).replace("postgres@", &format!("{role}@"));
    outbox.config.connection.url = Some(Secret::new(url));
    outbox.insert(0..2).await;
    let failure = match outbox.try_open(None).await {
        Err(failure) => failure,
        Ok(mut source) => source.failure().await,
    };
    assert!(failure.to_string().contains(&format!("GRANT SELECT ON public.outbox TO {role}")), "{failure}");
    outbox.sql.batch_execute(&format!("grant select on outbox to {role}")).await.unwrap();
    let mut source = outbox.open(None).await;
    assert_eq!(values(&source.take(2).await), expected(0..2));
    source.confirm_all().await;
    outbox.insert(2..4).await;
    assert_eq!(values(&source.take(2).await), expected(2..4));
}

#[tokio::test]
async fn the_transactions_a_new_slot_waits_for_are_named() {
    let pg = shared_postgres().await;
    let outbox = Outbox::new(pg).await;
    let open = pg.client(&outbox.database).await;
    open.batch_execute("begin; insert into outbox (v) values ('v0')").await.unwrap();
    let pid: i32 = open.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let status = Arc::new(Status::new("test"));
    let named = async {
        eventually(PATIENCE, || async {
            (status.state() == State::WaitingForTransactions { pids: vec![pid] }).then_some(())
        })
        .await;
        open.batch_execute("commit").await.unwrap();
    };
    let (source, ()) = tokio::join!(outbox.open_as(None, status.clone()), named);
    assert_eq!(values(&source.unwrap().take(1).await), expected(0..1));
}
