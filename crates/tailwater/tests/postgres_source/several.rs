//! Change events of several tables: which are captured, the snapshot of all of them, and what happens to the publication.

use crate::harness::{Driven, Outbox, PATIENCE, text};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tailwater::config::secret::Secret;
use tailwater::sources::postgres::config::{Autocreate, Snapshot};
use tailwater_core::{Change, Event, Failure, Operation, Relation};
use testbed::{Postgres, eventually, shared_postgres, unique};

/// Tables `a`, `b` and `c` with a primary key, `other` without; publication `pub` of all tables; no slot.
async fn shop(pg: &Postgres, include: &str) -> Outbox {
    let mut outbox = Outbox::new(pg).await;
    outbox
        .sql
        .batch_execute(
            "create table a (id bigserial primary key, v text); create table b (id bigserial primary key, v text); \
             create table c (id bigserial primary key, v text); drop publication pub; create publication pub for all tables",
        )
        .await
        .unwrap();
    outbox.config.table = String::new();
    outbox.config.tables.include = include.into();
    outbox
}

async fn sql(outbox: &Outbox, statements: &str) {
    outbox.sql.batch_execute(statements).await.unwrap();
}

fn relation(change: &Change) -> &Arc<Relation> {
    let (Event::Row(tailwater_core::Row { relation, .. }) | Event::Truncate { relation, .. }) = &change.event else {
        panic!("{:?}", change.event)
    };
    relation
}

/// Settles the snapshot and goes on to the stream: until then its transaction holds the tables against DDL.
async fn to_stream(source: &mut Driven) {
    source.confirm_all().await;
    assert!(source.next().await.unwrap().changes.is_empty());
}

/// `table.v`, in the order they came.
fn rows(changes: &[Change]) -> Vec<String> {
    let row = |change: &Change| match &change.event {
        Event::Row(_) => format!("{}.{}", relation(change).name, text(change, "v").unwrap_or_default()),
        _ => format!("{} truncated", relation(change).name),
    };
    changes.iter().map(row).collect()
}

/// Reads what has come until nothing is left to read before row `v = 'end'` of table `a`.
async fn until_end(source: &mut Driven, outbox: &Outbox) -> Vec<Change> {
    sql(outbox, "insert into a (v) values ('end')").await;
    let mut changes = Vec::new();
    while changes.last().is_none_or(|c| rows(std::slice::from_ref(c)) != ["a.end"]) {
        changes.extend(source.next().await.unwrap_or_else(|failure| panic!("{failure}")).changes);
        source.confirm_all().await;
    }
    changes.pop();
    changes
}

async fn refused(outbox: &Outbox) -> String {
    match outbox.try_open(None).await {
        Ok(_) => panic!("it must refuse to open"),
        Err(failure @ Failure::Fatal { .. }) => failure.to_string(),
        Err(failure) => panic!("must not be tried again: {failure}"),
    }
}

#[tokio::test]
async fn only_tables_that_the_filter_takes_are_captured() {
    let mut outbox = shop(shared_postgres().await, r"public\.(a|b)").await;
    sql(&outbox, "insert into c (v) values ('0'); insert into b (v) values ('0'); insert into a (v) values ('0')")
        .await;
    let mut source = outbox.open(None).await;
    assert_eq!(rows(&source.take(2).await), ["a.0", "b.0"], "the snapshot too, table by table");
    to_stream(&mut source).await;
    sql(
        &outbox,
        "begin; insert into c (v) values ('1'); insert into b (v) values ('1'); insert into outbox (v) values ('1'); \
         insert into a (v) values ('1'); truncate c; end; truncate b",
    )
    .await;
    let changes = until_end(&mut source, &outbox).await;
    assert_eq!(changes.iter().map(|change| change.ordinal).collect::<Vec<_>>(), [1, 3, 0], "all of them count");
    assert_eq!(rows(&changes), ["b.1", "a.1", "b truncated"]);
    drop(source);
    outbox.config.tables.exclude = std::mem::take(&mut outbox.config.tables.include);
    let mut source = outbox.open(None).await;
    sql(&outbox, "insert into b (v) values ('2'); insert into c (v) values ('2')").await;
    assert_eq!(rows(&source.take(1).await), ["c.2"]);
}

/// T31, with three tables whose rows are also updated while the snapshot is being taken.
#[tokio::test]
async fn with_writers_on_all_tables_every_row_comes_exactly_once_over_snapshot_and_stream() {
    let pg = shared_postgres().await;
    let outbox = shop(pg, "public.[abc]").await;
    sql(&outbox, "insert into b (v) select 'old' || i from generate_series(1, 3000) i").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (client, stop) = (pg.client(&outbox.database).await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut committed = 0;
            for i in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return committed;
                }
                let end = if i % 5 == 4 { "rollback" } else { "commit" };
                let each = ["a", "b", "c"].map(|table| format!("insert into {table} (v) values ('w{writer}-{i}');"));
                client.batch_execute(&format!("begin; {} {end}", each.join(" "))).await.unwrap();
                committed += if end == "commit" { 3 } else { 0 };
            }
            unreachable!()
        }));
    }
    let mut source = outbox.open(None).await;
    let (mut seen, mut from_snapshot, mut committed) = (BTreeMap::<String, u32>::new(), 0, None);
    let mut total = 0;
    while committed.is_none_or(|committed: usize| total < committed) {
        let batch = source.next().await.unwrap();
        source.confirm_all().await;
        total += batch.changes.len();
        from_snapshot += batch.changes.iter().filter(|change| change.commit.snapshot).count();
        for row in rows(&batch.changes) {
            *seen.entry(row).or_default() += 1;
        }
        if committed.is_none() && total > from_snapshot + 300 {
            stop.store(true, Ordering::SeqCst);
            let mut sum = 3000;
            for writer in writers.drain(..) {
                sum += writer.await.unwrap();
            }
            committed = Some(sum);
        }
    }
    assert_eq!(seen.len(), committed.unwrap());
    assert!(seen.values().all(|times| *times == 1), "none twice");
    eprintln!("{from_snapshot} rows by snapshot, {} by stream", total - from_snapshot);
}

#[tokio::test]
async fn the_catalog_says_what_the_stream_does_not_in_snapshot_and_stream_alike() {
    let outbox = shop(shared_postgres().await, r"public\.a").await;
    sql(
        &outbox,
        "alter table a add n int not null default 7, add t varchar(12); insert into a (v, t) values ('0', 'x')",
    )
    .await;
    let mut source = outbox.open(None).await;
    let mut changes = source.take(1).await;
    source.confirm_all().await;
    sql(&outbox, "insert into a (v) values ('1')").await;
    changes.extend(source.take(1).await);
    let [snapshot, stream] = [relation(&changes[0]), relation(&changes[1])];
    assert_eq!(snapshot.columns, stream.columns);
    let n = stream.columns[2].catalog.as_ref().unwrap();
    assert_eq!((n.not_null, n.default.as_deref(), &*n.type_name), (true, Some("7"), "integer"));
    assert_eq!(&*stream.columns[3].catalog.as_ref().unwrap().type_name, "character varying(12)");
    // A new description brings the catalog of now.
    sql(&outbox, "alter table a alter n set default 8; insert into a (v) values ('2')").await;
    let changes = source.take(1).await;
    assert_eq!(relation(&changes[0]).columns[2].catalog.as_ref().unwrap().default.as_deref(), Some("8"));
}

#[tokio::test]
async fn the_catalog_knows_keys_enums_domains_and_arrays() {
    let outbox = shop(shared_postgres().await, r"public\.t").await;
    sql(
        &outbox,
        "create type mood as enum ('sad', 'ok', 'happy'); alter type mood add value 'a,b' before 'ok'; \
         create domain short as varchar(5); create domain shorter as short not null; \
         create table t (b int, m mood, d shorter, ms mood[], ns numeric(5,2)[], a int, primary key (a, b)); \
         insert into t values (1, 'happy', 'x', '{sad}', '{1}', 2)",
    )
    .await;
    let mut source = outbox.open(None).await;
    let mut changes = source.take(1).await;
    source.confirm_all().await;
    sql(&outbox, "insert into t values (2, 'sad', 'x', '{sad}', '{1}', 2)").await;
    changes.extend(source.take(1).await);
    let columns = &relation(&changes[0]).columns;
    assert_eq!(columns, &relation(&changes[1]).columns);
    let catalog = |name: &str| {
        let column = columns.iter().find(|column| &*column.name == name).unwrap();
        column.catalog.clone().unwrap()
    };
    let labels = Some(["sad", "a,b", "ok", "happy"].map(Arc::from).into_iter().collect::<Arc<[Arc<str>]>>());
    assert_eq!((catalog("a").primary_key, catalog("b").primary_key), (Some(1), Some(2)));
    assert_eq!((catalog("m").primary_key, catalog("m").enum_labels), (None, labels.clone()));
    assert_eq!((catalog("d").base_type, &*catalog("d").type_name), (Some((1043, 9)), "shorter"));
    assert_eq!((catalog("m").base_type, catalog("ms").enum_labels), (None, labels));
    assert_eq!(catalog("ns").element_type, Some(1700));
}

#[tokio::test]
async fn rows_of_a_snapshot_say_where_they_stand() {
    let outbox = shop(shared_postgres().await, r"public\.(a|b|c|d|z)").await;
    sql(
        &outbox,
        "create table z (v text); create table d (v text); insert into b (v) values ('1'), ('2'), ('3'); \
         insert into c (v) values ('1'); insert into d values ('1'), ('2')",
    )
    .await;
    let mut source = outbox.open(None).await;
    let changes = source.take(6).await;
    let marks: Vec<_> = changes.iter().map(|change| change.marker.unwrap().as_str()).collect();
    let expected = [
        "first_in_data_collection",
        "true",
        "last_in_data_collection",
        "last_in_data_collection",
        "first_in_data_collection",
        "last",
    ];
    assert_eq!(marks, expected, "{:?}; behind an empty first table there is no first", rows(&changes));
    source.confirm_all().await;
    sql(&outbox, "insert into a (v) values ('1')").await;
    sql(&outbox, "insert into a (v) values ('2')").await;
    let changes = source.take(2).await;
    assert!(changes.iter().all(|change| change.marker.is_none()));
    assert_eq!(changes[0].commit.previous_end_lsn, None);
    let end = changes[1].commit.previous_end_lsn.unwrap();
    assert!(end > changes[0].lsn && end <= changes[1].lsn, "the end of the first, before the second");
}

#[tokio::test]
async fn partitions_and_heirs_are_read_once_each_under_the_name_the_stream_gives_them() {
    for via_root in [false, true] {
        let outbox = shop(shared_postgres().await, r"public\.(p|p1|p2|heir|parent)").await;
        sql(
            &outbox,
            &format!(
                "create table p (id int primary key, v text) partition by range (id); \
                 create table p1 partition of p for values from (0) to (10); \
                 create table p2 partition of p for values from (10) to (20); \
                 create table parent (id int primary key, v text); create table heir (primary key (id)) inherits (parent); \
                 alter publication pub set (publish_via_partition_root = {via_root}); \
                 insert into p values (1, '1'), (11, '2'); insert into parent values (1, '3'); insert into heir values (2, '4')"
            ),
        )
        .await;
        let mut source = outbox.open(None).await;
        let snapshot = rows(&source.take(4).await);
        source.confirm_all().await;
        sql(&outbox, "insert into p values (2, '1'), (12, '2'); insert into parent values (3, '3'); insert into heir values (4, '4')").await;
        let mut stream = rows(&source.take(4).await);
        stream.sort();
        assert_eq!(snapshot, stream, "via root: {via_root}");
        assert_eq!(snapshot.contains(&"p.1".to_owned()), via_root);
    }
}

#[tokio::test]
async fn the_publication_is_made_where_that_is_asked_for_and_allowed() {
    let pg = shared_postgres().await;
    let mut outbox = shop(pg, r"public\.(a|b|Odd Name)").await;
    let role = unique("relay");
    sql(
        &outbox,
        &format!(r#"create table "Odd Name" (id int primary key, v text); create role {role} login replication"#),
    )
    .await;
    outbox.config.publication = unique("made");
    let named = outbox.config.publication.clone();
    let expected = format!(r#"CREATE PUBLICATION {named} FOR TABLE public."Odd Name", public.a, public.b;"#);
    assert!(refused(&outbox).await.contains(&expected), "disabled: the statement to type");
    let owner = outbox.config.connection.url.clone();
    outbox.config.connection.url =
        Some(Secret::new(pg.url(&outbox.database).replace("postgres@", &format!("{role}@"))));
    outbox.config.publication_autocreate = Autocreate::Filtered;
    let said = refused(&outbox).await;
    assert!(said.contains(&expected) && said.contains("GRANT CREATE ON DATABASE"), "{said}");
    outbox.config.connection.url = owner;
    let mut source = outbox.open(None).await;
    sql(
        &outbox,
        r#"insert into b (v) values ('1'); insert into "Odd Name" values (1, '2'); insert into c (v) values ('3')"#,
    )
    .await;
    assert_eq!(rows(&until_end(&mut source, &outbox).await), ["b.1", "Odd Name.2"]);
    drop(source);
    // A table that is to be captured from now on goes into the publication at the next start.
    outbox.config.tables.include.push_str(r",public\.c");
    let mut source = outbox.open(None).await;
    sql(&outbox, "insert into c (v) values ('4')").await;
    assert_eq!(rows(&source.take(1).await), ["c.4"]);
    drop(source);
    outbox.config.publication = unique("all");
    outbox.config.publication_autocreate = Autocreate::AllTables;
    assert!(refused(&outbox).await.contains("gap possible"), "never for a slot that is there already");
    outbox.config.slot = unique("slot");
    outbox.config.snapshot = Snapshot::Never;
    let mut source = outbox.open(None).await;
    sql(&outbox, "create table later (id int primary key, v text); insert into later values (1, '1')").await;
    assert!(rows(&until_end(&mut source, &outbox).await).is_empty());
    outbox.sql.batch_execute("drop table later").await.unwrap();
}

/// At the first start and at every other.
#[tokio::test]
async fn a_publication_without_tables_waits_for_those_that_somebody_adds() {
    let mut outbox = shop(shared_postgres().await, "").await;
    sql(&outbox, "drop publication pub").await;
    outbox.config.publication_autocreate = Autocreate::NoTables;
    drop(outbox.open(None).await.next().await.unwrap());
    let mut source = outbox.open(None).await;
    sql(&outbox, "alter publication pub add table a; insert into a (v) values ('1'); insert into b (v) values ('1')")
        .await;
    assert_eq!(rows(&source.take(1).await), ["a.1"]);
}

#[tokio::test]
async fn a_table_asked_for_by_name_that_is_not_published_is_not_passed_over() {
    let outbox = shop(shared_postgres().await, r"public\.a, public\.b").await;
    sql(&outbox, "drop publication pub; create publication pub for table a").await;
    let said = refused(&outbox).await;
    assert!(said.contains("ALTER PUBLICATION pub ADD TABLE public.b;") && !said.contains("gap possible"), "{said}");
    outbox.create_slot().await;
    let said = refused(&outbox).await;
    assert!(said.contains("ALTER PUBLICATION pub ADD TABLE public.b;") && said.contains("gap possible"), "{said}");
    sql(&outbox, "alter publication pub add table b").await;
    drop(outbox.open(None).await);
}

#[tokio::test]
async fn a_filter_that_matches_no_table_is_refused() {
    let outbox = shop(shared_postgres().await, r"public\.nosuch").await;
    sql(&outbox, "drop publication pub; create publication pub for table a").await;
    let said = refused(&outbox).await;
    assert!(said.contains("no table that matches") && said.contains("nosuch"), "{said}");
}

/// T23
#[tokio::test]
async fn one_of_several_tables_taken_out_of_the_publication_is_a_gap_and_a_new_one_is_captured() {
    let outbox = shop(shared_postgres().await, r"public\..*").await;
    sql(&outbox, "drop publication pub; create publication pub for table a, b").await;
    let mut source = outbox.open(None).await;
    let looked = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle' \
                  and application_name = 'tailwater' and query like '%pg_current_wal_flush_lsn%'";
    let look = async {
        eventually(PATIENCE, || async {
            (outbox.sql.query_one(looked, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await
    };
    tokio::select! {
        () = look => {}
        failure = source.failure() => panic!("{failure}"),
    }
    sql(&outbox, "alter publication pub add table c; insert into c (v) values ('1')").await;
    assert_eq!(rows(&until_end(&mut source, &outbox).await), ["c.1"]);
    sql(&outbox, "alter publication pub drop table b").await;
    let failure = source.failure().await;
    let said = failure.to_string();
    assert!(failure.is_fatal() && said.contains("gap possible"), "{said}");
    assert!(said.contains("ALTER PUBLICATION pub ADD TABLE public.b;"), "{said}");
}

#[tokio::test]
async fn tables_the_snapshot_may_not_read_are_named_before_it_begins() {
    let pg = shared_postgres().await;
    let mut outbox = shop(pg, r"public\.(a|b),closed\.x").await;
    let role = unique("relay");
    sql(
        &outbox,
        &format!(
            "create schema closed; create table closed.x (id int primary key, v text); \
             create role {role} login replication; grant select on b to {role}"
        ),
    )
    .await;
    outbox.config.connection.url =
        Some(Secret::new(pg.url(&outbox.database).replace("postgres@", &format!("{role}@"))));
    let said = refused(&outbox).await;
    let expected = format!("GRANT USAGE ON SCHEMA closed TO {role}; GRANT SELECT ON closed.x, public.a TO {role};");
    assert!(said.contains(&expected), "{said}");
    sql(&outbox, &format!("grant usage on schema closed to {role}; grant select on a, closed.x to {role}")).await;
    // Rows that a policy hides would be missing without a word.
    sql(&outbox, "insert into a (v) values ('1'); alter table a enable row level security").await;
    let failure = match outbox.try_open(None).await {
        Err(failure) => failure,
        Ok(mut source) => source.failure().await,
    };
    assert!(failure.is_fatal() && failure.to_string().contains("BYPASSRLS"), "{failure}");
    sql(&outbox, "alter table a disable row level security").await;
    assert_eq!(rows(&outbox.open(None).await.take(1).await), ["a.1"]);
}

#[tokio::test]
async fn updates_and_deletes_come_with_the_old_row_as_the_replica_identity_has_it() {
    let outbox = shop(shared_postgres().await, r"public\.(a|b)").await;
    sql(&outbox, "alter table b replica identity full").await;
    outbox.create_slot().await;
    let mut source = outbox.open(None).await;
    sql(
        &outbox,
        "insert into a (v) values ('1'); update a set v = '2'; update a set id = 9; delete from a; \
         insert into b (v) values ('1'); update b set v = '2'; delete from b",
    )
    .await;
    let changes = source.take(7).await;
    let old = |change: &Change| match &change.event {
        Event::Row(row) => (row.operation, format!("{:?}", row.old)),
        other => panic!("{other:?}"),
    };
    let shapes: Vec<(Operation, String)> = changes.iter().map(old).collect();
    assert_eq!(shapes[1], (Operation::Update, "None".into()));
    assert!(shapes[2].1.starts_with("Some(Key(") && shapes[3].1.starts_with("Some(Key("), "{shapes:?}");
    assert!(shapes[5].1.starts_with("Some(Full(") && shapes[6].1.starts_with("Some(Full("), "{shapes:?}");
}
