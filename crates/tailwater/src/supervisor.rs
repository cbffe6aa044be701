//! Start, restart with back-off, stop: failure → action.
