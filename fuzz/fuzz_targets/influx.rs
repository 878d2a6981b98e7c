//! The line protocol.
#![no_main]

mod agree;

use libfuzzer_sys::fuzz_target;
use tidegate_ingest::{Known, influx};
use tidegate_model::TimeMs;

fuzz_target!(|body: &[u8]| {
    let decode = |known: &Known| influx::decode(body, influx::Precision::Nanoseconds, TimeMs(7), known);
    let first = decode(&Known::default());
    let spellings = agree::taught(&first.batch, &first.learnt);
    let second = decode(&spellings.read());
    agree::check(&first.batch, &second.batch);
    assert_eq!((&first.errors, first.failed, &first.lines), (&second.errors, second.failed, &second.lines));
});
