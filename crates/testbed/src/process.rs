//! Child processes that end with this one, started from one long-lived thread.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends (prctl(2)), and test threads end early: hence the thread.

use crate::workdir::WorkDir;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

type Job = (Command, Sender<std::io::Result<Child>>);

/// Starts `command`; the child gets `death_signal` when this process ends.
#[allow(unsafe_code)] // pre_exec and prctl have no safe form in the standard library
pub(crate) fn spawn(mut command: Command, death_signal: i32) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("testbed-spawner".into())
            .spawn(move || {
                for (mut command, answer) in jobs {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    // SAFETY: prctl is async-signal-safe and touches no memory of ours. It runs after setuid, which would reset it.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, death_signal) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let (answer, result) = channel();
    spawner.lock().expect("no panic while held").send((command, answer)).expect("the spawner lives for ever");
    result.recv().expect("the spawner answers every job")
}

/// Sends a signal; false if there is no such process.
#[allow(unsafe_code)] // kill(2)
pub(crate) fn signal(pid: u32, signal: i32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    // SAFETY: kill takes no pointers.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// A server process, noted in its directory while it lives.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    dir: Arc<WorkDir>,
    pid: u32,
    child: Mutex<Child>,
}

impl Server {
    pub(crate) fn spawn(
        name: &'static str,
        dir: Arc<WorkDir>,
        command: Command,
        death_signal: i32,
    ) -> std::io::Result<Self> {
        let child = spawn(command, death_signal)?;
        let pid = child.id();
        dir.note_process(name, pid);
        Ok(Server { name, dir, pid, child: Mutex::new(child) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        let status =
            self.child.lock().expect("no panic while held").try_wait().expect("our own child can be waited for");
        if status.is_some() {
            self.dir.forget_process(self.name);
        }
        status
    }

    /// Sends a signal unless it has ended.
    pub(crate) fn signal(&self, number: i32) {
        if self.ended().is_none() {
            signal(self.pid, number);
        }
    }

    /// Waits until it has ended; `None` when `limit` has passed.
    pub(crate) async fn wait(&self, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while self.ended().is_none() {
            if start.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(start.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        self.signal(libc::SIGCONT);
        let _ = self.child.lock().map(|mut child| child.wait());
        self.dir.forget_process(self.name);
    }
}

/// The user this process acts as.
#[allow(unsafe_code)] // geteuid(2)
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
