//! Free TCP ports below the ephemeral range, so that no outgoing connection takes one between two starts of a server.

use rand::Rng;
use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port of 127.0.0.1 on which nothing listens. Another process may still take it: callers that start a server on it
/// try again with another one when the start fails.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("no panic while the lock is held");
    let taken = taken.get_or_insert_with(HashSet::new);
    for _ in 0..10_000 {
        let port = rand::rng().random_range(12_000..32_000);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free TCP port between 12000 and 32000 on 127.0.0.1")
}
