//! The relay under a service manager: packaging/tailwater.service says `Type=notify`.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;
use testbed::{Child, WorkDir};

fn next(socket: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let length = socket.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// Also while the database is away: a start timeout must not kill what would only have to wait.
#[tokio::test]
async fn the_service_manager_is_told_when_the_relay_is_up_and_when_it_stops() {
    let dir = WorkDir::new();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.args(["run", "--from", "postgres://nobody@127.0.0.1:1/none", "--to", "stdout"]);
    command.args(["--set", &format!("http.listen=127.0.0.1:{}", testbed::free_port())]);
    command.arg("--state-dir").arg(dir.path().join("state")).env("NOTIFY_SOCKET", &path);
    let relay = Child::start(command);
    assert_eq!(next(&socket), "READY=1");
    relay.term();
    assert_eq!(next(&socket), "STOPPING=1");
    let status = relay.wait(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {:?}", relay.stderr());
}
