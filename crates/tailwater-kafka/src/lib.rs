//! The Kafka sink: librdkafka's idempotent producer behind the seams of `tailwater-core`.
