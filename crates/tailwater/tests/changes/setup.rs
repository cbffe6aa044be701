//! `tailwater init` for change events: publication, role and rights of all captured tables; and what runs with them.

use super::*;
use std::path::{Path, PathBuf};
use std::process::Output;

fn config(shop: &Shop, dir: &Path) -> PathBuf {
    let file = dir.join("tailwater.toml");
    let config = format!(
        r#"
state_dir = "{state}"
[http]
listen = ""
[pipelines.shop.source]
type = "postgres"
host = "127.0.0.1"
port = {port}
dbname = "{database}"
user = "{name}"
password = "relay"
slot = "{name}"
publication = "{name}"
tables = {{ include = "public.a,shop.b" }}
[pipelines.shop.route]
kind = "changes"
topic_prefix = "app"
[pipelines.shop.sink]
type = "stdout"
[pipelines.shop.admin]
url = "{url}"
"#,
        state = dir.join("state").display(),
        port = shop.pg.port(),
        database = shop.database,
        name = shop.name,
        url = shop.pg.url(&shop.database),
    );
    std::fs::write(&file, config).unwrap();
    file
}

fn init(file: &Path, argument: &str) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_tailwater")).args(["init", argument, "--config"]).arg(file).output().unwrap();
    (status.code().unwrap(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_what_change_events_of_several_tables_need_and_no_outbox() {
    let shop = Shop::new(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE SCHEMA shop; CREATE TABLE shop.b (id int); CREATE TABLE c (id int)",
    )
    .await;
    let dir = WorkDir::new();
    let file = config(&shop, dir.path());
    let (code, said) = init(&file, "--dry-run");
    assert_eq!(code, 3, "{said}");
    for part in [
        format!("CREATE PUBLICATION {} FOR TABLE public.a, shop.b;", shop.name),
        "GRANT USAGE ON SCHEMA shop TO".into(),
        format!("GRANT SELECT ON public.a, shop.b TO {};", shop.name),
        "ALTER TABLE shop.b REPLICA IDENTITY FULL;".into(),
    ] {
        assert!(said.contains(&part), "{part} is missing in: {said}");
    }
    assert!(!said.contains("outbox"), "{said}");
    shop.run("ALTER TABLE shop.b REPLICA IDENTITY FULL").await;
    let (code, said) = init(&file, "--yes");
    assert_eq!(code, 0, "{said}");
    let (code, said) = init(&file, "--dry-run");
    assert!(code == 0 && said.contains("nothing to do"), "{said}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.args(["run", "--config"]).arg(&file);
    let child = Child::start(command);
    shop.streaming().await;
    shop.run("INSERT INTO a VALUES (1); UPDATE shop.b SET id = 2; INSERT INTO shop.b VALUES (3); DELETE FROM shop.b")
        .await;
    eventually(PATIENCE, || async {
        let seen = child.stdout().join("\n");
        note(&seen);
        (seen.contains("app.shop.b") && seen.contains("app.public.a")).then_some(())
    })
    .await;
    child.term();
    assert!(child.wait(PATIENCE).await.success());
}
