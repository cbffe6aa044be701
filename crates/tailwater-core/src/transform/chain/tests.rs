//! Each transform by default, and what is refused. What it gives in strict compatibility is in tests/golden.
