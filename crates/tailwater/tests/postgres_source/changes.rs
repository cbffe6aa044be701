//! What is in the log: tables that change under load, messages, values that are not there.

use crate::harness::{Outbox, PATIENCE, expected, text, values};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tailwater_core::change::OldTuple;
use tailwater_core::{Change, Event, Operation, Value};
use testbed::{Postgres, PostgresOptions, eventually, shared_postgres};

/// Two writers whose value also says what the row must look like; columns come, go and change under them.
#[tokio::test]
async fn columns_that_come_go_and_change_under_load_lose_and_misread_nothing() {
    let pg = shared_postgres().await;
    let outbox = Outbox::with_slot(pg).await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = AtomicBool::new(false);
    let mut writers = Vec::new();
    for writer in 0..2 {
        let (client, stop) = (pg.client(&outbox.database).await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut written = 0u32;
            while !stop.load(Ordering::SeqCst) {
                client.batch_execute(&format!("insert into outbox (v) values ('w{writer}-{written}')")).await.unwrap();
                written += 1;
            }
            written
        }));
    }
    let ddl = async {
        let statements = [
            "alter table outbox add n int not null default 7",
            "alter table outbox alter n type text using 'n' || n, alter n set default 'n7'",
            "alter table outbox add w text default 'x'",
            "alter table outbox rename w to u",
            "alter table outbox drop n",
            "alter table outbox drop u",
        ];
        for statement in statements {
            let before: i64 = outbox.sql.query_one("select count(*) from outbox", &[]).await.unwrap().get(0);
            eventually(PATIENCE, || async {
                let rows: i64 = outbox.sql.query_one("select count(*) from outbox", &[]).await.unwrap().get(0);
                (rows > before + 100).then_some(())
            })
            .await;
            outbox.sql.batch_execute(statement).await.unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        let mut written = Vec::new();
        for writer in writers {
            written.push(writer.await.unwrap());
        }
        done.store(true, Ordering::SeqCst);
        written
    };
    let mut source = outbox.open(None).await;
    let reader = async {
        let mut changes: Vec<Change> = Vec::new();
        loop {
            changes.extend(source.next().await.unwrap().changes);
            source.confirm_all().await;
            if done.load(Ordering::SeqCst) {
                let rows: i64 = outbox.sql.query_one("select count(*) from outbox", &[]).await.unwrap().get(0);
                if changes.len() as i64 >= rows {
                    return changes;
                }
            }
        }
    };
    let (written, changes) = tokio::join!(ddl, reader);
    let mut next = [0u32; 2];
    let mut shapes = Vec::new();
    for change in &changes {
        let value = text(change, "v").unwrap();
        let (writer, number) = value[1..].split_once('-').unwrap();
        let (writer, number): (usize, u32) = (writer.parse().unwrap(), number.parse().unwrap());
        assert_eq!(number, next[writer], "every row once, in order");
        next[writer] += 1;
        let Event::Row(row) = &change.event else { panic!("not a row") };
        let names: Vec<&str> = row.relation.columns.iter().map(|column| &*column.name).collect();
        if let Some(index) = row.relation.column("n") {
            let expected = if row.relation.columns[index].type_oid == 23 { "7" } else { "n7" };
            assert_eq!(text(change, "n").unwrap(), expected);
        }
        for name in ["w", "u"].into_iter().filter(|name| row.relation.column(name).is_some()) {
            assert_eq!(text(change, name).unwrap(), "x");
        }
        let shape = names.join(",");
        if shapes.last() != Some(&shape) {
            shapes.push(shape);
        }
    }
    assert_eq!(next.to_vec(), written);
    assert!(shapes.len() >= 5, "rows of every shape were read: {shapes:?}");
}

/// T14
#[tokio::test]
async fn messages_that_belong_to_no_transaction_never_move_the_position_past_an_open_one() {
    let mut outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox.config.message_prefix = Some("ours".into());
    let pg = shared_postgres().await;
    let open = pg.client(&outbox.database).await;
    open.batch_execute(
        "begin; insert into outbox (v) values ('v0'); select pg_logical_emit_message(true, 'ours', 'within'); \
         select pg_logical_emit_message(false, 'ours', 'at once')",
    )
    .await
    .unwrap();
    outbox
        .sql
        .batch_execute(
            "begin; select pg_logical_emit_message(false, 'ours', 'rolled back'); select pg_logical_emit_message(true, 'ours', 'never'); rollback; \
             select pg_logical_emit_message(false, 'theirs', 'not ours')",
        )
        .await
        .unwrap();
    let mut source = outbox.open(None).await;
    let lone = source.take(2).await;
    let content = |change: &Change| match &change.event {
        Event::Message(message) => String::from_utf8(message.content.to_vec()).unwrap(),
        _ => "a row".into(),
    };
    assert_eq!(lone.iter().map(content).collect::<Vec<_>>(), ["at once", "rolled back"]);
    source.confirm_all().await;
    let saved = source.upto.clone();
    drop(source);
    open.batch_execute("commit").await.unwrap();
    let mut source = outbox.open(saved).await;
    assert_eq!(source.take(2).await.iter().map(content).collect::<Vec<_>>(), ["a row", "within"]);
}

/// T25: TRUNCATE is no row, and the next transaction comes.
#[tokio::test]
async fn a_truncate_is_an_event_of_its_own() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox.sql.batch_execute("alter publication pub set (publish = 'insert, truncate')").await.unwrap();
    outbox.insert(0..1).await;
    outbox.sql.batch_execute("truncate outbox").await.unwrap();
    outbox.insert(1..2).await;
    let changes = outbox.open(None).await.take(3).await;
    assert_eq!(values(&[changes[0].clone(), changes[2].clone()]), expected(0..2));
    assert!(matches!(changes[1].event, Event::Truncate { .. }));
}

/// T26
#[tokio::test]
async fn a_value_the_update_did_not_touch_is_unchanged_and_not_null() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox
        .sql
        .batch_execute(
            "alter publication pub set (publish = 'insert, update, delete'); alter table outbox add big text; \
             alter table outbox alter big set storage external; \
             insert into outbox (v, big) values ('v0', repeat('x', 1000000)); update outbox set v = 'v1'; delete from outbox",
        )
        .await
        .unwrap();
    let changes = outbox.open(None).await.take(3).await;
    let row = |index: usize| match &changes[index].event {
        Event::Row(row) => row,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(&changes[0], "big").unwrap().len(), 1_000_000);
    assert_eq!(row(1).operation, Operation::Update);
    assert_eq!(row(1).new.as_ref().unwrap().0[2], Value::Unchanged);
    assert_eq!(row(2).operation, Operation::Delete);
    assert!(matches!(&row(2).old, Some(OldTuple::Key(_))));
}

#[tokio::test]
async fn defaults_are_looked_up_where_they_are_asked_for() {
    let mut outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox.config.catalog = true;
    outbox.sql.batch_execute("alter table outbox add n varchar(9) not null default 'x'").await.unwrap();
    outbox.insert(0..2).await;
    let mut source = outbox.open(None).await;
    let changes = source.take(2).await;
    assert_eq!(values(&changes), expected(0..2));
    let Event::Row(row) = &changes[1].event else { panic!("a row") };
    let catalog = row.relation.columns[2].catalog.as_ref().expect("was looked up");
    assert!(catalog.not_null);
    assert_eq!(catalog.default.as_deref(), Some("'x'::character varying"));
    assert_eq!(&*catalog.type_name, "character varying(9)");
}

/// T48: a server that answers nothing is noticed, and the source does not wait for ever.
#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let pg =
        Postgres::start_with(PostgresOptions { settings: vec![("wal_sender_timeout", "4s")], ..Default::default() })
            .await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let proxy = testbed::Proxy::to(([127, 0, 0, 1], pg.port()).into()).await;
    let url = pg.url(&outbox.database).replace(&pg.port().to_string(), &proxy.addr().port().to_string());
    outbox.config.connection.url = Some(tailwater::config::secret::Secret::new(format!("{url}?connect_timeout=2")));
    let mut source = outbox.open(None).await;
    outbox.insert(0..1).await;
    source.take(1).await;
    proxy.blackhole();
    let failure = source.failure().await;
    assert!(!failure.is_fatal(), "{failure}");
    assert_eq!(source.status.source_seen.age(), None, "no sign of life");
    proxy.restore();
    let saved = source.upto.clone();
    drop(source);
    outbox.insert(1..2).await;
    assert_eq!(values(&outbox.open(saved).await.take(1).await), expected(1..2));
}

#[tokio::test]
async fn a_cut_connection_loses_nothing() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let proxy = testbed::Proxy::to(([127, 0, 0, 1], pg.port()).into()).await;
    let url = pg.url(&outbox.database).replace(&pg.port().to_string(), &proxy.addr().port().to_string());
    outbox.config.connection.url = Some(tailwater::config::secret::Secret::new(url));
    // Transactions smaller than what a connection lives for: a transaction is always sent from its beginning.
    for i in 0..40 {
        outbox.insert(i * 500..i * 500 + 500).await;
    }
    let mut seen = Vec::new();
    let mut saved = None;
    let mut cuts = 0;
    while seen.len() < 20_000 {
        let mut source = match outbox.try_open(saved.clone()).await {
            Ok(source) => source,
            Err(failure) => {
                assert!(!failure.is_fatal(), "{failure}");
                continue;
            }
        };
        proxy.cut_after_down(200_001);
        loop {
            match source.next().await {
                Ok(batch) => {
                    seen.extend(values(&batch.changes));
                    saved = source.upto.clone();
                    source.confirm_all().await;
                    if seen.len() >= 20_000 {
                        break;
                    }
                }
                Err(failure) => {
                    assert!(!failure.is_fatal(), "{failure}");
                    cuts += 1;
                    break;
                }
            }
        }
    }
    assert_eq!(seen, expected(0..20_000), "what was handed over is never handed over again, nothing is missing");
    assert!(cuts >= 3, "{cuts} cuts");
}
