//! `examples/orders`: the configuration files as they are, also with the environment that `compose.yaml` gives them.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::process::Command;

const COMPOSE: &str = include_str!("../../../examples/orders/compose.yaml");

/// `TAILWATER_…: value` of one service in the compose file.
fn environment(service: &str) -> Vec<(&'static str, &'static str)> {
    let (_, rest) = COMPOSE.split_once(&format!("\n  {service}:")).unwrap();
    let block = rest.split("\n\n").next().unwrap();
    let pairs = block.lines().filter_map(|line| line.trim().split_once(": "));
    pairs.filter(|(name, _)| name.starts_with("TAILWATER_")).collect()
}

fn check(file: &str, variables: &[(&str, &str)]) -> String {
    let path = format!("{}/../../examples/orders/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut check = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    let output = check.args(["check", "--config", &path]).envs(variables.iter().copied()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{file}: {said}");
    assert!(!said.contains("is ignored"), "{file}: {said}");
    said
}

#[test]
fn the_files_are_in_order_as_they_are() {
    for file in ["pollers.toml", "connect.toml"] {
        check(file, &[]);
    }
}

#[test]
fn in_containers_every_host_is_another_one_and_no_variable_is_ignored() {
    for (service, file, hosts) in [("poller-1", "pollers.toml", 2), ("connect", "connect.toml", 0)] {
        let variables = environment(service);
        assert!(variables.len() >= 3, "{service}: {variables:?}");
        let said = check(file, &variables);
        assert!(said.contains("bootstrap_servers = [\"kafka:9092\"]"), "{service}: {said}");
        assert_eq!(said.matches("host = \"postgres\"").count(), hosts, "{service}: {said}");
        assert!(!said.contains("localhost"), "{service}: {said}");
    }
}
