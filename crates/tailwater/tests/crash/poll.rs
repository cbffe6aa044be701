//! The same with a polled table: relays killed, stopped, cut off, and switched to the log and back, under load.
//!
//! Rows are deleted when they are published, so what was committed is kept elsewhere: the writers' table copies each row, in
//! its transaction, to the one that is polled.

use crate::harness::{LIMIT, Scene, cut_proxies, long, rate};
use rand::Rng;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::{
    Child, Clock, Load, Postgres, PostgresOptions, Proxy, RabbitMq, eventually, shared_postgres, shared_rabbitmq,
};
use tokio::time::sleep;

struct Polled {
    scene: Scene,
    /// The configuration that reads the log of the same table.
    log: String,
    poll: String,
}

impl Polled {
    async fn new(hint: &str, postgres: &Postgres, broker: &RabbitMq) -> Polled {
        Polled::of(Scene::new(hint, postgres, broker).await, postgres).await
    }

    async fn behind(hint: &str, postgres: &Postgres, broker: &RabbitMq, proxies: &(Proxy, Proxy)) -> Polled {
        Polled::of(Scene::behind(hint, postgres, broker, &proxies.0, &proxies.1).await, postgres).await
    }

    /// Table `events`, with the trigger that `init` offers, which the scene's relay polls.
    async fn of(scene: Scene, postgres: &Postgres) -> Polled {
        let sql = "create table events (like outbox including all); \
             alter table events add column seq bigint generated always as identity unique; \
             create publication events_pub for table events with (publish = 'insert'); \
             create function copy_event() returns trigger language plpgsql as $$ begin \
               insert into events (id, aggregatetype, aggregateid, type, payload) \
               values (new.id, new.aggregatetype, new.aggregateid, new.type, new.payload); return null; end $$; \
             create trigger copy_event after insert on outbox for each row execute function copy_event(); \
             create function ring() returns trigger language plpgsql as $$ begin \
               perform pg_notify('tailwater_events', ''); return null; end $$; \
             create trigger ring after insert on events for each statement execute function ring()";
        postgres.client(&scene.database).await.batch_execute(sql).await.unwrap();
        scene.edit("public.outbox", "public.events");
        scene.edit("outbox_pub", "events_pub");
        let log = std::fs::read_to_string(&scene.config).unwrap();
        scene.edit("type = \"postgres\"", "type = \"postgres-poll\"\nlease = \"5s\"");
        scene.edit(&format!("slot = \"{}\"\npublication = \"events_pub\"\n", scene.slot), "");
        let poll = std::fs::read_to_string(&scene.config).unwrap();
        Polled { scene, log, poll }
    }

    fn switch(&self, text: &str) {
        std::fs::write(&self.scene.config, text).unwrap();
    }

    /// A configuration for one more relay on the same table.
    fn another(&self) -> PathBuf {
        let path = self.scene.config.with_file_name("another.toml");
        let state = self.scene.config.with_file_name("state").display().to_string();
        let text = self.poll.replace(&state, &format!("{state}-another"));
        let listen = text.lines().find(|line| line.starts_with("listen")).unwrap().to_owned();
        std::fs::write(&path, text.replace(&listen, "listen = \"\"")).unwrap();
        path
    }

    fn lease(&mut self, lease: &str) {
        self.poll = self.poll.replace("lease = \"5s\"", &format!("lease = \"{lease}\""));
        self.switch(&self.poll);
    }

    /// Waits until so many relays are there.
    async fn relays(&self, postgres: &Postgres, count: i64) {
        let client = postgres.client(&self.scene.database).await;
        let sql = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4294967295 \
                   and classid = 'events'::regclass and granted";
        let reached = || async { (client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == count).then_some(()) };
        eventually(LIMIT, reached).await;
    }
}

fn alive(relay: &Child) {
    assert!(relay.ended().is_none(), "ended by itself:\n{}", relay.stderr().join("\n"));
}

/// T1 T10 T55: two relays share the table, and one after the other is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pollers_killed_at_any_moment_lose_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let polled = Polled::new("poll_kills", postgres, broker).await;
    let another = polled.another();
    let load = Load::start(postgres, &polled.scene.database, rate(500));
    let kills = if long() { 200 } else { 20 };
    let (mut one, mut two) = (polled.scene.relay(), Scene::relay_with(&another));
    for number in 0..kills {
        sleep(Duration::from_millis(rand::rng().random_range(100..900))).await;
        if number % 2 == 0 {
            alive(&one);
            one.kill9();
            one = polled.scene.relay();
        } else {
            alive(&two);
            two.kill9();
            two = Scene::relay_with(&another);
        }
    }
    polled.relays(postgres, 2).await;
    two.term();
    assert_eq!(two.wait(LIMIT).await.code(), Some(0), "{}", two.stderr().join("\n"));
    let verdict = polled.scene.settle(one, load.finish().await, broker).await;
    verdict.judge(&format!("polling, two relays, kill -9, {kills} times"), kills);
}

/// T6: what was cut off in the middle is sent again before anything later of its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poller_whose_connections_are_cut_loses_nothing_and_keeps_its_order() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let proxies = cut_proxies(postgres, broker).await;
    let polled = Polled::behind("poll_cuts", postgres, broker, &proxies).await;
    let load = Load::start(postgres, &polled.scene.database, rate(500));
    let relay = polled.scene.relay();
    polled.scene.published(300).await;
    let cuts = if long() { 300 } else { 30 };
    for number in 0..cuts {
        let bytes = rand::rng().random_range(1..20_000);
        match number % 4 {
            0 => proxies.0.cut_after_down(bytes),
            1 => proxies.0.cut_after_up(bytes / 10 + 1),
            _ => proxies.1.cut_after_up(bytes),
        }
        sleep(Duration::from_millis(rand::rng().random_range(50..400))).await;
    }
    proxies.0.restore();
    proxies.1.restore();
    alive(&relay);
    let verdict = polled.scene.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("polling, {cuts} connections cut"), cuts);
}

/// T7: a relay that is stopped for longer than its lease loses its keys to the other one; when it goes on it can be done with
/// nothing and publishes nothing but what was in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poller_that_is_stopped_for_longer_than_its_lease_is_fenced() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let polled = Polled::new("poll_stopped", postgres, broker).await;
    let load = Load::start(postgres, &polled.scene.database, rate(500));
    let (stopped, other) = (Scene::relay_with(&polled.another()), polled.scene.relay());
    polled.relays(postgres, 2).await;
    polled.scene.published(500).await;
    stopped.signal(libc::SIGSTOP);
    other.wait_for("its session is ended", LIMIT).await;
    polled.relays(postgres, 1).await;
    let before = polled.scene.count("published").await;
    polled.scene.published(before + 1000).await;
    stopped.signal(libc::SIGCONT);
    stopped.wait_for("open the source again", LIMIT).await;
    polled.relays(postgres, 2).await;
    sleep(Duration::from_secs(1)).await;
    stopped.term();
    assert_eq!(stopped.wait(LIMIT).await.code(), Some(0), "{}", stopped.stderr().join("\n"));
    let verdict = polled.scene.settle(other, load.finish().await, broker).await;
    verdict.judge("polling, one of two relays stopped for longer than its lease", 1);
}

/// T51: the clocks of the database and of both relays jump by hours, forwards and back, each while one relay is stopped for
/// less than its lease: nobody is taken to be dead, and nothing comes twice or late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_end_no_poller_and_repeat_nothing() {
    let (of_database, of_relays) = (Clock::new(), Clock::new());
    let options = PostgresOptions { clock: Some(&of_database), ..PostgresOptions::default() };
    let (postgres, broker) = (Postgres::start_with(options).await, shared_rabbitmq().await);
    let mut polled = Polled::new("poll_clocks", &postgres, broker).await;
    // so long that being stopped for a moment is nothing, on a busy machine too
    polled.lease("60s");
    let load = Load::start(&postgres, &polled.scene.database, rate(300));
    let start = |config: &Path| Scene::relay_under(config, &of_relays.variables());
    let (one, two) = (start(&polled.scene.config), start(&polled.another()));
    polled.relays(&postgres, 2).await;
    polled.scene.published(300).await;
    for hours in [3, -3, 0] {
        for clock in [&of_database, &of_relays] {
            two.signal(libc::SIGSTOP);
            clock.set(hours * 3600);
            // the other one looks at it at least once
            sleep(Duration::from_millis(2500)).await;
            two.signal(libc::SIGCONT);
            let before = polled.scene.count("published").await;
            polled.scene.published(before + 100).await;
        }
    }
    for (relay, name) in [(&one, "the first"), (&two, "the second")] {
        alive(relay);
        let said = relay.stderr().join("\n");
        assert!(!said.contains("its session is ended") && !said.contains("open the source again"), "{name}: {said}");
    }
    two.term();
    assert_eq!(two.wait(LIMIT).await.code(), Some(0), "{}", two.stderr().join("\n"));
    let verdict = polled.scene.settle(one, load.finish().await, broker).await;
    verdict.judge("polling, clocks jump by hours", 0);
}

/// From the log to polling and back, twice, under load: a change of configuration, once with a drain and once with `kill -9`.
/// What the log has published and nobody has deleted goes out again, so many duplicates are expected, and no loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_between_log_and_polling_loses_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let polled = Polled::new("poll_switch", postgres, broker).await;
    let scene = &polled.scene;
    let load = Load::start(postgres, &scene.database, rate(500));
    let drop_slot = format!("select pg_drop_replication_slot('{}')", scene.slot);
    let sql = postgres.client(&scene.database).await;
    for crash in [false, true] {
        for text in [&polled.log, &polled.poll] {
            polled.switch(text);
            let relay = scene.relay();
            scene.streaming().await;
            scene.published(700).await;
            if crash {
                relay.kill9();
            } else {
                relay.term();
                assert_eq!(relay.wait(LIMIT).await.code(), Some(0), "{}", relay.stderr().join("\n"));
            }
        }
        // as docs/polling.md says: the slot is dropped once polling has taken over
        eventually(LIMIT, || async { sql.batch_execute(&drop_slot).await.ok() }).await;
    }
    polled.switch(&polled.log);
    let relay = scene.relay();
    scene.streaming().await;
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge("log, polling, log, polling, log", 40);
}
