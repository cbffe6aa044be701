//! `--from postgres://… --to amqp://…|kafka://…|stdout`: a pipeline without a file.

use super::origin::{Notice, Origin, Problem};
use super::settings::Settings;

/// Name of the pipeline that comes from flags or from a properties file.
pub const PIPELINE: &str = "outbox";

/// What the command line says. A value from an environment variable is named by that variable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    pub from: Option<(String, Origin)>,
    pub to: Option<(String, Origin)>,
    pub table: Option<String>,
    pub slot: Option<String>,
    pub publication: Option<String>,
    pub exchange: Option<String>,
    pub state_dir: Option<String>,
    /// `--set path=value`, in order.
    pub set: Vec<String>,
}

/// Makes the pipeline of `--from/--to`.
pub fn pipeline(flags: &Flags, settings: &mut Settings, notices: &mut Vec<Notice>) -> Vec<Problem> {
    let (Some((from, from_origin)), Some((to, to_origin))) = (&flags.from, &flags.to) else {
        let missing = if flags.from.is_none() {
            "--from postgres://…"
        } else {
            "--to amqp://…, --to kafka://host:9092 or --to stdout"
        };
        return vec![Problem::new(format!("--from and --to belong together: add {missing}"))];
    };
    let at = |part: &str| format!("pipelines.{PIPELINE}.{part}");
    let mut problems = Vec::new();
    if from.starts_with("postgres://") || from.starts_with("postgresql://") {
        settings.set_value(&at("source.type"), "postgres", from_origin.clone());
        settings.set_value(&at("source.url"), from.as_str(), from_origin.clone());
    } else {
        problems.push(Problem::at(from_origin, "write postgres://user@host:5432/database"));
    }
    let exchange = match to.as_str() {
        "stdout" | "-" => {
            settings.set_value(&at("sink.type"), "stdout", to_origin.clone());
            false
        }
        url if url.starts_with("amqp://") || url.starts_with("amqps://") => {
            settings.set_value(&at("sink.type"), "rabbitmq", to_origin.clone());
            settings.set_value(&at("sink.urls"), vec![url], to_origin.clone());
            true
        }
        url if url.starts_with("kafka://") => {
            let servers = url["kafka://".len()..].trim_end_matches('/');
            if servers.contains('@') {
                let text =
                    "log-in does not go into this URL: --set pipelines.outbox.sink.username=…, and …sink.password_file";
                problems.push(Problem::at(to_origin, text));
            }
            let servers: Vec<&str> = servers.split(',').filter(|server| !server.is_empty()).collect();
            settings.set_value(&at("sink.type"), "kafka", to_origin.clone());
            settings.set_value(&at("sink.bootstrap_servers"), servers, to_origin.clone());
            false
        }
        _ => {
            let text = "write amqp://user@host:5672/vhost, amqps://…, kafka://host:9092,… or stdout";
            problems.push(Problem::at(to_origin, text));
            false
        }
    };
    for name in ["slot", "publication", "table"] {
        settings.set_value(&at(&format!("source.{name}")), "outbox", Origin::Chosen("the default of --from"));
    }
    // Without a file nobody is a Debezium consumer yet: JSON goes out as JSON, not as a quoted text.
    settings.set_value(&at("route.outbox.expand_json"), true, Origin::Chosen("the default of --from"));
    if exchange {
        settings.set_value(&at("sink.exchange"), "events", Origin::Chosen("the default of --to"));
    }
    for (flag, url, origin) in [("--from", from, from_origin), ("--to", to, to_origin)] {
        if matches!(origin, Origin::Flag(_)) && has_password(url) {
            let instead = if flag == "--from" { "PGPASSWORD or TAILWATER_FROM" } else { "TAILWATER_TO" };
            notices.push(Notice {
                key: flag.into(),
                text: format!("the password is visible in the list of processes: put it in {instead}"),
            });
        }
    }
    problems
}

/// The single flags, over every other front end, for the only pipeline there is.
pub fn apply(flags: &Flags, settings: &mut Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(dir) = &flags.state_dir {
        settings.set_value("state_dir", dir.as_str(), Origin::Flag("--state-dir".into()));
    }
    let single = [
        ("--table", "source.table", &flags.table),
        ("--slot", "source.slot", &flags.slot),
        ("--publication", "source.publication", &flags.publication),
        ("--exchange", "sink.exchange", &flags.exchange),
    ];
    for (flag, part, value) in single {
        let Some(value) = value else { continue };
        let names = settings.pipelines();
        match names.as_slice() {
            [name] => {
                let path = format!("pipelines.{name}.{part}");
                settings.set_value(&path, value.as_str(), Origin::Flag(flag.into()));
            }
            _ => problems.push(Problem::new(format!("{flag} is for one pipeline, the file has {}", names.len()))),
        }
    }
    for set in &flags.set {
        match set.split_once('=') {
            Some((key, value)) => {
                let path = super::settings::path(key.trim());
                settings.set_text(path, value, Origin::Flag(format!("--set {}", key.trim())));
            }
            None => problems.push(Problem::new(format!("--set {set}: write --set key=value"))),
        }
    }
    problems
}

/// Whether a URL carries a password, in its authority or its parameters.
pub fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let in_user =
        authority.rsplit_once('@').is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, p)| !p.is_empty()));
    in_user || rest.contains("?password=") || rest.contains("&password=")
}
