//! A private directory with a short path that disappears with its owner, together with every process noted in it.
//!
//! `/tmp/tailwater-test-<pid>-<n>` (a socket path has 107 bytes at most). Three ways to clean up: `Drop`; a guard process
//! that waits for the end of its owner on a pipe; and a sweep at the next start for what a `kill -9` of both left behind:
//! a directory whose lock nobody holds any more.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const BASE: &str = "/tmp";
const PREFIX: &str = "tailwater-test-";
const LOCK: &str = "owner.lock";

/// A directory of this process; removed on drop.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// Held while the owner lives, however it ends.
    _lock: File,
}

impl WorkDir {
    /// Creates an empty directory, readable by everybody (servers run as another user).
    pub fn new() -> WorkDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        guard();
        let path =
            Path::new(BASE).join(format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        set_mode(&path, 0o755);
        let lock = lock(&path).unwrap_or_else(|error| panic!("cannot lock {}: {error}", path.display()));
        WorkDir { path, _lock: lock }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A subdirectory that belongs to `owner` (uid, gid) if given.
    pub fn subdir(&self, name: &str, owner: Option<(u32, u32)>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        chown(&path, owner);
        path
    }

    /// Notes a process that must not outlive this directory (`<name>.guard` holds its pid).
    pub(crate) fn note_process(&self, name: &str, pid: u32) {
        // Failing to note it only weakens the last of three safety nets.
        let _ = std::fs::write(self.path.join(format!("{name}.guard")), pid.to_string());
    }

    /// Forgets a noted process that has ended.
    pub(crate) fn forget_process(&self, name: &str) {
        let _ = std::fs::remove_file(self.path.join(format!("{name}.guard")));
    }
}

impl Default for WorkDir {
    fn default() -> Self {
        WorkDir::new()
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The lock appears only once it is held: a sweep never sees a free one of a living owner.
fn lock(path: &Path) -> std::io::Result<File> {
    let preparing = path.join("preparing.lock");
    let file = File::create(&preparing)?;
    file.lock()?;
    std::fs::rename(&preparing, path.join(LOCK))?;
    Ok(file)
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("cannot change the mode of {}: {error}", path.display()));
}

pub(crate) fn chown(path: &Path, owner: Option<(u32, u32)>) {
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("cannot give {} to uid {uid}: {error}", path.display()));
    }
}

/// What the guard and the sweep do with one directory: end what is noted in it, then remove it.
const CLEAN: &str = r#"clean() {
  for f in "$1"/*.guard; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done
  sleep 0.2; rm -rf "$1" || { sleep 1; rm -rf "$1"; }
}"#;

/// Starts, once, a process of its own session that ends everything when this process is gone, however it ended: the
/// pipe on its standard input then closes.
fn guard() {
    static GUARD: OnceLock<Child> = OnceLock::new();
    GUARD.get_or_init(|| {
        let script = format!("{CLEAN}\ntrap '' INT TERM HUP; cat >/dev/null; for d in {BASE}/{PREFIX}$1-*; do [ -d \"$d\" ] && clean \"$d\"; done; true");
        Command::new("/bin/sh")
            .args(["-c", &script, "testbed-guard", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts")
    });
}

/// Removes directories whose owner is gone: their lock is free.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(BASE) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let script = format!("{CLEAN}\nclean \"$1\"");
            let mut clean = Command::new("/bin/sh");
            clean.args(["-c", &script, "testbed-sweep"]).arg(entry.path()).stdout(Stdio::null()).stderr(Stdio::null());
            // What another user left is that user's to remove.
            let _ = clean.status();
        }
    }
}
