//! rustls (ring) for PostgreSQL, RabbitMQ and HTTP alike: one connector, one root store.
