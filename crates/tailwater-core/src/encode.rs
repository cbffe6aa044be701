//! Column values → bytes of keys, headers and payloads.
