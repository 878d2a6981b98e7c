//! Decimals as integers: most gauges and counters have few decimals, and integers take a quarter of the bytes that
//! doubles take.
//!
//! A value is only ever stored as `(scaled, scale)` when `scaled / 10^scale` has the very bits of the value, computed with
//! one conversion and one division, both correctly rounded by IEEE 754. So every reader gets the same double back:
//! `10^scale` is exact up to 10^22. Negative zero and what has too many digits fail that comparison and stay doubles.

/// The most decimals that are tried: nanoseconds in a second.
pub(crate) const MAX_SCALE: u8 = 9;

const POW10: [f64; MAX_SCALE as usize + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// One in this many values may be no decimal for a series to be stored as decimals.
const EXCEPTIONS: usize = 16;

/// `10^scale`; `None` beyond [`MAX_SCALE`].
pub(crate) fn power(scale: u8) -> Option<f64> {
    POW10.get(usize::from(scale)).copied()
}

/// The integer that stands for `value` at `scale`; `None` when no integer gives its very bits back.
pub(crate) fn to_scaled(value: f64, scale: u8) -> Option<i64> {
    let power = power(scale)?;
    let wide = value * power;
    // From 2^52 on there are no fractions to round, and adding a half would make some.
    let scaled =
        if wide.abs() < 4_503_599_627_370_496.0 { (wide + 0.5_f64.copysign(wide)) as i64 } else { wide as i64 };
    (from_scaled(scaled, power).to_bits() == value.to_bits()).then_some(scaled)
}

/// The value that `scaled` stands for, given `10^scale`.
pub(crate) fn from_scaled(scaled: i64, power: f64) -> f64 {
    scaled as f64 / power
}

/// The smallest scale at which all of the values are integers, but for a few; `None` when they are not decimals.
pub(crate) fn smallest_scale(values: impl ExactSizeIterator<Item = f64>) -> Option<u8> {
    let allowed = values.len() / EXCEPTIONS;
    let (mut scale, mut exceptions) = (0, 0);
    for value in values {
        if to_scaled(value, scale).is_some() {
            continue;
        }
        match (scale + 1..=MAX_SCALE).find(|&scale| to_scaled(value, scale).is_some()) {
            Some(larger) => scale = larger,
            None => exceptions += 1,
        }
        if exceptions > allowed {
            return None;
        }
    }
    Some(scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_find_their_scale_and_odd_values_stay_doubles() {
        let scale = |values: &[f64]| smallest_scale(values.iter().copied());
        assert_eq!(scale(&[0.0, 3.0, -7.0, 1e15]), Some(0));
        assert_eq!(scale(&[0.25, 3.0, 100.1]), Some(2));
        assert_eq!(scale(&[1e-9]), Some(9));
        assert_eq!(scale(&[0.1 + 0.2]), None);
        let one_odd: Vec<f64> = (0..32).map(|n| if n == 7 { 1.0 / 3.0 } else { f64::from(n) }).collect();
        assert_eq!(scale(&one_odd), Some(0));
        assert_eq!(to_scaled(-0.0, 0), None);
        assert_eq!(to_scaled(0.0, 3), Some(0));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 1e300] {
            assert_eq!((0..=MAX_SCALE).find_map(|scale| to_scaled(value, scale)), None, "{value}");
        }
        // Odd integers around 2^52 and 2^53, where adding a half would round.
        for n in [4_503_599_627_370_495_i64, 4_503_599_627_370_497, 9_007_199_254_740_991, 1 << 62] {
            assert_eq!(to_scaled(n as f64, 0), Some(n));
        }
    }

    proptest! {
        /// Whatever the bits: an integer is only given for a value that it gives back.
        #[test]
        fn what_is_scaled_comes_back_to_the_bit(bits: u64, scale in 0..=MAX_SCALE) {
            let value = f64::from_bits(bits);
            if let Some(scaled) = to_scaled(value, scale) {
                prop_assert_eq!(from_scaled(scaled, power(scale).unwrap()).to_bits(), bits);
            }
        }

        /// Every decimal of up to 15 digits is found.
        #[test]
        fn decimals_are_scaled(digits in -999_999_999_999_999_i64..=999_999_999_999_999, scale in 0..=MAX_SCALE) {
            let text = format!("{digits}e-{scale}");
            let value: f64 = text.parse().unwrap();
            let found = smallest_scale([value].into_iter());
            prop_assert!(found.is_some_and(|found| found <= scale), "{} has {:?}", text, found);
        }
    }
}
