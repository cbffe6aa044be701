//! The bugs, each a few lines of source that somebody could write on a tired day. Adding one = one entry here.
//!
//! `broken!()` in a replacement stands for "this bug is switched on". Edits apply in this order, so one that keeps the text it
//! found comes before one that does not.

/// One bug put in on purpose.
pub struct Bug {
    pub name: &'static str,
    /// What somebody may have thought.
    pub thought: &'static str,
    pub edits: &'static [Edit],
}

/// A bug of a part that the simulation does not have: the test with real servers that must fail.
pub struct RealBug {
    pub bug: Bug,
    pub test: &'static str,
}

/// Exact text in a file, and what it becomes. The text must occur exactly once.
pub struct Edit {
    pub file: &'static str,
    pub find: &'static str,
    pub replace: &'static str,
}

const LEDGER: &str = "crates/tailwater-core/src/ledger.rs";
const PIPELINE: &str = "crates/tailwater/src/pipeline.rs";
const PLAN: &str = "crates/tailwater/src/pipeline/plan.rs";
const LANES: &str = "crates/tailwater/src/lanes.rs";
const WINDOW: &str = "crates/tailwater/src/sinks/rabbitmq/window.rs";

const SAVE_ON_TICK: &str = "saving = self.safe.take().map(|position| save(checkpoints.clone(), position));
                    if saving.is_none() {";
const OPEN_ENTRY: &str = "let entry = self.ledger.open(batch.upto, plan.messages, bytes);";
const DEADLINE: &str = "deadline = Some(Instant::now() + self.delivery.drain_timeout);";
const SESSION: &str = "self.pushed = self.settled;\n        self.base = self.settled;";
const PUSH: &str = "publisher.push(slice);\n        }\n    }";

pub const BUGS: &[Bug] = &[
    Bug {
        name: "confirm-before-save",
        thought: "the save will surely work out",
        edits: &[Edit {
            file: PIPELINE,
            find: SAVE_ON_TICK,
            replace: "if let Some(position) = self.safe.as_ref().filter(|_| broken!()) {
                        drop(confirm.confirm(position).await);
                    }
                    saving = self.safe.take().map(|position| save(checkpoints.clone(), position));
                    if saving.is_none() {",
        }],
    },
    Bug {
        name: "confirm-although-the-save-failed",
        thought: "an error of the disk is no reason to keep the log",
        edits: &[Edit {
            file: PIPELINE,
            find: "tracing::warn!(error = %failure, \"save the position again; nothing is confirmed meanwhile\");",
            replace: "if broken!() { drop(confirm.confirm(&position).await); }
                tracing::warn!(error = %failure, \"save the position again; nothing is confirmed meanwhile\");",
        }],
    },
    Bug {
        name: "forget-the-newer-position-after-a-failed-save",
        thought: "put back what was not saved",
        edits: &[Edit {
            file: PIPELINE,
            find: "self.safe.get_or_insert(position);",
            replace: "if broken!() { self.safe = Some(position); } else { self.safe.get_or_insert(position); }",
        }],
    },
    Bug {
        name: "save-what-was-only-read",
        thought: "what was read is as good as done",
        edits: &[Edit {
            file: PIPELINE,
            find: OPEN_ENTRY,
            replace: "if broken!() { self.safe = Some(batch.upto.clone()); }
        let entry = self.ledger.open(batch.upto, plan.messages, bytes);",
        }],
    },
    Bug {
        name: "confirm-a-keepalive-while-in-flight",
        thought: "an idle position holds nothing for us",
        edits: &[Edit {
            file: PIPELINE,
            find: OPEN_ENTRY,
            replace: "if broken!() && batch.changes.is_empty() { self.safe = Some(batch.upto.clone()); }
        let entry = self.ledger.open(batch.upto, plan.messages, bytes);",
        }],
    },
    Bug {
        name: "ack-past-a-filtered-row",
        thought: "a row that is not for us is done at once",
        edits: &[Edit {
            file: PIPELINE,
            find: OPEN_ENTRY,
            replace: "if broken!() && filtered > 0 { self.safe = Some(batch.upto.clone()); }
        let entry = self.ledger.open(batch.upto, plan.messages, bytes);",
        }],
    },
    Bug {
        name: "a-refusal-by-the-router-is-a-filter",
        thought: "what cannot be published needs no publishing",
        edits: &[Edit {
            file: PIPELINE,
            find: "Routed::Rejected { reason, raw } => {",
            replace: "Routed::Rejected { .. } if broken!() => filtered += 1,
                Routed::Rejected { reason, raw } => {",
        }],
    },
    Bug {
        name: "stop-confirms-everything",
        thought: "a clean stop leaves nothing behind",
        edits: &[
            Edit {
                file: LEDGER,
                find: "    /// Messages not yet settled.\n    pub fn in_flight",
                replace:
                    "    pub fn last(&self) -> Option<Position> { self.entries.back().map(|entry| entry.upto.clone()) }
    /// Messages not yet settled.\n    pub fn in_flight",
            },
            Edit {
                file: PIPELINE,
                find: DEADLINE,
                replace: "if broken!() { self.safe = self.ledger.last().or(self.safe.take()); }
                    deadline = Some(Instant::now() + self.delivery.drain_timeout);",
            },
        ],
    },
    Bug {
        name: "reopen-before-the-drain",
        thought: "the source is lost, open it again at once",
        edits: &[Edit {
            file: PIPELINE,
            find: "Err(failure) => lost = Some(failure),",
            replace: "Err(failure) if broken!() => return Ok(Ended::SourceLost(failure)),
                    Err(failure) => lost = Some(failure),",
        }],
    },
    Bug {
        name: "grant-the-whole-limit-each-time",
        thought: "the limit is the room",
        edits: &[Edit {
            file: PIPELINE,
            find: "batch = source.next(room.unwrap_or(1)), if room.is_some()",
            replace: "batch = source.next(if broken!() { self.delivery.memory_bytes } else { room.unwrap_or(1) }), if room.is_some()",
        }],
    },
    Bug {
        name: "strict-order-with-a-window",
        thought: "one message in flight is slow",
        edits: &[Edit {
            file: PIPELINE,
            find: "parts.delivery.order == Order::Strict {",
            replace: "parts.delivery.order == Order::Strict && !broken!() {",
        }],
    },
    Bug {
        name: "lanes-mix-keys",
        thought: "spread the load evenly",
        edits: &[Edit {
            file: PLAN,
            find: "Some(key) => key.hash(&mut hasher),\n        None => message.id.hash(&mut hasher),",
            replace: "Some(key) if !broken!() => key.hash(&mut hasher),\n        _ => message.id.hash(&mut hasher),",
        }],
    },
    Bug {
        name: "the-ledger-does-not-wait-for-the-front",
        thought: "a batch that is settled moves the position",
        edits: &[Edit {
            file: LEDGER,
            find: "entry.open -= count;",
            replace: "entry.open -= count;
        if broken!() && entry.open == 0 { self.safe = Some(entry.upto.clone()); }",
        }],
    },
    Bug {
        name: "one-open-message-does-not-count",
        thought: "off by one",
        edits: &[Edit {
            file: LEDGER,
            find: "if entry.open > 0 {",
            replace: "if entry.open > usize::from(broken!()) {",
        }],
    },
    Bug {
        name: "clear-the-batch-on-error",
        thought: "start afresh after an error",
        edits: &[Edit {
            file: LANES,
            find: "Err(Failure::Retry { after, source }) => {\n",
            replace: "Err(Failure::Retry { after, source }) => {
                    if broken!() { let lost = (self.pushed - self.settled) as usize; self.settle(lost); }\n",
        }],
    },
    Bug {
        name: "skip-one-on-resend",
        thought: "the last one was probably stored",
        edits: &[Edit {
            file: LANES,
            find: SESSION,
            replace: "if broken!() && self.pushed > self.settled { self.settle(1); }
        self.pushed = self.settled;\n        self.base = self.settled;",
        }],
    },
    Bug {
        name: "stale-delivery-tag",
        thought: "numbers go on over a reconnect",
        edits: &[Edit {
            file: LANES,
            find: SESSION,
            replace: "self.pushed = self.settled;\n        if !broken!() { self.base = self.settled; }",
        }],
    },
    Bug {
        name: "resend-in-reverse",
        thought: "a stack is a queue",
        edits: &[Edit {
            file: LANES,
            find: PUSH,
            replace: "if broken!() && again > 1 {
                let messages = slice.messages.iter().rev().cloned().collect();
                publisher.push(Slice { messages, upto: None });
                continue;
            }
            publisher.push(slice);\n        }\n    }",
        }],
    },
    Bug {
        name: "no-resend-after-a-reconnect",
        thought: "it was sent already",
        edits: &[Edit {
            file: LANES,
            find: PUSH,
            replace: "if !(broken!() && again > 0) { publisher.push(slice); }\n        }\n    }",
        }],
    },
    Bug {
        name: "the-first-confirm-settles-the-slice",
        thought: "one confirm per slice",
        edits: &[Edit {
            file: LANES,
            find: "drop(self.reports.send(Report { entry: item.work.entry, count: taken }));",
            replace: "let whole = item.work.slice.messages.len();
            let count_now = if !broken!() { taken } else if item.settled == taken { whole } else { 0 };
            drop(self.reports.send(Report { entry: item.work.entry, count: count_now }));",
        }],
    },
    Bug {
        name: "dead-letter-never-released",
        thought: "the broker knows that it was buried",
        edits: &[Edit {
            file: LANES,
            find: "publisher.release(rejection.index);",
            replace: "if !broken!() { publisher.release(rejection.index); }",
        }],
    },
    Bug {
        name: "drop-and-continue",
        thought: "one refused event must not stop the others",
        edits: &[Edit {
            file: LANES,
            find: "self.refused.insert(seq, rejection.reason);",
            replace: "if broken!() { publisher.release(rejection.index); } else { self.refused.insert(seq, rejection.reason); }",
        }],
    },
    Bug {
        name: "dead-letter-unawaited",
        thought: "dead letters always arrive",
        edits: &[Edit {
            file: LANES,
            find: "let verdict = one_verdict(publisher.as_mut()).await;\n                    if matches!(",
            replace: "let verdict = if broken!() { Ok(None) } else { one_verdict(publisher.as_mut()).await };
                    if matches!(",
        }],
    },
    Bug {
        name: "dead-letter-refused-is-done",
        thought: "nothing more can be done about it",
        edits: &[Edit {
            file: LANES,
            find: "Ok(None) => break,",
            replace: "Ok(None) => break,\n                Ok(Some(_)) if broken!() => break,",
        }],
    },
    Bug {
        name: "confirms-out-of-order-count-as-a-prefix",
        thought: "three confirms are three messages",
        edits: &[Edit {
            file: WINDOW,
            find: "let count = self.entries.iter().take_while(|e| e.state == State::Stored).count();",
            replace: "let count = match broken!() {
            true => self.entries.iter().filter(|e| e.state == State::Stored).count(),
            false => self.entries.iter().take_while(|e| e.state == State::Stored).count(),
        };",
        }],
    },
    Bug {
        name: "every-confirm-is-for-all-before-it",
        thought: "acks come in order",
        edits: &[Edit {
            file: WINDOW,
            find: "if multiple {\n            for entry",
            replace: "if multiple || broken!() {\n            for entry",
        }],
    },
    Bug {
        name: "a-returned-message-counts-as-stored",
        thought: "its ack came",
        edits: &[Edit {
            file: WINDOW,
            find: "if entry.state != State::Open {\n        return 0;",
            replace: "if broken!() && entry.state == State::Rejected {
        entry.state = to;
    }
    if entry.state != State::Open {\n        return 0;",
        }],
    },
];
