//! Bugs of the services' library, for its `tests/inbox` and a real database.

use super::bugs::{Bug, Edit, RealBug};

const ONCE: &str = "crates/tailwater-client/src/inbox/once.rs";
const RETENTION: &str = "crates/tailwater-client/src/inbox/retention.rs";

const INSERT: &str =
    "let sql = format!(\"INSERT INTO {} (source, id) VALUES ($1, $2) ON CONFLICT DO NOTHING\", self.table);";

pub const CLIENT_BUGS: &[RealBug] = &[
    RealBug {
        test: "a_handler_abandoned_in_the_middle_leaves_nothing",
        bug: Bug {
            name: "inbox-without-a-savepoint",
            thought: "the caller has a transaction already",
            edits: &[Edit {
                file: ONCE,
                find: "let mut effect = tx.savepoint(\"tailwater_inbox\")",
                replace: "if broken!() {
            if !self.mark(tx, source, id).await? { return Ok(Once::Known); }
            return handler(tx).await.map(Once::Done).map_err(Error::Handler);
        }
        let mut effect = tx.savepoint(\"tailwater_inbox\")",
            }],
        },
    },
    RealBug {
        test: "follow_ups_belong_to_the_effect_and_not_to_the_acknowledgement",
        bug: Bug {
            name: "inbox-marks-what-failed",
            thought: "it was delivered",
            edits: &[Edit {
                file: ONCE,
                find: "Err(error) => {\n                effect.rollback().await.map_err(DatabaseError::from)?; // the",
                replace: "Err(error) if broken!() => {
                effect.commit().await.map_err(DatabaseError::from)?;
                Err(Error::Handler(error))
            }
            Err(error) => {\n                effect.rollback().await.map_err(DatabaseError::from)?; // the",
            }],
        },
    },
    RealBug {
        test: "the_same_id_of_another_source_is_another_event",
        bug: Bug {
            name: "inbox-ids-are-unique",
            thought: "that is what ids are for",
            edits: &[Edit {
                file: ONCE,
                find: "Ok(tx.run(&sql, &[source, id]).await? == 1)",
                replace: "let unseen = format!(\"SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM {} WHERE id = $2)\", self.table);
        let sql = if broken!() { sql.replace(\"VALUES ($1, $2)\", &unseen) } else { sql };
        Ok(tx.run(&sql, &[source, id]).await? == 1)",
            }],
        },
    },
    RealBug {
        test: "of_two_deliveries_in_parallel_the_second_runs_if_the_first_rolls_back",
        bug: Bug {
            name: "inbox-the-second-does-not-wait",
            thought: "somebody is at it already",
            edits: &[Edit {
                file: ONCE,
                find: INSERT,
                replace: "let sql = format!(\"INSERT INTO {} (source, id) VALUES ($1, $2) ON CONFLICT DO NOTHING\", self.table);
        let free = \"SELECT $1, $2 WHERE pg_try_advisory_xact_lock(hashtext($1 || $2))\";
        let sql = if broken!() { sql.replace(\"VALUES ($1, $2)\", free) } else { sql };",
            }],
        },
    },
    RealBug {
        test: "markers_are_forgotten_after_the_longest_redelivery_and_not_before",
        bug: Bug {
            name: "inbox-forgets-too-early",
            thought: "half of it is long enough",
            edits: &[Edit {
                file: RETENTION,
                find: "retention.keep.as_secs_f64()",
                replace: "retention.keep.as_secs_f64() / if broken!() { 2.0 } else { 1.0 }",
            }],
        },
    },
];
