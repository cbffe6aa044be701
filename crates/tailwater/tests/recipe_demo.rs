//! `tailwater demo` on two given servers: it proves its point, and leaves nothing behind.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::process::Command;

#[tokio::test]
async fn the_demo_delivers_everything_and_removes_what_it_made() {
    let (pg, mq) = (testbed::shared_postgres().await, testbed::shared_rabbitmq().await);
    let database = pg.database("demo").await;
    let db = pg.client(&database).await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'tailwater_demo%'";
    let left = "SELECT count(*) FROM pg_namespace n FULL JOIN pg_publication p ON false \
                WHERE n.nspname LIKE 'tailwater_demo%' OR p.pubname LIKE 'tailwater_demo%'";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.args(["demo", "--events", "300"]);
    command.env("TAILWATER_FROM", pg.url(&database)).env("TAILWATER_TO", mq.url());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("committed    300\n") && said.contains("(missing: 0)"), "{said}");
    assert_eq!(db.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(db.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    for kind in ["queues", "exchanges"] {
        let all = mq.management(&format!("/api/{kind}")).await.body;
        assert!(!all.contains("tailwater_demo"), "{kind}: {all}");
    }
    println!("{said}");
}

#[test]
fn without_servers_it_says_what_it_needs() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    let output = command.arg("demo").env_remove("TAILWATER_FROM").env_remove("TAILWATER_TO").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("script/demo"));
}
