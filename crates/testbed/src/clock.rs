//! A wall clock that jumps: a library that is loaded before a program's own ones (`LD_PRELOAD`) and adds to the time of day
//! what a file says. The monotonic clock stays what it is, as on a machine whose time is set.
//!
//! For programs that ask the C library for the time, as PostgreSQL and Rust's standard library do. Needs `cc`.

use crate::WorkDir;
use crate::workdir::set_mode;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TESTBED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) ahead = at;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    if (at) *at = exact.tv_sec;
    return exact.tv_sec;
}
"#;

/// The clock of the programs that are started under it.
#[derive(Debug)]
pub struct Clock {
    file: std::fs::File,
    dir: WorkDir,
}

impl Clock {
    /// A clock that is right.
    pub fn new() -> Clock {
        let dir = WorkDir::new();
        let source = dir.path().join("clock.c");
        std::fs::write(&source, SOURCE).expect("the private directory is writable");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("clock.so")).arg(&source);
        let output =
            compile.output().unwrap_or_else(|error| panic!("cc: {error}; type: apt-get install gcc libc6-dev"));
        assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        let file = std::fs::File::create(dir.path().join("ahead")).expect("the private directory is writable");
        let clock = Clock { file, dir };
        clock.set(0);
        for name in ["clock.so", "ahead"] {
            set_mode(&clock.dir.path().join(name), 0o755);
        }
        clock
    }

    /// Jumps: from now on so many seconds ahead of the machine's clock, or behind it.
    pub fn set(&self, ahead_s: i64) {
        self.file.write_all_at(&ahead_s.to_ne_bytes(), 0).expect("the private directory is writable");
    }

    /// Variables that put a program under it.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.dir.path().join("clock.so")), ("TESTBED_CLOCK", self.dir.path().join("ahead"))]
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn programs_under_it_see_the_time_it_tells() {
        let clock = Clock::new();
        let asked = || -> Duration {
            let output = Command::new("date").arg("+%s").envs(clock.variables()).output().expect("date");
            Duration::from_secs(String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds"))
        };
        let now = || std::time::UNIX_EPOCH.elapsed().expect("a time after 1970");
        for ahead_s in [0, 7200, -7200] {
            clock.set(ahead_s);
            let off = asked().as_secs_f64() - now().as_secs_f64() - ahead_s as f64;
            assert!(off.abs() < 60.0, "{ahead_s} s ahead: {off} s off");
        }
    }
}
