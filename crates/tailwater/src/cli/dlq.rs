//! `tailwater dlq`: dead letters of a RabbitMQ queue or a Kafka topic, for people.

mod place;
mod print;

use super::{DONE, FAILED, FOUND, GlobalArgs};
use crate::config::duration;
use crate::dlq::filter::Filter;
use crate::dlq::{Decision, Letter, Redirect};
use bytes::Bytes;
use clap::{Args, Subcommand};
use place::PlaceArgs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tailwater_core::Failure;

#[derive(Clone, Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    pub command: DlqCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub enum DlqCommand {
    /// Count by reason, and the letters one by one; never a payload
    #[command(
        after_help = "Example:\n  tailwater dlq list --config orders.toml --older-than 1d --json | jq '.reasons'"
    )]
    List {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Letters to name one by one; all are counted
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: usize,
    },
    /// Headers and body of one letter
    #[command(after_help = "Example:\n  tailwater dlq show 0199c0de-… --config orders.toml > letter.txt")]
    Show {
        #[command(flatten)]
        place: PlaceArgs,
        /// Message id, or place as `list` names it
        id: String,
        /// The body alone, byte for byte, on stdout
        #[arg(long)]
        body_only: bool,
    },
    /// Publish letters to where they came from, with confirms; then remove them
    #[command(
        after_help = "Example:\n  tailwater dlq replay --id 0199c0de-… --body mended.json --config orders.toml\n  tailwater dlq replay --all --rate 50/s --inbox-retention 14d --config orders.toml"
    )]
    Replay(ReplayArgs),
    /// Remove letters for good
    #[command(after_help = "Example:\n  tailwater dlq purge --older-than 30d --config orders.toml --yes")]
    Purge {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Every letter that is there now
        #[arg(long)]
        all: bool,
        /// Count, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Do it: what was removed is gone
        #[arg(long)]
        yes: bool,
    },
}

/// Which letters; all conditions must hold.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Message id, or place as `list` names it; repeatable
    #[arg(long, value_name = "ID", help_heading = "Which letters")]
    pub id: Vec<String>,
    /// Part of the reason
    #[arg(long, value_name = "TEXT", help_heading = "Which letters")]
    pub reason: Option<String>,
    /// Event type
    #[arg(long = "type", value_name = "TYPE", help_heading = "Which letters")]
    pub event_type: Option<String>,
    /// Kafka: the record's key; RabbitMQ: the routing key it had at first
    #[arg(long, value_name = "KEY", help_heading = "Which letters")]
    pub key: Option<String>,
    /// Dead for longer than this, such as 2h or 7d
    #[arg(long, value_name = "AGE", value_parser = duration::parse, help_heading = "Which letters")]
    pub older_than: Option<Duration>,
    /// Dead for at most this long
    #[arg(long, value_name = "AGE", value_parser = duration::parse, help_heading = "Which letters")]
    pub newer_than: Option<Duration>,
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            ids: self.id.clone(),
            reason: self.reason.clone(),
            event_type: self.event_type.clone(),
            key: self.key.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every letter that is there now
    #[arg(long)]
    all: bool,
    /// The mended body, instead of its own; with --id. `-`: standard input
    #[arg(long, value_name = "FILE", requires = "id")]
    body: Option<PathBuf>,
    /// At most so many a second, such as 50/s or 10/m
    #[arg(long, value_name = "RATE", value_parser = pause)]
    rate: Option<Duration>,
    /// How long the consumers' inbox keeps its markers: what is older is not replayed, since it might have its effect twice
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    inbox_retention: Option<Duration>,
    /// RabbitMQ: to the queue it was rejected from, not to the others that are bound to its exchange
    #[arg(long, conflicts_with = "routing_key")]
    only_queue: bool,
    /// RabbitMQ: another routing key (another exchange: --exchange)
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,
    /// Kafka: another topic
    #[arg(long, value_name = "TOPIC")]
    to_topic: Option<String>,
    /// Also what is older than the inbox's markers, incomplete, or not JSON although it says so
    #[arg(long)]
    force: bool,
    /// Say what would be replayed, and replay nothing
    #[arg(long)]
    dry_run: bool,
}

/// Exit code 0: done; 1: failed, or some could not be replayed; 2: wrong usage; 3: `show` found none.
pub fn run(args: &DlqArgs, global: &GlobalArgs) -> ExitCode {
    let place = match &args.command {
        DlqCommand::List { place, .. } | DlqCommand::Show { place, .. } | DlqCommand::Purge { place, .. } => place,
        DlqCommand::Replay(args) => &args.place,
    };
    let opening = match place.resolve(global) {
        Ok(opening) => opening,
        Err(place::Refusal::Config(error)) => return super::refuse(global, &error),
        Err(place::Refusal::Usage(why)) => return ExitCode::from(super::admin::wrong_usage(&why)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tailwater: start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(async {
        let done = match &args.command {
            DlqCommand::List { filter, limit, .. } => list(&opening, &filter.filter(), *limit, global).await,
            DlqCommand::Show { id, body_only, .. } => show(&opening, id, *body_only, global).await,
            DlqCommand::Replay(args) => replay(&opening, args, global).await,
            DlqCommand::Purge { filter, all, dry_run, yes, .. } => {
                purge(&opening, &filter.filter(), *all, *dry_run, *yes, global).await
            }
        };
        done.unwrap_or_else(|failure| {
            eprintln!("tailwater: {failure}");
            FAILED
        })
    });
    ExitCode::from(code)
}

async fn list(opening: &place::Opening, filter: &Filter, limit: usize, global: &GlobalArgs) -> Result<u8, Failure> {
    let mut letters = opening.open().await?;
    let (now, mut found) = (now_s(), Vec::new());
    let mut look = |letter: &Letter| {
        if filter.matches(letter, now) {
            found.push(print::Line::of(letter, now));
        }
        Decision::Leave
    };
    let outcome = letters.each(&mut look, &Redirect::default(), None).await?;
    print::list(&letters.name(), &outcome, &found, limit, global.json);
    Ok(DONE)
}

async fn show(opening: &place::Opening, id: &str, body_only: bool, global: &GlobalArgs) -> Result<u8, Failure> {
    let mut letters = opening.open().await?;
    let filter = Filter { ids: vec![id.to_owned()], ..Filter::default() };
    let (now, mut found) = (now_s(), Vec::new());
    let mut look = |letter: &Letter| {
        if filter.matches(letter, now) {
            found.push(letter.clone());
        }
        Decision::Leave
    };
    let outcome = letters.each(&mut look, &Redirect::default(), None).await?;
    print::notes(&outcome);
    if found.is_empty() {
        eprintln!("tailwater: none of the {} letters of {} has the id {id}", outcome.seen, letters.name());
        return Ok(FOUND);
    }
    print::letters(&found, body_only, global.json, now);
    Ok(DONE)
}

async fn replay(opening: &place::Opening, args: &ReplayArgs, global: &GlobalArgs) -> Result<u8, Failure> {
    let filter = args.filter.filter();
    if filter.is_empty() != args.all {
        return Ok(super::admin::wrong_usage(
            "say which letters: --id, --reason, --type, --key, an age; or --all, and no other",
        ));
    }
    let body = match args.body.as_deref().map(read_body).transpose() {
        Ok(body) => body,
        Err(why) => return Ok(super::admin::wrong_usage(&why)),
    };
    let redirect = Redirect {
        only_queue: args.only_queue,
        exchange: global.exchange.clone(),
        routing_key: args.routing_key.clone(),
        topic: args.to_topic.clone(),
    };
    let mut letters = opening.open().await?;
    let (now, stop) = (now_s(), stop_on_interrupt());
    let (mut chosen, mut oldest, mut refused) = (Vec::new(), None, Vec::new());
    let mut decide = |letter: &Letter| {
        if stop.load(Relaxed) || !filter.matches(letter, now) {
            return Decision::Leave;
        }
        if let Some(why) = objection(args, letter, body.as_ref(), now) {
            refused.push((letter.id().to_owned(), why));
            return Decision::Leave;
        }
        oldest = oldest.max(letter.age_of_first_delivery(now));
        chosen.push(print::Line::of(letter, now));
        if args.dry_run { Decision::Leave } else { Decision::Replay { body: body.clone() } }
    };
    let mut outcome = letters.each(&mut decide, &redirect, args.rate).await?;
    outcome.kept.extend(refused);
    if args.inbox_retention.is_none() && oldest > Some(Duration::from_secs(24 * 3600)) {
        outcome.notes.push(format!(
            "the oldest letter is {} old: an inbox that has forgotten it takes it for new. With --inbox-retention AGE such \
             letters are left alone",
            print::age(oldest)
        ));
    }
    if stop.load(Relaxed) {
        outcome.notes.push("stopped; what was not replayed is where it was".into());
    }
    print::replayed(&letters.name(), &outcome, &chosen, args.dry_run, global.json);
    Ok(if outcome.kept.is_empty() && !stop.load(Relaxed) { DONE } else { FAILED })
}

/// Why a letter is not replayed without `--force` (T43).
fn objection(args: &ReplayArgs, letter: &Letter, body: Option<&Bytes>, now: i64) -> Option<String> {
    if args.force {
        return None;
    }
    if let Some(keep) = args.inbox_retention {
        match letter.age_of_first_delivery(now) {
            Some(age) if age < keep => {}
            Some(age) => {
                return Some(format!(
                    "it is {} old and the inbox keeps markers for {}: it could have its effect twice; --force replays it \
                     all the same",
                    print::age(Some(age)),
                    duration::format(keep)
                ));
            }
            None => {
                return Some(
                    "nobody knows how old it is, and the inbox may have forgotten it; --force replays it".into(),
                );
            }
        }
    }
    if letter.incomplete {
        return Some("headers of the original were too large to be kept; --force replays it without them".into());
    }
    let json = letter.content_type.as_deref() == Some("application/json");
    let mended = body.filter(|body| json && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err());
    mended.map(|_| "the mended body is not JSON, and the message says it is; --force replays it all the same".into())
}

async fn purge(
    opening: &place::Opening,
    filter: &Filter,
    all: bool,
    dry_run: bool,
    yes: bool,
    global: &GlobalArgs,
) -> Result<u8, Failure> {
    if filter.is_empty() != all {
        return Ok(super::admin::wrong_usage(
            "say which letters: --id, --reason, --type, --key, an age; or --all, and no other",
        ));
    }
    if !dry_run && !yes {
        return Ok(super::admin::wrong_usage(
            "what is removed is gone: add --yes, or see with --dry-run what it would be",
        ));
    }
    let mut letters = opening.open().await?;
    let (now, stop, mut chosen) = (now_s(), stop_on_interrupt(), Vec::new());
    let mut decide = |letter: &Letter| {
        if stop.load(Relaxed) || !filter.matches(letter, now) {
            return Decision::Leave;
        }
        chosen.push(print::Line::of(letter, now));
        if dry_run { Decision::Leave } else { Decision::Remove }
    };
    let outcome = letters.each(&mut decide, &Redirect::default(), None).await?;
    print::purged(&letters.name(), &outcome, &chosen, dry_run, global.json);
    Ok(if outcome.kept.is_empty() && !stop.load(Relaxed) { DONE } else { FAILED })
}

fn read_body(path: &Path) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(path).map(|read| bytes = read),
    };
    read.map(|()| bytes.into()).map_err(|error| format!("read {}: {error}", path.display()))
}

/// `50/s`, `10/m`, `5/h`: the time between two.
fn pause(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a rate: write a number and /s, /m or /h, such as 50/s");
    let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    if number <= 0.0 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds / number).map_err(|_| wrong())
}

/// True after Ctrl-C: the letter at hand is finished, the rest is left.
fn stop_on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let said = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            said.store(true, Relaxed);
        }
    });
    stop
}

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_pause() {
        assert_eq!(pause("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(pause("10/m"), Ok(Duration::from_secs(6)));
        assert_eq!(pause("2"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0/s", "-1/s", "fast", "5/day"] {
            assert!(pause(wrong).unwrap_err().contains("50/s"), "{wrong}");
        }
    }
    /// What the documentation tells people to type is understood.
    #[test]
    fn every_command_of_the_documentation_is_one() {
        let page = include_str!("../../../../docs/consumers.md");
        let commands = page.lines().filter(|line| line.starts_with("tailwater "));
        let mut seen = 0;
        for line in commands {
            let typed = line.split(" > ").next().unwrap().split_whitespace();
            let parsed = <crate::cli::Cli as clap::Parser>::try_parse_from(typed);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            seen += 1;
        }
        assert!(seen >= 9, "{seen}");
    }
}
