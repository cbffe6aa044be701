//! The cost of a look does not depend on how many rows wait, nor on how many died: what the server itself says of the very
//! statements (auto_explain: EXPLAIN (ANALYZE, BUFFERS)).

use crate::harness::Polled;
use std::time::Duration;
use tailwater::sources::postgres_poll::config::Done;
use tailwater_core::Failure;
use testbed::{Postgres, PostgresOptions, eventually};

/// Rows of the large table: 10⁷ on request, `TAILWATER_CRASH=long`.
fn many() -> u32 {
    if std::env::var("TAILWATER_CRASH").is_ok_and(|form| form == "long") { 10_000_000 } else { 1_000_000 }
}

async fn server() -> Postgres {
    let settings = vec![
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_buffers", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_min_duration", "0"),
        ("autovacuum", "off"),
        ("shared_buffers", "256MB"),
    ];
    Postgres::start_with(PostgresOptions { settings, ..Default::default() }).await
}

const TABLE: &str = "create table outbox (seq bigint generated always as identity primary key, k text, v text, \
     sent timestamptz); create index unsent on outbox (seq) where sent is null";

async fn fill(outbox: &Polled, rows: u32) {
    let sql = format!(
        "set synchronous_commit = off; insert into outbox (k, v) select 'k' || i % 1000, repeat('x', 200) \
         from generate_series(1, {rows}) i"
    );
    outbox.sql.batch_execute(&sql).await.unwrap();
    outbox.sql.batch_execute("vacuum analyze outbox").await.unwrap();
}

/// Buffers of the plan that the server logged last for a statement that begins with `COPY`, and the plan.
fn last_look(log: &str) -> Option<(u64, String)> {
    let at = log.rfind("Query Text: COPY")?;
    let plan: String = log[at..].lines().take_while(|line| !line.contains(" LOG:")).collect::<Vec<_>>().join("\n");
    let buffers = plan.lines().find(|line| line.trim_start().starts_with("Buffers:"))?;
    let number = |name: &str| -> u64 {
        let rest = buffers.split(name).nth(1).unwrap_or("0");
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
    };
    Some((number("hit=") + number("read="), plan))
}

/// Median of the buffers of looks at 1,000 rows each, confirmed one after the other.
///
/// The first look from the beginning passes all rows that died since the last vacuum. With millions of them it may take
/// longer than a session may be silent: then the source is opened again, as a pipeline does, and goes on where it was, since
/// dead entries of an index are passed once.
async fn looks(pg: &Postgres, outbox: &Polled) -> u64 {
    let mut source = outbox.open(None).await;
    let (mut buffers, mut again) = (Vec::new(), 0);
    while buffers.len() < 15 {
        if let Err(failure) = source.next().await {
            again += 1;
            assert!(again <= 20 && matches!(failure, Failure::Retry { .. }), "{failure}, {again} times");
            source = outbox.open(None).await;
            continue;
        }
        source.confirm_all().await;
        let (count, plan) = eventually(Duration::from_secs(20), || async { last_look(&pg.log()) }).await;
        assert!(!plan.contains("Seq Scan") && !plan.contains("JIT"), "{plan}");
        buffers.push(count);
    }
    buffers.sort_unstable();
    buffers[buffers.len() / 2]
}

#[tokio::test]
async fn a_look_touches_no_more_buffers_where_a_hundred_times_as_many_rows_wait() {
    let pg = server().await;
    for done in [Done::Delete, Done::Mark] {
        let mut measured = Vec::new();
        for rows in [100_000, many()] {
            let mut outbox = Polled::with(&pg, TABLE).await;
            outbox.config.done = done;
            outbox.config.mark_column = (done == Done::Mark).then(|| "sent".into());
            fill(&outbox, rows).await;
            measured.push((rows, "waiting", looks(&pg, &outbox).await));
            // half of them die, and nobody vacuums
            let dead = match done {
                Done::Delete => format!("delete from outbox where seq <= {}", rows / 2),
                Done::Mark => format!("update outbox set sent = now() where seq <= {}", rows / 2),
            };
            outbox.sql.batch_execute(&dead).await.unwrap();
            measured.push((rows, "half of them dead", looks(&pg, &outbox).await));
        }
        for (rows, what, buffers) in &measured {
            println!("{done:?}, {rows} rows, {what}: {buffers} buffers a look");
        }
        let all: Vec<u64> = measured.iter().map(|(_, _, buffers)| *buffers).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*most <= 2 * *least, "{measured:?}");
    }
}

/// T2: also while a writer stays open, who keeps the dead rows from being cleaned up and the gaps from being closed.
#[tokio::test]
async fn a_writer_that_stays_open_does_not_make_looks_dearer() {
    let pg = server().await;
    let outbox = Polled::with(&pg, TABLE).await;
    let open = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    open.batch_execute("begin; insert into outbox (k, v) values ('k0', 'late')").await.unwrap();
    let mut buffers = Vec::new();
    for _ in 0..100 {
        outbox.insert(0..1000).await;
        source.take(1000).await;
        source.confirm_all().await;
        buffers.extend(last_look(&pg.log()).map(|(count, _)| count));
    }
    let (first, last) = (buffers[5..15].iter().max().unwrap(), buffers[buffers.len() - 10..].iter().max().unwrap());
    println!("with a writer open, 1,000 rows a look: at most {first} buffers at first, {last} after 100,000 rows");
    assert!(last <= &(2 * first), "{buffers:?}");
}
