//! Positions in a state directory: one small text file per pipeline, written, fsynced, renamed, directory fsynced.
