//! The few formats that cgroup files have.

use std::path::Path;

use crate::error::ActuatorError;

/// A file with one number.
pub(crate) fn number(text: &str, path: &Path) -> Result<u64, ActuatorError> {
    text.trim().parse().map_err(|_| ActuatorError::malformed(path, text, "a number"))
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// As [`keyed`], for a key that every kernel has.
pub(crate) fn required(text: &str, key: &'static str, path: &Path) -> Result<u64, ActuatorError> {
    keyed(text, key).ok_or_else(|| ActuatorError::malformed(path, text, key))
}

/// Stall time since the cgroup was made, in µs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stall {
    pub(crate) some_us: u64,
    /// Kernels before 5.13 have no `full` line for the CPU.
    pub(crate) full_us: Option<u64>,
}

/// A pressure file. Only the totals are of use: the averages are refreshed each 2 s.
pub(crate) fn pressure(text: &str, path: &Path) -> Result<Stall, ActuatorError> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
    };
    let some_us = total("some ").ok_or_else(|| ActuatorError::malformed(path, text, "pressure totals"))?;
    Ok(Stall { some_us, full_us: total("full ") })
}

/// Bytes transferred since the cgroup or its network was made: read from all disks and written to them, received over all
/// interfaces and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Transferred {
    pub(crate) inward: u64,
    pub(crate) outward: u64,
}

/// A file `io.stat`: a line a device, of fields `key=value`. A device without traffic may have no fields.
pub(crate) fn io_stat(text: &str) -> Transferred {
    let sum = |key: &str| {
        let fields = text.split_whitespace().filter_map(|field| field.strip_prefix(key)?.parse::<u64>().ok());
        fields.fold(0, u64::saturating_add)
    };
    Transferred { inward: sum("rbytes="), outward: sum("wbytes=") }
}

/// A file `blkio.throttle.io_service_bytes_recursive`: lines `device operation bytes`, and totals.
pub(crate) fn io_service_bytes(text: &str) -> Transferred {
    let sum = |operation: &str| {
        let bytes = text.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            (fields.next() == Some(operation)).then(|| fields.next()?.parse::<u64>().ok()).flatten()
        });
        bytes.fold(0, u64::saturating_add)
    };
    Transferred { inward: sum("Read"), outward: sum("Write") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_matched_whole() {
        let text = "total_rss_huge 5\ntotal_rss 7\nrss 1\n";
        assert_eq!(keyed(text, "total_rss"), Some(7));
        assert_eq!(keyed(text, "rss"), Some(1));
        assert_eq!(keyed(text, "huge"), None);
        assert!(required(text, "cache", Path::new("/x")).is_err());
    }

    #[test]
    fn pressure_totals_are_read_with_and_without_full() {
        let some = "some avg10=1.26 avg60=1.25 avg300=1.43 total=21031142\n";
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        let path = Path::new("/x");
        assert_eq!(pressure(some, path).unwrap(), Stall { some_us: 21_031_142, full_us: None });
        assert_eq!(pressure(&format!("{some}{full}"), path).unwrap().full_us, Some(12));
        assert!(pressure("", path).is_err());
    }

    #[test]
    fn transfers_are_summed_up_over_disks() {
        let v2 = "8:0 rbytes=4096 wbytes=100 rios=1 wios=2 dbytes=7 dios=1\n8:16\n254:0 rbytes=1 wbytes=2 rios=0\n";
        assert_eq!(io_stat(v2), Transferred { inward: 4_097, outward: 102 });
        let v1 = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n8:0 Read 1\nTotal 12289\n";
        assert_eq!(io_service_bytes(v1), Transferred { inward: 4_097, outward: 8_192 });
        assert_eq!((io_stat(""), io_service_bytes("Total 0\n")), Default::default());
    }

    #[test]
    fn what_is_no_number_is_an_error_and_not_zero() {
        assert_eq!(number("12\n", Path::new("/x")).unwrap(), 12);
        let message = number("max\n", Path::new("/x")).unwrap_err().to_string();
        assert_eq!(message, "/x holds 'max', expected a number");
    }
}
