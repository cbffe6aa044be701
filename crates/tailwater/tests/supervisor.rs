//! The supervisor with pipelines of which every part is fake: what the end of one means, orders, and the memory they share.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

#[path = "supervisor/fake.rs"]
mod fake;

use fake::{Fake, Script};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tailwater::metrics::State;
use tailwater::supervisor::store::{Store, Stored};
use tailwater::supervisor::{Defined, Supervisor, Target};
use tailwater_core::Failure;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const MIB: usize = 1 << 20;

struct Scene {
    fake: Arc<Fake>,
    supervisor: Supervisor,
    stop: CancellationToken,
}

impl Scene {
    fn new(worker: bool) -> Scene {
        let (fake, stop) = (Arc::new(Fake::default()), CancellationToken::new());
        let supervisor = Supervisor::with(fake.clone(), 64 * MIB, worker, stop.clone());
        Scene { fake, supervisor, stop }
    }

    async fn put(&self, name: &str, script: Script) {
        self.put_as(name, script, Defined::Rest, Target::Running).await;
    }

    async fn put_as(&self, name: &str, script: Script, defined: Defined, target: Target) {
        self.fake.script(name, script);
        self.supervisor.put(name, fake::config(), defined, target).await.unwrap();
    }

    fn state(&self, name: &str) -> State {
        self.supervisor.get(name).unwrap().status.state()
    }

    async fn until(&self, name: &str, state: &str) {
        let status = self.supervisor.get(name).unwrap().status;
        let mut states = status.watch();
        let reached = timeout(Duration::from_secs(3600), states.wait_for(|now| now.name() == state)).await;
        assert!(reached.is_ok(), "{name} is {:?}, not {state}", status.state());
    }

    /// Waits until so many more were published.
    async fn flows(&self, name: &str, more: u64) {
        let status = self.supervisor.get(name).unwrap().status;
        let goal = status.published.load(Relaxed) + more;
        let flowing = async {
            while status.published.load(Relaxed) < goal {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), flowing).await.unwrap_or_else(|_| panic!("{name} does not flow"));
    }
}

/// Isolation: failures, panics, frozen brokers of others change nothing for a pipeline, and it keeps its memory.
#[tokio::test(start_paused = true)]
async fn one_pipelines_trouble_stays_its_own() {
    let scene = Scene::new(true);
    scene.put("good", Script::default()).await;
    scene.flows("good", 100).await;
    scene.put("fatal", Script { fatal_openings: 1000, ..Script::default() }).await;
    scene.put("panics", Script { panics_at: Some(5), ..Script::default() }).await;
    for n in 0..10 {
        let frozen = Script { frozen: true, row_bytes: 64 << 10, ..Script::default() };
        scene.put(&format!("frozen-{n}"), frozen).await;
    }
    scene.until("fatal", "failed").await;
    scene.until("panics", "failed").await;
    sleep(Duration::from_secs(5)).await;
    scene.flows("good", 10_000).await;
    let held: u64 = (0..10)
        .map(|n| scene.supervisor.get(&format!("frozen-{n}")).unwrap().status.in_flight_bytes.load(Relaxed))
        .sum();
    assert!(held > 16 * MIB as u64, "they were let in: {held}");
    assert!(held < 64 * MIB as u64, "ten blocked pipelines hold {held} bytes");
}

/// A panic: nothing of it is confirmed any more, its source is dropped, and a restart goes on from what was saved.
#[tokio::test(start_paused = true)]
async fn a_panic_confirms_nothing_and_drops_the_source() {
    let scene = Scene::new(true);
    scene.put("p", Script { panics_at: Some(500), ..Script::default() }).await;
    scene.until("p", "failed").await;
    let State::Failed { error, hint } = scene.state("p") else { panic!("not failed") };
    assert!(error.contains("an invariant does not hold") && hint.contains("report it"), "{error} {hint}");
    let world = scene.fake.world("p");
    assert_eq!(world.open.load(Relaxed), 0, "its source is dropped");
    let confirmed = world.confirmed.load(Relaxed);
    assert!(confirmed < 500, "confirmed {confirmed}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.confirmed.load(Relaxed), confirmed);
    world.script.lock().unwrap().panics_at = None;
    scene.until("p", "streaming").await;
    scene.flows("p", 1000).await;
    assert_eq!(world.lost(), None, "nothing is missing after the restart");
}

/// A missing GRANT is mended elsewhere: the pipeline comes back by itself, at longer and longer intervals, visibly failed.
#[tokio::test(start_paused = true)]
async fn a_failed_pipeline_is_tried_again_by_itself_with_growing_patience() {
    let scene = Scene::new(true);
    let start = Instant::now();
    scene.put("p", Script { fatal_openings: 8, ..Script::default() }).await;
    scene.until("p", "failed").await;
    let status = scene.supervisor.get("p").unwrap().status;
    assert!(status.retry_in().is_some_and(|left| left <= Duration::from_secs(10)));
    sleep(Duration::from_secs(15)).await;
    assert_eq!(status.state().name(), "failed", "it stays failed while it is tried again");
    scene.until("p", "streaming").await;
    assert_eq!(status.retry_in(), None);
    let openings = scene.fake.world("p").openings.lock().unwrap().clone();
    let waits: Vec<u64> = openings.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300], "after {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_operators_restart_does_not_wait() {
    let scene = Scene::new(true);
    scene.put("p", Script { fatal_openings: 5, ..Script::default() }).await;
    let start = Instant::now();
    let world = scene.fake.world("p");
    for attempts in 1..=5 {
        scene.until("p", "failed").await;
        while scene.supervisor.get("p").unwrap().status.retry_in().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.openings.lock().unwrap().len(), attempts);
        assert!(scene.supervisor.restart("p").await);
        while world.openings.lock().unwrap().len() == attempts {
            sleep(Duration::from_millis(1)).await;
        }
    }
    scene.until("p", "streaming").await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!scene.supervisor.restart("q").await);
}

/// Events may be missing: only an operator decides to go on.
#[tokio::test(start_paused = true)]
async fn a_possible_gap_is_never_tried_again_by_itself() {
    let scene = Scene::new(true);
    scene.put("p", Script { gap: true, ..Script::default() }).await;
    scene.until("p", "gap_possible").await;
    sleep(Duration::from_secs(86_400)).await;
    assert_eq!(scene.fake.world("p").openings.lock().unwrap().len(), 1);
    scene.fake.world("p").script.lock().unwrap().gap = false;
    scene.supervisor.restart("p").await;
    scene.until("p", "streaming").await;
}

/// T11, T52: a position that cannot be saved is said, nothing is confirmed meanwhile, and it goes on by itself.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_shown_and_nothing_is_confirmed_until_there_is_room() {
    let scene = Scene::new(true);
    scene.put("p", Script { disk_full: true, ..Script::default() }).await;
    scene.until("p", "retrying").await;
    assert!(matches!(scene.state("p"), State::Retrying { what, error }
        if what == "save the position" && error.contains("no space left")));
    sleep(Duration::from_secs(10)).await;
    let world = scene.fake.world("p");
    assert_eq!(world.confirmed.load(Relaxed), 0);
    world.script.lock().unwrap().disk_full = false;
    scene.until("p", "streaming").await;
    scene.flows("p", 100).await;
    assert!(world.confirmed.load(Relaxed) > 0 && world.lost().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_paused_pipeline_keeps_its_source_and_reads_nothing() {
    let scene = Scene::new(true);
    scene.put("p", Script::default()).await;
    scene.flows("p", 10).await;
    scene.supervisor.set_target("p", Target::Paused).await;
    scene.until("p", "paused").await;
    let world = scene.fake.world("p");
    sleep(Duration::from_secs(1)).await;
    let read = world.read.load(Relaxed);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.read.load(Relaxed), read, "nothing is read");
    assert_eq!(world.open.load(Relaxed), 1, "the source is kept");
    assert_eq!(world.confirmed.load(Relaxed), read, "all that was read is confirmed");
    scene.supervisor.set_target("p", Target::Running).await;
    scene.until("p", "streaming").await;
    scene.flows("p", 10).await;
    assert_eq!(world.openings.lock().unwrap().len(), 1, "it was never closed");
    assert_eq!(world.lost(), None);
}

/// Pause and stop outlive a process: what starts paused or stopped opens nothing until it is told to.
#[tokio::test(start_paused = true)]
async fn what_begins_paused_or_stopped_opens_nothing() {
    let scene = Scene::new(true);
    scene.put_as("paused", Script::default(), Defined::Rest, Target::Paused).await;
    scene.put_as("stopped", Script::default(), Defined::Rest, Target::Stopped).await;
    for name in ["paused", "stopped"] {
        scene.until(name, name).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(scene.fake.world(name).openings.lock().unwrap().len(), 0, "{name}");
        scene.supervisor.set_target(name, Target::Running).await;
        scene.until(name, "streaming").await;
        scene.flows(name, 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_pipeline_is_drained_and_closed_and_its_position_may_be_changed() {
    let scene = Scene::new(true);
    scene.put("p", Script::default()).await;
    scene.flows("p", 10).await;
    assert!(scene.supervisor.set_position("p", None).await.is_err(), "not while it runs");
    scene.supervisor.set_target("p", Target::Stopped).await;
    scene.until("p", "stopped").await;
    let world = scene.fake.world("p");
    let read = world.read.load(Relaxed);
    assert_eq!(world.open.load(Relaxed), 0);
    assert_eq!(world.confirmed.load(Relaxed), read, "drained");
    assert_eq!(world.published.lock().unwrap().len() as u64, read, "nothing twice");
    assert_eq!(scene.supervisor.position("p").await.unwrap(), Some(fake::position(read)));
    scene.supervisor.set_position("p", Some(fake::position(3))).await.unwrap();
    scene.supervisor.set_target("p", Target::Running).await;
    scene.until("p", "streaming").await;
    assert_eq!(world.opened_from.lock().unwrap().last().unwrap(), &Some(fake::position(3)));
}

/// A slot has one reader: the old one has let go before the new one opens.
#[tokio::test(start_paused = true)]
async fn a_replaced_pipeline_is_drained_before_its_successor_opens() {
    let scene = Scene::new(true);
    scene.put("p", Script::default()).await;
    for _ in 0..5 {
        scene.flows("p", 10).await;
        scene.supervisor.put("p", fake::config(), Defined::Rest, Target::Running).await.unwrap();
    }
    let world = scene.fake.world("p");
    assert_eq!(world.open_max.load(Relaxed), 1, "two at once");
    assert_eq!(world.lost(), None);
    scene.supervisor.set_target("p", Target::Stopped).await;
    scene.until("p", "stopped").await;
    assert_eq!(world.published.lock().unwrap().len() as u64, world.read.load(Relaxed), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_removed_pipeline_leaves_nothing_behind() {
    let scene = Scene::new(true);
    scene.put("p", Script::default()).await;
    scene.flows("p", 10).await;
    assert!(scene.supervisor.remove("p").await);
    let world = scene.fake.world("p");
    assert_eq!(world.open.load(Relaxed), 0);
    assert_eq!(*world.saved.lock().unwrap(), None, "its position is gone");
    assert!(scene.supervisor.names().is_empty() && scene.supervisor.statuses().is_empty());
    assert!(!scene.supervisor.remove("p").await);
}

/// Order: what was told last is what happens, however fast it was told.
#[tokio::test(start_paused = true)]
async fn the_last_of_many_orders_counts() {
    let scene = Scene::new(true);
    scene.put("p", Script::default()).await;
    for round in 0..50 {
        for target in [Target::Stopped, Target::Running, Target::Paused, Target::Stopped, Target::Paused] {
            scene.supervisor.set_target("p", target).await;
            if round % 3 == 0 {
                scene.supervisor.restart("p").await;
            }
            sleep(Duration::from_millis(round)).await;
        }
        let (last, state) = if round % 2 == 0 { (Target::Running, "streaming") } else { (Target::Stopped, "stopped") };
        scene.supervisor.set_target("p", last).await;
        scene.until("p", state).await;
    }
    let world = scene.fake.world("p");
    assert_eq!((world.open_max.load(Relaxed), world.lost()), (1, None));
}

/// A process for its own pipelines ends when none of them runs any more; the failure is its exit.
#[tokio::test(start_paused = true)]
async fn with_pipelines_of_its_own_the_process_ends_when_all_have_failed() {
    let scene = Scene::new(false);
    scene.put_as("a", Script { fatal_openings: 100, ..Script::default() }, Defined::File, Target::Running).await;
    let until_fatal = Script { fatal_after: Some(5000), ..Script::default() };
    scene.put_as("b", until_fatal, Defined::File, Target::Running).await;
    let failure = scene.supervisor.run_until_done().await.unwrap_err().to_string();
    assert!(failure.contains("permission denied") && failure.contains("what to do: grant it"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn with_pipelines_by_rest_the_process_stays_and_ends_drained_when_told() {
    let scene = Scene::new(false);
    scene.put_as("own", Script { fatal_openings: 100, ..Script::default() }, Defined::File, Target::Running).await;
    scene.put("posted", Script { fatal_openings: 3, ..Script::default() }).await;
    let (supervisor, running) = (scene.supervisor.clone(), scene.supervisor.clone());
    let running = tokio::spawn(async move { running.run_until_done().await });
    scene.until("posted", "streaming").await;
    assert!(!running.is_finished());
    assert!(supervisor.remove("own").await);
    scene.stop.cancel();
    timeout(Duration::from_secs(20), running).await.expect("it ends").unwrap().unwrap();
    let world = scene.fake.world("posted");
    assert_eq!(world.confirmed.load(Relaxed), world.read.load(Relaxed), "drained");
    let failure = supervisor.put("late", fake::config(), Defined::Rest, Target::Running).await.unwrap_err();
    assert!(failure.to_string().contains("stopping"));
}

/// What was defined before is started as it was left; what cannot be understood any more is shown, and takes nobody along.
#[tokio::test]
async fn definitions_are_restored_with_their_targets_and_a_bad_one_is_shown() {
    let scene = Scene::new(false);
    scene.put_as("own", Script::default(), Defined::File, Target::Running).await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    let targets = [
        ("a", Target::Running),
        ("b", Target::Paused),
        ("c", Target::Stopped),
        ("bad", Target::Running),
        ("own", Target::Stopped),
    ];
    for (name, target) in targets {
        store.save(name, &serde_json::Map::new(), target).await.unwrap();
    }
    let convert = |stored: &Stored| match stored.name.as_str() {
        "bad" => Err(Failure::fatal("post it again", "unknown setting")),
        _ => Ok(fake::config()),
    };
    scene.supervisor.restore(&store, convert).await.unwrap();
    for (name, state) in [("a", "streaming"), ("b", "paused"), ("c", "stopped"), ("own", "streaming")] {
        scene.until(name, state).await;
    }
    assert_eq!(scene.supervisor.names(), ["a", "b", "c", "own"]);
    let statuses = scene.supervisor.statuses();
    let bad = statuses.iter().find(|status| status.name == "bad").unwrap();
    assert!(
        matches!(bad.state(), State::Failed { error, hint } if error == "unknown setting" && hint == "post it again")
    );
    scene.put("bad", Script::default()).await;
    scene.until("bad", "streaming").await;
    std::fs::write(directory.path().join("connectors/a.json"), "torn").unwrap();
    let failure = scene.supervisor.restore(&store, convert).await.unwrap_err().to_string();
    assert!(failure.contains("a.json"), "{failure}");
}
