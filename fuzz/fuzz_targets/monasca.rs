//! Monasca's JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let _ = tidegate_ingest::monasca::decode(body);
});
