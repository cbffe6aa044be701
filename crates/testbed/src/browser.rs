//! A page in a real browser: Chromium without a screen, a fresh profile each time, no traffic of its own.

use crate::WorkDir;
use std::path::Path;
use std::process::{Command, Stdio};

const INSTALL: &str = "no Chromium; type: apt-get install -y --no-install-recommends chromium fonts-dejavu-core";

/// The page's document after all its loading, as HTML. Panics when the browser ends with an error.
pub fn dom(url: &str) -> String {
    run(&["--dump-dom", url]).0
}

/// As [`dom`], with what the page's console said: script errors, blocked resources. One line each.
pub fn dom_and_console(url: &str) -> (String, Vec<String>) {
    let (dom, said) = run(&["--enable-logging=stderr", "--dump-dom", url]);
    (dom, said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect())
}

/// A picture of the page in a window of this size, as PNG.
pub fn screenshot(url: &str, size: (u32, u32), dark: bool, to: &Path) {
    let (width, height) = size;
    let (size, to) = (format!("--window-size={width},{height}"), format!("--screenshot={}", to.display()));
    let mut arguments = vec!["--hide-scrollbars", &size, &to];
    // what `prefers-color-scheme` says
    arguments.push(if dark {
        "--blink-settings=preferredColorScheme=0"
    } else {
        "--blink-settings=preferredColorScheme=1"
    });
    arguments.push(url);
    run(&arguments);
}

/// What it wrote on both outputs.
fn run(arguments: &[&str]) -> (String, String) {
    let profile = WorkDir::new();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
        .args(arguments)
        .env("HOME", profile.path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("chromium: {error}; {INSTALL}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "chromium ended with {}:\n{said}", output.status);
    (String::from_utf8_lossy(&output.stdout).into_owned(), said)
}
