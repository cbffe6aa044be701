//! When events may be missing the source stops and says so; it never recreates anything.

use crate::harness::{Outbox, PATIENCE, expected, values};
use std::os::unix::fs::MetadataExt;
use tailwater::metrics::State;
use tailwater_core::{Failure, Position};
use testbed::{Postgres, PostgresOptions, StopMode, eventually, shared_postgres};

/// The failure is fatal, says "gap possible", and `hint` is part of what to do.
fn assert_gap(failure: &Failure, what: &str) {
    assert!(failure.is_fatal(), "must not be tried again: {failure}");
    let text = failure.to_string();
    assert!(text.contains("gap possible") && text.contains(what) && text.contains("what to do"), "{text}");
}

async fn saved_after(outbox: &Outbox, count: u32) -> Position {
    let mut source = outbox.open(None).await;
    outbox.insert(0..count).await;
    source.take(count as usize).await;
    source.confirm_all().await;
    source.upto.clone().unwrap()
}

async fn refused(outbox: &Outbox, saved: Option<Position>) -> Failure {
    outbox.try_open(saved).await.err().expect("the source must refuse to open")
}

/// T16
#[tokio::test]
async fn a_slot_that_was_dropped_is_a_gap_and_is_not_recreated() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let saved = saved_after(&outbox, 5).await;
    drop_slot(&outbox).await;
    outbox.insert(5..10).await;
    assert_gap(&refused(&outbox, Some(saved)).await, "does not exist any more");
    let sql = "select count(*) from pg_replication_slots where slot_name = $1";
    let slots: i64 = outbox.sql.query_one(sql, &[&outbox.config.slot]).await.unwrap().get(0);
    assert_eq!(slots, 0, "nothing was recreated");
}

async fn drop_slot(outbox: &Outbox) {
    let sql = format!("select pg_drop_replication_slot('{}')", outbox.config.slot);
    eventually(PATIENCE, || async { outbox.sql.batch_execute(&sql).await.ok() }).await;
}

#[tokio::test]
async fn a_foreign_slot_is_refused() {
    let pg = shared_postgres().await;
    let outbox = Outbox::new(pg).await;
    let sql = format!("select pg_create_logical_replication_slot('{}', 'test_decoding')", outbox.config.slot);
    outbox.sql.batch_execute(&sql).await.unwrap();
    assert_gap(&refused(&outbox, None).await, "test_decoding");
    drop_slot(&outbox).await;
    let elsewhere = Outbox::new(pg).await;
    let sql = format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", outbox.config.slot);
    elsewhere.sql.batch_execute(&sql).await.unwrap();
    assert_gap(&refused(&outbox, None).await, "is of database");
}

/// T18
#[tokio::test]
async fn a_position_of_another_cluster_is_refused() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let saved = saved_after(&outbox, 1).await;
    let text = saved.as_str();
    let system = text.split(' ').find(|field| field.starts_with("sys=")).unwrap();
    let other = Position::new(text.replace(system, "sys=42"));
    assert_gap(&refused(&outbox, Some(other)).await, "another cluster");
}

/// T17 (d): events were published for transactions that no longer exist.
#[tokio::test]
async fn a_position_beyond_the_servers_end_is_refused() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let saved = saved_after(&outbox, 1).await;
    let lsn = saved.as_str().split(' ').find(|field| field.starts_with("lsn=")).unwrap();
    let beyond = Position::new(saved.as_str().replace(lsn, "lsn=FFFF/0"));
    assert_gap(&refused(&outbox, Some(beyond)).await, "was set back");
}

/// T17 (a): a new timeline is no gap where everything published lies before the point of departure.
#[tokio::test]
async fn a_server_on_a_new_timeline_is_followed() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let saved = saved_after(&outbox, 3).await;
    outbox.insert(3..5).await;
    // Recovery with nothing to restore ends in a new timeline, slots included.
    pg.stop(StopMode::Fast).await;
    let conf = pg.data_dir().join("testbed.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{text}restore_command = 'false'\n")).unwrap();
    let signal = pg.data_dir().join("recovery.signal");
    std::fs::write(&signal, "").unwrap();
    let owner = std::fs::metadata(pg.data_dir()).unwrap();
    std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
    pg.start_again().await;
    eventually(PATIENCE, || async {
        let client = pg.try_client(&outbox.database).await.ok()?;
        let recovering: bool = client.query_one("select pg_is_in_recovery()", &[]).await.ok()?.get(0);
        (!recovering).then_some(())
    })
    .await;
    outbox.sql = pg.client(&outbox.database).await;
    outbox.insert(5..6).await;
    let mut source = outbox.open(Some(saved.clone())).await;
    assert_eq!(values(&source.take(3).await), expected(3..6));
    assert!(source.upto.as_ref().unwrap().as_str().contains("tl=2"), "{:?}", source.upto);
    drop(source);
    // Published beyond the point where timeline 1 was left: those transactions exist nowhere.
    let end = outbox.wal_end().await;
    let lsn = saved.as_str().split(' ').find(|field| field.starts_with("lsn=")).unwrap();
    let beyond = Position::new(saved.as_str().replace(lsn, &format!("lsn={:X}/{:X}", end >> 32, end & 0xFFFF_FFFF)));
    assert_gap(&refused(&outbox, Some(beyond)).await, "left timeline 1");
}

#[tokio::test]
async fn a_position_nobody_can_read_is_fatal() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let failure = refused(&outbox, Some(Position::new("0/16B3748"))).await;
    assert!(failure.is_fatal() && failure.to_string().contains("cannot be read"), "{failure}");
}

#[tokio::test]
async fn an_invalidated_slot_is_a_gap() {
    let settings = vec![("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "48MB")];
    let pg = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let outbox = Outbox::with_slot(&pg).await;
    let saved = saved_after(&outbox, 1).await;
    for _ in 0..4 {
        outbox
            .sql
            .batch_execute("insert into other select repeat('x', 1000) from generate_series(1, 12000)")
            .await
            .unwrap();
        outbox.sql.batch_execute("select pg_switch_wal()").await.unwrap();
    }
    outbox.sql.batch_execute("checkpoint").await.unwrap();
    assert_gap(&refused(&outbox, Some(saved)).await, "invalidated");
}

#[tokio::test]
async fn a_publication_or_table_missing_before_the_first_start_names_the_statement() {
    let mut outbox = Outbox::new(shared_postgres().await).await;
    outbox.sql.batch_execute("alter publication pub drop table outbox").await.unwrap();
    let failure = refused(&outbox, None).await;
    assert!(failure.to_string().contains("ALTER PUBLICATION pub ADD TABLE public.outbox;"), "{failure}");
    outbox.config.publication = "nosuch".into();
    let failure = refused(&outbox, None).await;
    assert!(failure.is_fatal() && failure.to_string().contains("CREATE PUBLICATION nosuch FOR TABLE"), "{failure}");
}

#[tokio::test]
async fn a_publication_missing_at_a_later_start_is_a_gap() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let saved = saved_after(&outbox, 1).await;
    outbox.sql.batch_execute("drop publication pub").await.unwrap();
    assert_gap(&refused(&outbox, Some(saved)).await, "CREATE PUBLICATION pub");
}

/// T23
#[tokio::test]
async fn a_table_taken_out_of_the_publication_is_noticed_while_running() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    outbox.insert(0..1).await;
    source.take(1).await;
    // The first look is over, so it is a later one that notices.
    let looked = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle' \
                  and application_name = 'tailwater' and query like '%pg_current_wal_flush_lsn%'";
    eventually(PATIENCE, || async {
        (outbox.sql.query_one(looked, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    outbox.sql.batch_execute("alter publication pub drop table outbox").await.unwrap();
    outbox.insert(1..2).await;
    let start = std::time::Instant::now();
    let failure = source.failure().await;
    assert_gap(&failure, "ALTER PUBLICATION pub ADD TABLE");
    assert!(matches!(source.status.state(), State::GapPossible { .. }), "{:?}", source.status.state());
    eprintln!("noticed after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_publication_dropped_while_running_is_a_gap() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    outbox.sql.batch_execute("drop publication pub").await.unwrap();
    outbox.insert(0..1).await;
    assert_gap(&source.failure().await, "publication");
}

/// T11: after a crash of the server the slot may stand earlier than what was confirmed; the saved position decides.
#[tokio::test]
async fn a_restart_of_the_database_repeats_nothing_that_was_saved() {
    let pg = Postgres::start_with(PostgresOptions { fsync: true, ..PostgresOptions::default() }).await;
    for mode in [StopMode::Immediate, StopMode::Fast] {
        let mut outbox = Outbox::with_slot(&pg).await;
        let mut source = outbox.open(None).await;
        outbox.insert(0..5).await;
        source.take(5).await;
        source.confirm_all().await;
        let saved = source.upto.clone();
        outbox.insert(5..8).await;
        source.take(3).await;
        let (failure, _) = tokio::join!(source.failure(), pg.stop(mode));
        assert!(!failure.is_fatal(), "{failure}");
        assert!(source.next().await.is_err(), "S5: dead for good");
        pg.start_again().await;
        outbox.sql = pg.client(&outbox.database).await;
        let mut source = outbox.open(saved).await;
        assert_eq!(values(&source.take(3).await), expected(5..8), "{mode:?}");
    }
}
