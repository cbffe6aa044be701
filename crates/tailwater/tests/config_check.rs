//! The command line around the configuration: exit codes, what goes to stdout and what to stderr, nothing secret.
#![allow(clippy::unwrap_used)] // a panic is a failed test

use std::path::Path;
use std::process::{Command, Output};

const FILE: &str = r#"
[pipelines.reports.source]
type = "postgres"
url = "postgres://relay:hidden-one@db/shop"
slot = "reports"
publication = "reports"
table = "outbox"

[pipelines.reports.sink]
type = "rabbitmq"
urls = ["amqp://guest:hidden-two@mq"]
exchange = "events"
topology.exchanges = [{ name = "events" }]
topology.queues = [
    { name = "report-service", dead_letter = { exchange = "events", routing_key = "report.dlq" } },
    { name = "report-service-dlq" },
]
topology.bindings = [{ exchange = "events", queue = "report-service", routing_key = "report.*" }]
"#;

fn tailwater(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.args(arguments).current_dir(folder).env_clear().output().unwrap()
}

fn check(file: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reports.toml"), file).unwrap();
    tailwater(folder.path(), &[&["check", "--config", "reports.toml"], arguments].concat())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The literal recipe: `report.*` takes `report.dlq` back.
#[test]
fn a_dead_letter_loop_is_found_with_exit_code_3() {
    let output = check(FILE, &[]);
    assert_eq!(output.status.code(), Some(3));
    let text = stdout(&output);
    assert!(text.contains("report-service") && text.contains("endless loop"), "{text}");
    let output = check(FILE, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["ok"]), (Some(3), &serde_json::json!(false)));
    assert_eq!(json["findings"][0]["key"], "pipelines.reports.sink.topology");
}

#[test]
fn a_configuration_in_order_is_shown_with_origins() {
    let mended =
        FILE.replace(r#"exchange = "events", routing_key = "report.dlq""#, r#"routing_key = "report-service-dlq""#);
    let output = check(&mended, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("[pipelines.reports.source]\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with("slot = ")).unwrap();
    assert!(line.starts_with("slot = \"reports\"") && line.ends_with("# reports.toml:5"), "{line}");
    let line = text.lines().find(|line| line.starts_with("window = ")).unwrap();
    assert!(line.ends_with("# default"), "{line}");
    assert!(text.contains("postgres://relay:***@db/shop") && text.contains("amqp://guest:***@mq"), "{text}");
    assert!(!text.contains('\x1b'), "no colours but on a terminal");
    assert!(stdout(&check(&mended, &["--color", "always"])).contains('\x1b'));
    assert!(stderr(&output).is_empty());
}

#[test]
fn a_wrong_configuration_is_exit_code_2_with_all_problems() {
    let wrong = FILE
        .replace("slot = \"reports\"", "slot = \"Reports\"")
        .replace("exchange = \"events\"\nt", "exhange = \"e\"\nt");
    let output = check(&wrong, &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
    assert!(stderr(&output).contains("reports.toml:12: unknown key `exhange`"), "{}", stderr(&output));
    let output = check(&FILE.replace("slot = \"reports\"", "slot = \"Reports\""), &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["ok"]), (Some(2), &serde_json::json!(false)));
    assert_eq!(json["problems"][0]["place"], "reports.toml:5");
}

#[test]
fn nothing_secret_is_printed() {
    for arguments in [&["--json"][..], &[], &["--set", "pipelines.reports.source.sslmode=odd"]] {
        let output = check(FILE, arguments);
        let all = stdout(&output) + &stderr(&output);
        assert!(!all.contains("hidden"), "{all}");
    }
}

#[test]
fn options_of_the_router_are_judged_offline() {
    for (wrong, place) in [
        ("outbox.topic_regex = \"(open\"", "route.outbox.topic_regex"),
        ("outbox.placement = \"type:heder\"", "route.outbox.placement"),
        ("only_topics = \"[\"", "route.only_topics"),
        ("outbox.key_column = \"\"", "route.outbox.key_column"),
    ] {
        let output = check(&format!("{FILE}\n[pipelines.reports.route]\n{wrong}\n"), &[]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(
            stderr(&output).contains(&format!("reports.toml:21: pipelines.reports.{place}")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn two_pipelines_do_not_share_a_slot() {
    let second = FILE.replace("pipelines.reports", "pipelines.others");
    let output = check(&format!("{FILE}{second}"), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("reads this slot already"), "{}", stderr(&output));
}

#[test]
fn flags_and_variables_have_the_last_word() {
    let output = check(FILE, &["--slot", "other", "--set", "pipelines.reports.delivery.window=7"]);
    let text = stdout(&output);
    assert!(text.lines().any(|l| l.starts_with("slot = \"other\"") && l.ends_with("# flag --slot")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("window = 7 ")), "{text}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| tailwater(folder.path(), arguments).status.code();
    assert_eq!(code(&["frobnicate"]), Some(2));
    assert_eq!(code(&["check", "--config", "absent.toml"]), Some(2));
    assert_eq!(code(&["check", "--log-level", "=="]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["--version"]), Some(0));
    let script = stdout(&tailwater(folder.path(), &["completions", "bash"]));
    assert!(script.contains("_tailwater()"));
}
