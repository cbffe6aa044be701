//! What every connection needs: TLS as configured, verified by default.

pub mod tls;
