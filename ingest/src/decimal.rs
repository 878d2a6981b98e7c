//! Decimal numbers, read from bytes without a detour.

/// 10 to the power of 0 to 22: the powers that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// Integers up to here are exact as `f64`.
const MAX_EXACT: u64 = 1 << 53;
/// So many digits fit into a `u64` whatever they are.
const MAX_DIGITS: usize = 19;

/// A number as JSON spells it, at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number {
    /// Correctly rounded; finite.
    pub value: f64,
    /// How many bytes it takes.
    pub length: usize,
    /// How many digits it has, when it is an integer without an exponent.
    pub integer_digits: Option<usize>,
}

/// Reads the longest number with JSON's grammar that `text` begins with; `None` when there is none or it is beyond the
/// range of an `f64`. What stands behind it is the caller's question.
pub(crate) fn number(text: &[u8]) -> Option<Number> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut mantissa = 0u64;
    let mut at = start;
    let mut take_digits = |at: &mut usize| {
        let from = *at;
        while let Some(digit) = text.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
            // Wraps only with more digits than count below.
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            *at += 1;
        }
        *at - from
    };
    let whole = take_digits(&mut at);
    if whole == 0 || (whole > 1 && text[start] == b'0') {
        return None;
    }
    let mut fraction = 0;
    let mut length = at;
    if text.get(at) == Some(&b'.') {
        at += 1;
        fraction = take_digits(&mut at);
        if fraction == 0 {
            return None;
        }
        length = at;
    }
    let mut exponent = 0i64;
    let has_exponent = matches!(text.get(at), Some(b'e' | b'E'));
    if has_exponent {
        let (written, digits) = read_exponent(&text[at + 1..])?;
        exponent = written;
        length = at + 1 + digits;
    }
    let value = exact(mantissa, whole + fraction, exponent - fraction as i64);
    let value = match value {
        Some(value) if negative => -value,
        Some(value) => value,
        None => std::str::from_utf8(&text[..length]).ok()?.parse().ok().filter(|value: &f64| value.is_finite())?,
    };
    let is_integer = fraction == 0 && !has_exponent;
    Some(Number { value, length, integer_digits: is_integer.then_some(whole) })
}

/// Both factors are exact, so the one operation rounds correctly (Clinger 1990).
fn exact(mantissa: u64, digits: usize, exponent: i64) -> Option<f64> {
    if digits > MAX_DIGITS || mantissa > MAX_EXACT {
        return None;
    }
    let power = *POWERS.get(usize::try_from(exponent.unsigned_abs()).ok()?)?;
    let mantissa = mantissa as f64;
    Some(if exponent < 0 { mantissa / power } else { mantissa * power })
}

/// An exponent behind its `e`, and how many bytes it takes.
fn read_exponent(text: &[u8]) -> Option<(i64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text[sign..].iter().take_while(|byte| byte.is_ascii_digit());
    let (mut exponent, mut length) = (0i64, sign);
    for digit in digits {
        exponent = exponent.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        length += 1;
    }
    // Kept away from the ends, so that the caller can subtract.
    let exponent = exponent.min(1_000_000_000);
    (length > sign).then_some((if text.first() == Some(&b'-') { -exponent } else { exponent }, length))
}

/// Reads the digits that `text` begins with as an integer, and how many they are; `None` without any, or when they may not
/// fit.
pub(crate) fn digits(text: &[u8]) -> Option<(i64, usize)> {
    let (mut value, mut length) = (0i64, 0);
    while let Some(digit) = text.get(length).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        length += 1;
    }
    // The greatest `i64` has 19 digits; with 18 all fit.
    (1..MAX_DIGITS).contains(&length).then_some((value, length)).or_else(|| {
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        Some((text.parse().ok()?, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_grammar_is_jsons() {
        for (text, value, length) in [
            ("0", 0.0, 1),
            ("-0.5e+3,", -500.0, 7),
            ("12.50\"", 12.5, 5),
            ("1e-3}", 0.001, 4),
            ("9007199254740993", 9_007_199_254_740_992.0, 16),
            ("123456789012345678901234567890", 123_456_789_012_345_678_901_234_567_890.0, 30),
            ("1.7976931348623157e308", f64::MAX, 22),
            ("5e-324", 5e-324, 6),
            ("1e-999999999999999999999", 0.0, 24),
        ] {
            let found = number(text.as_bytes()).unwrap();
            assert_eq!((found.value, found.length), (value, length), "{text}");
        }
        for text in ["", "-", "+1", ".5", "5.", "01", "1e", "1e+", "1e400", "-1e99999999999999999999", "NaN", "inf"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(number(b"-0").unwrap().value.to_bits(), (-0.0f64).to_bits());
        assert_eq!(number(b"120i").unwrap().integer_digits, Some(3));
        assert_eq!(number(b"120.0").unwrap().integer_digits, None);
        assert_eq!(digits(b"9223372036854775807 "), Some((i64::MAX, 19)));
        assert_eq!((digits(b"9223372036854775808"), digits(b""), digits(b"0012x")), (None, None, Some((12, 4))));
    }

    proptest! {
        #[test]
        fn every_number_is_rounded_as_the_standard_library_does(
            text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?"
        ) {
            let expected: f64 = text.parse().unwrap();
            let found = number(text.as_bytes());
            if expected.is_finite() {
                let found = found.unwrap();
                prop_assert_eq!((found.value.to_bits(), found.length), (expected.to_bits(), text.len()));
            } else {
                prop_assert_eq!(found, None);
            }
        }

        #[test]
        fn two_decimals_are_exact(cents in -100_000_000_000i64..100_000_000_000) {
            let text = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
            prop_assert_eq!(number(text.as_bytes()).unwrap().value, text.parse::<f64>().unwrap());
        }

        #[test]
        fn no_bytes_make_it_panic(text: Vec<u8>) {
            number(&text);
            digits(&text);
        }
    }
}
