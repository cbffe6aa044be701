//! Bugs of the Kafka sink, for `tests/kafka` and a real broker.

use super::bugs::{Bug, Edit, RealBug};

const WINDOW: &str = "crates/tailwater-kafka/src/window.rs";
const PUBLISHER: &str = "crates/tailwater-kafka/src/publisher.rs";
const OUTLET: &str = "crates/tailwater-kafka/src/outlet.rs";
const CLIENT: &str = "crates/tailwater-kafka/src/client.rs";
const ONCE: &str = "crates/tailwater-kafka/src/exactly_once.rs";
const TRANSACTION: &str = "crates/tailwater-kafka/src/transaction.rs";

pub const KAFKA_BUGS: &[RealBug] = &[
    RealBug {
        test: "records::a_message_that_is_too_large_is_refused_and_its_neighbours_arrive",
        bug: Bug {
            name: "kafka-deliveries-in-any-order-count",
            thought: "three deliveries are three messages",
            edits: &[Edit {
                file: WINDOW,
                find: "let count = self.entries.iter().take_while(|state| **state == State::Stored).count();",
                replace: "let count = match broken!() {
            true => self.entries.iter().filter(|state| **state == State::Stored).count(),
            false => self.entries.iter().take_while(|state| **state == State::Stored).count(),
        };",
            }],
        },
    },
    RealBug {
        test: "records::what_only_the_broker_can_refuse_is_named_when_it_is_alone",
        bug: Bug {
            name: "kafka-a-failed-delivery-counts",
            thought: "a report is a report",
            edits: &[Edit {
                file: PUBLISHER,
                find: "None => self.flight.window.delivered(index as u64),",
                replace: "None => self.flight.window.delivered(index as u64),
                Some(_) if broken!() => self.flight.window.delivered(index as u64),",
            }],
        },
    },
    RealBug {
        test: "records::a_message_that_is_too_large_is_refused_and_its_neighbours_arrive",
        bug: Bug {
            name: "kafka-sizes-are-the-brokers-business",
            thought: "the broker will say when it is too large",
            edits: &[Edit { file: OUTLET, find: "if size > limit {", replace: "if size > limit && !broken!() {" }],
        },
    },
    RealBug {
        test: "records::a_key_goes_where_the_java_client_would_send_it",
        bug: Bug {
            name: "kafka-the-librarys-own-partitioner",
            thought: "a hash is a hash",
            edits: &[Edit {
                file: CLIENT,
                find: "Partitioner::Murmur2 => \"murmur2_random\",",
                replace: "Partitioner::Murmur2 if broken!() => \"consistent_random\",
        Partitioner::Murmur2 => \"murmur2_random\",",
            }],
        },
    },
    RealBug {
        test: "topics::pinned_keys_stay_in_their_partition_when_the_topic_grows",
        bug: Bug {
            name: "kafka-pins-are-forgotten",
            thought: "more partitions are more room",
            edits: &[Edit {
                file: OUTLET,
                find: "(None, Some(pinned), Some(key)) =>",
                replace: "(None, Some(pinned), Some(key)) if !broken!() =>",
            }],
        },
    },
    RealBug {
        test: "exactly_once::a_process_that_was_overtaken_can_store_nothing_and_says_so",
        bug: Bug {
            name: "kafka-a-transactional-id-for-each-run",
            thought: "ids should be unique",
            edits: &[Edit {
                file: ONCE,
                find: "let producer = producer::transactional(&config, batch, &self.id, TRANSACTION_LIMIT, observer).await?;",
                replace: "let id = if broken!() { format!(\"{}-{}\", self.id, self.run) } else { self.id.clone() };
        let producer = producer::transactional(&config, batch, &id, TRANSACTION_LIMIT, observer).await?;",
            }],
        },
    },
    RealBug {
        test: "exactly_once::what_lies_published_behind_the_position_is_not_published_again",
        bug: Bug {
            name: "kafka-what-lies-behind-is-sent-again",
            thought: "everything after the position is new",
            edits: &[Edit {
                file: TRANSACTION,
                find: "if !self.skip.is_empty() && take(&mut self.skip, print) {",
                replace: "if !broken!() && !self.skip.is_empty() && take(&mut self.skip, print) {",
            }],
        },
    },
    RealBug {
        test: "exactly_once::publishers_that_end_at_any_moment_repeat_nothing_and_lose_nothing",
        bug: Bug {
            name: "kafka-a-commit-in-doubt-has-failed",
            thought: "no answer is a no",
            edits: &[Edit {
                file: ONCE,
                find: "state.skip = attempt.sent.into_iter().fold(std::mem::take(&mut state.skip), add);",
                replace: "if !broken!() {
                    state.skip = attempt.sent.into_iter().fold(std::mem::take(&mut state.skip), add);
                }",
            }],
        },
    },
    RealBug {
        test: "exactly_once::nothing_passes_a_refused_message_in_a_transaction",
        bug: Bug {
            name: "kafka-a-refusal-is-passed-in-a-transaction",
            thought: "one refused event must not stop the others",
            edits: &[Edit {
                file: TRANSACTION,
                find: "self.blocked = Some(index);
                        return Ok(()); // its end of slice is passed when it is released",
                replace: "if !broken!() {
                            self.blocked = Some(index);
                            return Ok(()); // its end of slice is passed when it is released
                        }",
            }],
        },
    },
];
