//! Both messages of Prometheus' remote write.
#![no_main]

mod agree;

use libfuzzer_sys::fuzz_target;
use tidegate_ingest::{Known, prometheus};

fuzz_target!(|body: &[u8]| {
    for version in [prometheus::Version::V1, prometheus::Version::V2] {
        let Ok(first) = prometheus::decode(body, version, &Known::default()) else { continue };
        let spellings = agree::taught(&first.batch, &first.learnt);
        let second = prometheus::decode(body, version, &spellings.read()).expect("the same body was read before");
        agree::check(&first.batch, &second.batch);
        assert_eq!((&first.errors, first.failed, first.skipped), (&second.errors, second.failed, second.skipped));
    }
});
