//! The recording of a real Kafka Connect, replayed call by call against the real program with real servers behind it.
//!
//! Each answer is the same (status, content type, body with what differs from run to run masked), or it is listed with a
//! reason in `listed.toml`, or it is unexplained, which fails. An entry that explains nothing any more fails too.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

mod curl;
mod replay;

use replay::{Call, Side};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Listed {
    /// Reason → numbers of calls.
    reasons: BTreeMap<String, Vec<u32>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_call_is_answered_the_same_or_differs_for_a_listed_reason() {
    let calls: Vec<Call> = include_str!("recording/calls.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a recorded call"))
        .collect();
    let listed: Listed = toml::from_str(include_str!("listed.toml")).expect("listed.toml");
    let reasons: BTreeMap<u32, &str> =
        listed.reasons.iter().flat_map(|(reason, calls)| calls.iter().map(|n| (*n, reason.as_str()))).collect();
    let side = Side::start().await;
    let (mut same, mut explained, mut unexplained, mut idle) = (0, 0, Vec::new(), Vec::new());
    for call in &calls {
        let difference = side.replay(call).await;
        match (difference, reasons.get(&call.n)) {
            (None, None) => same += 1,
            (None, Some(reason)) => idle.push(format!("{} is the same by now; listed as: {reason}", call.n)),
            (Some(_), Some(_)) => explained += 1,
            (Some(difference), None) => {
                unexplained.push(format!("{} {} {}\n{difference}", call.n, call.method, call.path));
            }
        }
    }
    println!("connect rest: same {same}, listed {explained}, unexplained = {}", unexplained.len());
    for (reason, calls) in &listed.reasons {
        println!("  {:3}  {reason}", calls.len());
    }
    assert!(unexplained.is_empty() && idle.is_empty(), "{}\n{}", unexplained.join("\n\n"), idle.join("\n"));
}
