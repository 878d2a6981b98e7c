//! OpenTSDB's JSON.
#![no_main]

mod agree;

use libfuzzer_sys::fuzz_target;
use tidegate_ingest::{Known, opentsdb};

fuzz_target!(|body: &[u8]| {
    let first = opentsdb::decode(body, &Known::default());
    let Ok(first) = first else { return };
    let spellings = agree::taught(&first.batch, &first.learnt);
    let second = opentsdb::decode(body, &spellings.read()).expect("the same body was read before");
    agree::check(&first.batch, &second.batch);
    assert_eq!((&first.errors, first.failed, &first.sent_times), (&second.errors, second.failed, &second.sent_times));
});
