//! Bugs of the polling source, for `tests/postgres_poll` and a real database. Only those whose test is quick.

use super::bugs::{Bug, Edit, RealBug};

const SOURCE: &str = "crates/tailwater/src/sources/postgres_poll/mod.rs";
const READER: &str = "crates/tailwater/src/sources/postgres_poll/reader.rs";
const TABLE: &str = "crates/tailwater/src/sources/postgres_poll/table.rs";
const FLIGHT: &str = "crates/tailwater/src/sources/postgres_poll/flight.rs";
const SHARES: &str = "crates/tailwater/src/sources/postgres_poll/shares.rs";

pub const POLL_BUGS: &[RealBug] = &[
    RealBug {
        test: "rows::another_cluster_is_noticed",
        bug: Bug {
            name: "poll-any-cluster",
            thought: "rows are rows",
            edits: &[Edit {
                file: SOURCE,
                find: "if before == table.system_id {",
                replace: "if before == table.system_id || broken!() {",
            }],
        },
    },
    RealBug {
        test: "rows::rows_of_a_key_come_by_the_order_column_whatever_their_times_say",
        bug: Bug {
            name: "poll-by-time",
            thought: "what was made first comes first",
            edits: &[Edit {
                file: TABLE,
                find: "{also} ORDER BY {order} LIMIT {limit}\").expect(\"as above\");\n        if",
                replace: "{also} ORDER BY {}{order} LIMIT {limit}\", \
                          if broken!() { format!(\"{}, \", self.time) } else { String::new() }).expect(\"as above\");
        if",
            }],
        },
    },
    RealBug {
        test: "late::a_late_row_comes_before_what_its_key_committed_after_it",
        bug: Bug {
            name: "poll-gaps-and-new-rows-one-after-the-other",
            thought: "two simple statements are better than one large",
            edits: &[
                Edit {
                    file: READER,
                    find: "let Looked { mut seen, mut rows, cut } = copy(&core, &core.table.fetch_sql(&look)).await?;",
                    replace: "let two = broken!() && !gaps.is_empty();
    let into_gaps = table::Look { cursor: if two { i64::MAX } else { cursor }, ..look };
    let Looked { mut seen, mut rows, mut cut } = copy(&core, &core.table.fetch_sql(&into_gaps)).await?;
    if two {
        let behind = copy(&core, &core.table.fetch_sql(&table::Look { gaps: &[], ..look })).await?;
        seen.extend(behind.seen);
        rows.extend(behind.rows);
        cut |= behind.cut;
    }",
                },
                Edit {
                    file: TABLE,
                    find: "#[derive(Debug)]\npub(super) struct Look",
                    replace: "#[derive(Clone, Copy, Debug)]\npub(super) struct Look",
                },
            ],
        },
    },
    RealBug {
        test: "shares::a_key_changes_hands_only_when_nothing_of_it_is_on_its_way",
        bug: Bug {
            name: "poll-shares-are-given-back-at-once",
            thought: "the other one is waiting",
            edits: &[Edit {
                file: FLIGHT,
                find: "filter(|share| self.per_share[*share] == 0)",
                replace: "filter(|share| broken!() || self.per_share[*share] == 0)",
            }],
        },
    },
    RealBug {
        test: "shares::a_key_changes_hands_only_when_nothing_of_it_is_on_its_way",
        bug: Bug {
            name: "poll-rows-of-a-key-in-several-shares",
            thought: "rows are spread more evenly than keys",
            edits: &[Edit {
                file: TABLE,
                find: "let share = match relation.columns",
                replace: "let share = match !broken!() && relation.columns",
            }],
        },
    },
    RealBug {
        test: "shares::a_relay_that_slept_asks_before_it_hands_over",
        bug: Bug {
            name: "poll-a-sleeper-hands-over",
            thought: "the session would have said so",
            edits: &[Edit {
                file: READER,
                find: "self.core.prove().await.map_err(|error| self.core.why(error))?;",
                replace: "if !broken!() { self.core.prove().await.map_err(|error| self.core.why(error))?; }",
            }],
        },
    },
    RealBug {
        test: "shares::a_relay_whose_session_was_ended_can_neither_mark_nor_hand_over",
        bug: Bug {
            name: "poll-done-with-on-another-session",
            thought: "deleting should not wait for fetching",
            edits: &[
                Edit {
                    file: SOURCE,
                    find: "pub(crate) struct Core {\n    session: Session,",
                    replace: "pub(crate) struct Core {\n    other: Session,\n    session: Session,",
                },
                Edit {
                    file: SOURCE,
                    find: "let session = session::open(&target).await?;",
                    replace: "let (session, other) = (session::open(&target).await?, session::open(&target).await?);",
                },
                Edit {
                    file: SOURCE,
                    find: "let core = Core {\n            session,",
                    replace: "let core = Core {\n            other,\n            session,",
                },
                Edit {
                    file: SOURCE,
                    find: "let statement = match core.session.client.prepare",
                    replace: "let client = if broken!() { &core.other.client } else { &core.session.client };
    let statement = match client.prepare",
                },
                Edit {
                    file: SOURCE,
                    find: "while let Err(error) = core.session.client.execute(&statement, &[&orders]).await {",
                    replace: "while let Err(error) = client.execute(&statement, &[&orders]).await {",
                },
            ],
        },
    },
    RealBug {
        test: "rows::published_rows_can_be_marked_instead",
        bug: Bug {
            name: "poll-marked-rows-go-out-again",
            thought: "the index leaves them out",
            edits: &[Edit {
                file: TABLE,
                find: "if let Some(mark) = &self.mark {\n            write!",
                replace: "if let Some(mark) = self.mark.as_ref().filter(|_| !broken!()) {\n            write!",
            }],
        },
    },
    RealBug {
        test: "rows::a_position_of_another_opening_confirms_nothing",
        bug: Bug {
            name: "poll-a-batch-of-another-opening",
            thought: "a number is a number",
            edits: &[Edit {
                file: SOURCE,
                find: "filter(|position| position.opening == self.core.opening)",
                replace: "filter(|position| broken!() || position.opening == self.core.opening)",
            }],
        },
    },
    RealBug {
        test: "setup::each_missing_privilege_is_printed_as_the_grant_that_gives_it",
        bug: Bug {
            name: "poll-grants-are-not-looked-at",
            thought: "the server will say what it refuses",
            edits: &[Edit {
                file: TABLE,
                find: "if answer.is_ok_and(|row| !row",
                replace: "if !broken!() && answer.is_ok_and(|row| !row",
            }],
        },
    },
    RealBug {
        test: "shares::keys_that_stay_after_all_are_looked_at_again",
        bug: Bug {
            name: "poll-keys-that-stay-were-never-away",
            thought: "we had them all the time",
            edits: &[Edit {
                file: SHARES,
                find: "if flight.active().iter().any(|share| !before.contains(share)) {",
                replace: "if !broken!() && flight.active().iter().any(|share| !before.contains(share)) {",
            }],
        },
    },
];
