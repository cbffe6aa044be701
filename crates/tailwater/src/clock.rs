//! Time as the loop sees it: the tokio clock, so that tests can pause it.
