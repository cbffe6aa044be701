//! What is wrong with a table or a role is said before the first row, with the statement that mends it.

use crate::harness::Polled;
use tailwater::config::secret::Secret;
use tailwater::sources::postgres_poll::config::Done;
use testbed::{shared_postgres, unique};

#[tokio::test]
async fn what_a_table_lacks_is_named_with_the_statement_that_mends_it() {
    let pg = shared_postgres().await;
    let identity = "seq bigint generated always as identity";
    for (table, said, mend) in [
        ("select 1", "there is no table public.outbox", "create it"),
        (
            "create table outbox (k text, v text)",
            "tells the order",
            "ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE",
        ),
        (
            &format!("create table outbox ({identity}, k text)"),
            "no unique index on seq",
            "CREATE UNIQUE INDEX ON \"public\".\"outbox\" (\"seq\")",
        ),
        ("create table outbox (a bigserial unique, b bigserial unique, k text)", "several columns", "order_column"),
        ("create view outbox as select 1::bigint as seq", "there is no table", "create it"),
    ] {
        let text = Polled::with(pg, table).await.refusal().await;
        assert!(text.contains(said) && text.contains(mend), "{table}: {text}");
    }
    let mut outbox = Polled::with(pg, &format!("create table outbox ({identity} unique, k text)")).await;
    outbox.config.order_column = Some("k".into());
    assert!(outbox.refusal().await.contains("k of \"public\".\"outbox\" is no integer"));
    outbox.config.order_column = Some("sequ".into());
    assert!(outbox.refusal().await.contains("has no column sequ"));
    outbox.config.order_column = None;
    (outbox.config.done, outbox.config.mark_column) = (Done::Mark, Some("sent".into()));
    assert!(outbox.refusal().await.contains("ADD COLUMN \"sent\" timestamptz"));
}

/// The role needs what it is granted here, and nothing else; each missing grant is printed.
#[tokio::test]
async fn each_missing_privilege_is_printed_as_the_grant_that_gives_it() {
    let pg = shared_postgres().await;
    for done in [Done::Delete, Done::Mark] {
        let table =
            "create schema app; create table app.outbox (seq bigserial unique, k text, v text, sent timestamptz)";
        let mut outbox = Polled::with(pg, table).await;
        (outbox.config.done, outbox.config.table) = (done, "app.outbox".into());
        outbox.config.mark_column = (done == Done::Mark).then(|| "sent".into());
        let role = unique("poller").to_lowercase();
        outbox.sql.batch_execute(&format!("create role {role} login")).await.unwrap();
        let url = format!("postgres://{role}@127.0.0.1:{}/{}", pg.port(), outbox.database);
        outbox.config.connection.url = Some(Secret::new(url));
        let mut printed = 0;
        let source = loop {
            match outbox.try_open(None).await {
                Ok(source) => break source,
                Err(failure) => {
                    let text = failure.to_string();
                    let grant = text.split("what to do: ").nth(1).unwrap_or_else(|| panic!("no hint in {text}"));
                    assert!(grant.starts_with("GRANT ") && !grant.contains("ALL"), "{text}");
                    outbox.sql.batch_execute(grant).await.unwrap_or_else(|error| panic!("{grant}: {error}"));
                    printed += 1;
                    assert!(printed < 4, "{text}");
                }
            }
        };
        let mut source = source;
        outbox.sql.batch_execute("insert into app.outbox (k, v) values ('k', 'v0')").await.unwrap();
        source.take(1).await;
        source.confirm_all().await;
        let left = "select count(*) from app.outbox where sent is null";
        assert_eq!(outbox.sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
        let forbidden = format!(
            "select has_table_privilege('{role}', 'app.outbox', 'INSERT') or has_table_privilege('{role}', 'app.outbox', 'TRUNCATE')"
        );
        assert!(!outbox.sql.query_one(&forbidden, &[]).await.unwrap().get::<_, bool>(0));
        drop(source);
        outbox.sql.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    }
}
