//! Reading the write-ahead log after a crash: the bytes as they are, and behind good records.
#![no_main]

// The store itself would bring DataFusion along.
#[path = "../../store/src/write/record.rs"]
#[allow(dead_code)]
mod record;

use libfuzzer_sys::fuzz_target;
use tidegate_model::SeriesKey;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut log = Vec::new();
    record::put_series(&mut log, [(7, &SeriesKey::from_parts("m", [("host", "a")]))].into_iter());
    record::put_samples(&mut log, 5, &[7], &[1_000], &[0.5]);
    let good = log.len();
    log.extend_from_slice(bytes);
    assert!(check(&log) >= 2, "what follows good records costs none of them");
    // One damaged byte costs its own record at most.
    if let [place, flip, ..] = *bytes
        && flip != 0
    {
        log.truncate(good);
        log[usize::from(place) % good] ^= flip;
        assert_eq!(check(&log), 1);
    }
});

/// Reads a log and returns the number of its records; what is no record lies within it, in order.
fn check(log: &[u8]) -> usize {
    let mut records = 0;
    let damages = record::read_all(log, |_| records += 1);
    let mut end = 0;
    for damage in damages {
        assert!(damage.offset >= end && damage.bytes > 0);
        end = damage.offset + damage.bytes;
        assert!(end <= log.len());
        assert_eq!(damage.tail, end == log.len());
    }
    records
}
