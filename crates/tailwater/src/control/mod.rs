//! The HTTP port: health, metrics, status. Loopback unless told otherwise.
