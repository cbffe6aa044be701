//! A measured child process: CPU time and peak memory as the kernel counts them.

use std::process::{Child, Command};

pub struct Measured {
    child: Child,
}

impl Measured {
    pub fn spawn(command: &mut Command) -> Result<Self, String> {
        command.spawn().map(|child| Measured { child }).map_err(|error| format!("run {command:?}: {error}"))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// User and system time so far, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Peak resident memory, MiB (`VmHWM`).
    pub fn peak_mib(&self) -> f64 {
        self.status("VmHWM:") / 1024.0
    }

    /// Resident memory now, MiB (`VmRSS`).
    pub fn resident_mib(&self) -> f64 {
        self.status("VmRSS:") / 1024.0
    }

    pub fn threads(&self) -> u32 {
        self.status("Threads:") as u32
    }

    /// A number of `/proc/PID/status`; 0 when the process is gone.
    fn status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
    }
}

/// User and system time so far of any process, seconds (`/proc/PID/stat`, fields 14 and 15).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

impl Drop for Measured {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
