//! Waiting for states, and names nobody else uses.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Asks `probe` again and again until it answers `Some`, and returns that.
///
/// Panics when `limit` has passed, naming the caller's place. To see the last state in the panic, note it with
/// [`note`] inside the probe.
#[track_caller]
pub fn eventually<T, F, Fut>(limit: Duration, mut probe: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let answer = tokio::time::timeout(left.max(Duration::from_millis(50)), probe()).await;
            match answer {
                Ok(Some(value)) => return value,
                Ok(None) if start.elapsed() < limit => {}
                Ok(None) => panic!("not reached within {limit:?} at {place}{}", last_note()),
                Err(_) => panic!("the probe itself did not answer within {limit:?} at {place}{}", last_note()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
    }
}

thread_local! {
    static NOTE: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Remembers what was seen last, for the panic of [`eventually`] (per thread: exact on a current-thread runtime).
pub fn note(state: impl std::fmt::Debug) {
    NOTE.with_borrow_mut(|note| {
        note.clear();
        write!(note, "{state:?}").expect("writing to a string succeeds");
    });
}

fn last_note() -> String {
    NOTE.with_borrow(|note| if note.is_empty() { String::new() } else { format!("; last seen: {note}") })
}

/// A name that no other test of this run uses: `hint_<pid>_<n>`, lower case, usable for slots, databases and queues.
pub fn unique(hint: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let hint: String =
        hint.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(40).collect();
    format!("{hint}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
