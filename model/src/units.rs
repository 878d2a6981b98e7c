//! Units. Inside Tidegate everything is in base units; the conversions from others' units stand here and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// CPU time per time: 1.0 is one core fully used or allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cores(pub f64);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} cores", self.0)
    }
}

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    /// Prints with binary prefixes, as the kernel's own tools do: `96.0 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match STEPS.iter().find(|(_, size)| self.0 >= *size) {
            Some((name, size)) => write!(f, "{:.1} {name}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// BDWatchdog's and Asperathos' CPU unit (100 = one core) to cores.
pub fn percent_of_core_to_cores(percent: f64) -> Cores {
    Cores(percent / 100.0)
}

/// BDWatchdog's memory unit ("MB", really 2^20 bytes) to bytes. Negative and NaN become 0.
pub fn mebibytes_to_bytes(mebibytes: f64) -> Bytes {
    Bytes((mebibytes * 1_048_576.0) as u64)
}

/// BDWatchdog's network unit (2^20 bits per second) to bytes per second.
pub fn mebibits_to_bytes(mebibits: f64) -> f64 {
    mebibits * 131_072.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_with_the_largest_fitting_binary_prefix() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(96 << 20).to_string(), "96.0 MiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
    }

    #[test]
    fn others_units_become_base_units() {
        assert_eq!(percent_of_core_to_cores(150.0), Cores(1.5));
        assert_eq!(mebibytes_to_bytes(2.0), Bytes(2 << 20));
        assert_eq!(mebibytes_to_bytes(-1.0), Bytes(0));
        assert_eq!(mebibits_to_bytes(8.0), 1_048_576.0);
    }
}
