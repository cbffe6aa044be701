//! Keeping the outbox small, by what is provably delivered.
