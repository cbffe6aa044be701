//! Bytes of the logical decoding plugin `pgoutput` → changes. Never panics, never allocates by a length it has not seen.
