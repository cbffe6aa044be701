//! `tailwater init` for change events: publication, role and rights of all captured tables; and what runs with them.

use super::*;
fn file(shop: &Shop) -> File {
    let name = &shop.name;
    let source = format!(
        "host = \"127.0.0.1\"\nport = {}\ndbname = \"{}\"\nuser = \"{name}\"\npassword = \"relay\"\n\
         tables = {{ include = \"public.a,shop.b\" }}",
        shop.pg.port(),
        shop.database,
    );
    let sink = format!("type = \"stdout\"\n[pipelines.shop.admin]\n{}", shop.url());
    shop.file("", &source, "topic_prefix = \"app\"", &sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_what_change_events_of_several_tables_need_and_no_outbox() {
    let shop = Shop::new(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE SCHEMA shop; CREATE TABLE shop.b (id int); CREATE TABLE c (id int)",
    )
    .await;
    let file = file(&shop);
    let (code, said) = file.init("--dry-run");
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
    let (code, said) = file.init("--yes");
    assert_eq!(code, 0, "{said}");
    let (code, said) = file.init("--dry-run");
    assert!(code == 0 && said.contains("nothing to do"), "{said}");

    let child = file.run();
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
