//! A program under test as a child process: its lines, its signals, its end.

use crate::process::{self, signal};
use crate::wait::eventually;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Lines = Arc<Mutex<Vec<String>>>;

/// A running program; killed on drop and with this process.
#[derive(Debug)]
pub struct Child {
    inner: Mutex<std::process::Child>,
    pid: u32,
    stdout: Lines,
    stderr: Lines,
    /// Threads that still read its outputs.
    readers: [std::thread::JoinHandle<()>; 2],
}

/// The relay's program, as cargo built it beside this test. In the relay's own tests prefer
/// `env!("CARGO_BIN_EXE_tailwater")`, which also builds it. `TAILWATER_BINARY` names another one.
pub fn tailwater_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TAILWATER_BINARY") {
        return path.into();
    }
    let exe = std::env::current_exe().expect("a program knows its own path");
    let found = exe.ancestors().skip(1).take(3).map(|dir| dir.join("tailwater")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no tailwater program beside {}; type: cargo build -p tailwater", exe.display()))
}

impl Child {
    /// Starts it with both outputs collected, line by line.
    pub fn start(command: Command) -> Child {
        Child::start_as(command, None)
    }

    /// As [`Child::start`], for programs that run long: all lines also go to the end of the file `log`, and only the last
    /// ones are kept here.
    pub fn start_logged(command: Command, log: &Path) -> Child {
        Child::start_as(command, Some(log))
    }

    fn start_as(mut command: Command, log: Option<&Path>) -> Child {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut inner = process::spawn(command, libc::SIGKILL).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let (stdout, reader) = collect(inner.stdout.take().expect("piped"), log);
        let (stderr, error_reader) = collect(inner.stderr.take().expect("piped"), log);
        Child { pid: inner.id(), inner: Mutex::new(inner), stdout, stderr, readers: [reader, error_reader] }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `kill -9`, and waits for the end.
    pub fn kill9(&self) {
        self.signal(libc::SIGKILL);
        let _ = self.lock().wait();
    }

    /// SIGTERM.
    pub fn term(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Any signal; nothing happens if it has ended.
    pub fn signal(&self, number: i32) {
        if self.ended().is_none() {
            signal(self.pid, number);
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock().try_wait().expect("our own child can be waited for")
    }

    /// Waits for its end; panics with its last lines after `limit`.
    pub async fn wait(&self, limit: Duration) -> ExitStatus {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.heard().await;
                return status;
            }
            assert!(start.elapsed() < limit, "still runs after {limit:?}; it said:\n{}", tail(&self.stderr()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until its last words are collected; not for ever, since a child of its own may hold the pipe.
    async fn heard(&self) {
        for _ in 0..200 {
            if self.readers.iter().all(std::thread::JoinHandle::is_finished) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a line with `text` on either output and returns it; panics with the last lines after `limit`.
    pub async fn wait_for(&self, text: &str, limit: Duration) -> String {
        let find = || self.stderr().into_iter().chain(self.stdout()).find(|line| line.contains(text));
        let seen = tokio::time::timeout(limit, eventually(limit * 2, || async { find() })).await;
        seen.unwrap_or_else(|_| panic!("no line with {text:?} within {limit:?}; it said:\n{}", tail(&self.stderr())))
    }

    /// Lines on standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("no panic while held").clone()
    }

    /// Lines on standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("no panic while held").clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, std::process::Child> {
        self.inner.lock().expect("no panic while held")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut child = self.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn tail(lines: &[String]) -> String {
    lines.get(lines.len().saturating_sub(40)..).unwrap_or(lines).join("\n")
}

/// Lines kept of a program whose lines go to a file.
const KEPT: usize = 200;

fn collect(output: impl Read + Send + 'static, log: Option<&Path>) -> (Lines, std::thread::JoinHandle<()>) {
    let lines = Lines::default();
    let sink = lines.clone();
    let mut log = log.map(|path| {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()))
    });
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let mut sink = sink.lock().expect("no panic while held");
            sink.push(String::from_utf8_lossy(&line).into_owned());
            if let Some(file) = &mut log {
                // a full disk loses lines of a log, nothing else
                let _ = file.write_all(&[line.as_slice(), b"\n"].concat());
                let more = sink.len().saturating_sub(KEPT);
                sink.drain(..more);
            }
        }
    });
    (lines, reader)
}

/// A Python interpreter that has the example worker's packages: the one in PATH, else the system's.
pub fn python() -> PathBuf {
    let works = |path: &PathBuf| {
        let output = Command::new(path).args(["-c", "import pika, psycopg2"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().map(PathBuf::from).find(works);
    found.unwrap_or_else(|| {
        panic!("no Python with pika and psycopg2; type: apt-get install -y python3-pika python3-psycopg2")
    })
}
