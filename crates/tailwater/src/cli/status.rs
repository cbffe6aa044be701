//! `tailwater status`: asks a running relay; where none answers, looks at the saved position and the slot itself.

use super::admin;
use super::{DONE, FAILED, FOUND, GlobalArgs};
use crate::config::{Config, HttpConfig};
use crate::control::report::{PipelineReport, Report, StateReport};
use crate::housekeeping::absent;
use crate::supervisor::store::{Store, Stored};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// A relay that does not answer within this is as good as none.
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default, clap::Args)]
pub struct StatusArgs {
    /// Only this pipeline [default: all]
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
}

/// Exit code 0: all deliver (or stand by); 3: one does not; 1: nobody can tell; 2: wrong usage.
pub fn run(args: &StatusArgs, global: &GlobalArgs) -> ExitCode {
    admin::with_config(global, async |loaded| status(&loaded.config, args.pipeline.as_deref(), global.json).await)
}

async fn status(config: &Config, only: Option<&str>, json: bool) -> u8 {
    let (running, unheard) = match ask(&config.http).await {
        Ok(report) => (report, None),
        Err(why) => (Report::default(), Some(why)),
    };
    let (reports, mut code) = match all(config, &running, only).await {
        Ok(all) => all,
        Err(why) => return admin::wrong_usage(&why),
    };
    if code == DONE && reports.iter().any(|report| !report.ready) {
        code = FOUND;
    }
    if json {
        let report = Report { pipelines: reports, ..running };
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is serializable"));
    } else {
        match unheard {
            Some(why) => {
                eprintln!("no relay answers here ({why}); this is what the state directory and the database say:");
            }
            None if reports.is_empty() => eprintln!("the relay runs and has no pipelines yet"),
            None => {}
        }
        print!("{}", reports.iter().map(text).collect::<Vec<_>>().join("\n"));
    }
    code
}

/// Every pipeline: those that run, also those that the configuration does not know, and those of the configuration that do
/// not run here. With the exit code so far. Error: there is none of the name asked for.
async fn all(config: &Config, running: &Report, only: Option<&str>) -> Result<(Vec<PipelineReport>, u8), String> {
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let mut reports: Vec<_> = running.pipelines.iter().filter(|report| wanted(&report.name)).cloned().collect();
    let mut code = DONE;
    let absent =
        config.pipelines.iter().filter(|(name, _)| running.pipelines.iter().all(|report| report.name != **name));
    for (name, pipeline) in absent.filter(|(name, _)| wanted(name)) {
        match absent::look(config, name, pipeline).await {
            Ok(report) => reports.push(report),
            Err(failure) => {
                eprintln!("tailwater: pipeline {name}: {failure}");
                code = FAILED;
            }
        }
    }
    match Store::new(&config.state_dir).load_all().await {
        Ok(stored) => {
            let known: Vec<String> = reports.iter().map(|report| report.name.clone()).collect();
            let absent = stored.iter().filter(|stored| wanted(&stored.name) && !known.contains(&stored.name));
            reports.extend(absent.map(posted));
        }
        Err(failure) => {
            eprintln!("tailwater: {failure}");
            code = FAILED;
        }
    }
    if let (Some(only), true) = (only, reports.is_empty() && code == DONE) {
        let known: Vec<&str> = running.pipelines.iter().map(|report| report.name.as_str()).collect();
        let known = known.into_iter().chain(config.pipelines.keys().map(String::as_str));
        let known = std::collections::BTreeSet::from_iter(known).into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("there is no pipeline {only}; there are: {known}"));
    }
    reports.sort_by(|left, right| left.name.cmp(&right.name));
    Ok((reports, code))
}

/// A connector that was defined over REST, while no relay answers.
fn posted(stored: &Stored) -> PipelineReport {
    let target = format!("{:?}", stored.target).to_lowercase();
    let state = StateReport {
        state: absent::NOT_RUNNING.into(),
        reason: Some(format!("defined over REST, to be {target}")),
        hint: Some("tailwater run".into()),
        ..StateReport::default()
    };
    PipelineReport { name: stored.name.clone(), state, ..PipelineReport::default() }
}

/// What a running relay says of itself, or why none does.
async fn ask(http: &HttpConfig) -> Result<Report, String> {
    let listen = http.listen.ok_or("`http.listen` is empty")?;
    let asked = tokio::time::timeout(LIMIT, get(reachable(listen), http)).await;
    asked.unwrap_or_else(|_| Err(format!("{listen} does not answer within {} s", LIMIT.as_secs())))
}

async fn get(address: SocketAddr, http: &HttpConfig) -> Result<Report, String> {
    let said = |error: &dyn std::error::Error| format!("{address}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|error| said(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| said(&error))?;
    let driving = tokio::spawn(connection);
    let mut request = Request::get("/api/v1/status").header(header::HOST, address.to_string());
    if let Some(token) = &http.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| "http.token is no text for a header".to_owned())?;
    let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| said(&error))?.to_bytes();
    driving.abort();
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|_| format!("{address} is not a relay")),
        StatusCode::UNAUTHORIZED => Err(format!("{address} wants the http.token of its own configuration")),
        other => Err(format!("{address} answers {other}")),
    }
}

/// An address that listens everywhere is reached at home.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let home = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(home, listen.port())
}

fn text(report: &PipelineReport) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "  {label:<12}{value}");
    };
    let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".into());
    let lag = report.lag_bytes.map_or_else(|| "unknown".into(), |bytes| format!("{bytes} bytes of log"));
    let running = !matches!(report.state.state.as_str(), absent::NOT_RUNNING | absent::ELSEWHERE);
    let oldest = if running { format!(", oldest open event {:.1} s", report.lag_seconds) } else { String::new() };
    let lsn = &report.lsn;
    // a table that is polled has no places in the log
    if lsn.saved.as_ref().is_none_or(|saved| !saved.starts_with("poll ")) {
        line("lag", format!("{lag}{oldest}"));
        line("log", format!("server {}, received {}", or_unknown(&lsn.server), or_unknown(&lsn.received)));
        line("confirmed", or_unknown(&lsn.confirmed));
    }
    line("saved", lsn.saved.clone().unwrap_or_else(|| "nothing yet".into()));
    if running {
        let c = &report.counts;
        line("in flight", format!("{} messages, {} bytes", report.in_flight_messages, report.in_flight_bytes));
        line(
            "since start",
            format!(
                "received {}, filtered {}, published {}, sent again {}, rejected {}, dead letters {}",
                c.received, c.filtered, c.published, c.resent, c.rejected, c.dead_lettered
            ),
        );
    }
    if let Some(holder) = &report.state.holder {
        line("held by", holder.clone());
    }
    if let Some(event) = &report.state.event {
        line("stuck at", format!("event {event}, topic {}", report.state.topic.as_deref().unwrap_or("?")));
    }
    if let Some(reason) = &report.state.reason {
        line("reason", reason.clone());
    }
    for obstacle in report.obstacles.iter().filter(|o| report.state.reason.as_ref().is_none_or(|r| !o.contains(r))) {
        line("not ready", obstacle.clone());
    }
    if let Some(hint) = &report.state.hint {
        line("what to do", hint.clone());
    }
    if let Some(notice) = &report.notice {
        line("notice", notice.clone());
    }
    if let Some(seconds) = report.retry_in_seconds {
        line("tried again", format!("by itself in {seconds} s"));
    }
    let ready = if report.ready { "ready" } else { "not ready" };
    format!("{}: {}, {ready}\n{out}", report.name, report.state.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_what_is_wrong_and_what_to_do() {
        let held = PipelineReport {
            name: "main".into(),
            state: StateReport {
                state: "held".into(),
                event: Some("17".into()),
                topic: Some("order.new".into()),
                reason: Some("no queue is bound".into()),
                hint: Some("bind a queue".into()),
                ..StateReport::default()
            },
            obstacles: vec!["held at event 17: no queue is bound".into()],
            lag_bytes: Some(12),
            ..PipelineReport::default()
        };
        let text = text(&held);
        assert!(text.starts_with("main: held, not ready\n"), "{text}");
        for part in ["12 bytes of log", "event 17, topic order.new", "no queue is bound", "bind a queue"] {
            assert_eq!(text.matches(part).count(), 1, "{part} in\n{text}");
        }
    }

    #[test]
    fn a_port_open_to_all_is_asked_at_home() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
