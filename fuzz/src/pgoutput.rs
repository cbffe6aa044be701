//! Any bytes through the pgoutput decoder and assembler: no panic, and what is read is written back to the same message.
//!
//! Run it for a minute, on the stable compiler (needs a C++ compiler for libFuzzer itself):
//!
//! ```text
//! cd fuzz && mkdir -p corpus/pgoutput
//! cargo run --release --target "$(rustc --print host-tuple)" --bin pgoutput -- corpus/pgoutput -max_total_time=60
//! ```
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tailwater_core::pgoutput::{Assembled, Assembler, PgOutput, decode, encode};

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    if let Ok(message) = decode(body.clone()) {
        assert_eq!(decode(encode(&message)), Ok(message));
    }
    stream(body);
});

/// The same bytes as a stream of length-prefixed messages inside one transaction.
fn stream(mut rest: Bytes) {
    let mut assembler = Assembler::new(1);
    let begin = encode(&PgOutput::Begin { final_lsn: 9, time_pg_us: 0, xid: 1 });
    assembler.apply(1, begin).expect("a transaction begins");
    let mut next = 0;
    while !rest.is_empty() {
        let length = usize::from(rest[0]).min(rest.len() - 1);
        let body = rest.slice(1..=length);
        rest = rest.slice(length + 1..);
        let changes = match assembler.apply(2, body) {
            Ok(Assembled::Change(change)) => vec![change],
            Ok(Assembled::Changes(changes)) => changes,
            Ok(Assembled::Nothing | Assembled::Relation(_)) => vec![],
            Ok(Assembled::Commit(_)) | Err(_) => return,
        };
        for change in changes.iter().filter(|change| change.commit.xid.is_some()) {
            assert_eq!(change.ordinal, next, "ordinals are contiguous");
            next += 1;
        }
    }
}
