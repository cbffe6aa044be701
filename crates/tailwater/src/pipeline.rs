//! THE loop: one pipeline from source to sink.
