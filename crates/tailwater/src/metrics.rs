//! Numbers for Prometheus and `status`.
