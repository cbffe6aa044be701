//! Tells the service manager how it stands (sd_notify(3)): one datagram to the socket that `NOTIFY_SOCKET` names. Nothing
//! else of systemd's: no watchdog, no socket activation.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The process is up: pipelines are started, the HTTP port is open. A database that is away is no reason to be killed by a
/// start timeout; `/health/ready` tells it.
pub const READY: &str = "READY=1";
/// Draining.
pub const STOPPING: &str = "STOPPING=1";

/// Sends `state`, if somebody wants to know. A failure is logged and changes nothing.
pub fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, state)
    {
        tracing::warn!(%error, "tell the service manager");
    }
}

fn send(socket: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
