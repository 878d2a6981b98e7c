//! Long time ranges in pieces, newest first unless they are wanted the other way round.

/// Width of the first piece: most questions are about the last minutes and take one read.
const FIRST_MS: i64 = 10 * 60 * 1000;
/// Width of the widest piece. What lies before a long time without rows is read in one go, however much it is.
const WIDEST_MS: i64 = 6 * 3600 * 1000;
/// A piece with fewer rows makes the next one twice as wide.
const FEW_ROWS: usize = 200_000;
/// A piece with more rows makes the next one half as wide.
const MANY_ROWS: usize = 800_000;

/// Cuts an inclusive time range into pieces whose number of rows stays within bounds, so that a scan over weeks neither
/// holds them all in memory nor runs for long without looking at the deadline. Only the times that are stored at all are
/// cut up, so a range may be open to the past and reach far into the future.
#[derive(Debug)]
pub(crate) struct Slices {
    from: i64,
    to: i64,
    width: i64,
    oldest_first: bool,
    done: bool,
}

impl Slices {
    /// `stored` are the earliest and the latest time of what there is.
    pub(crate) fn new(from: i64, to: i64, stored: Option<(i64, i64)>) -> Self {
        let (earliest, latest) = stored.unwrap_or((i64::MAX, i64::MIN));
        let (from, to) = (from.max(earliest), to.min(latest));
        Self { from, to, width: FIRST_MS, oldest_first: false, done: from > to }
    }

    /// Begins with a piece that is as wide as it may be for so few series with a sample each second.
    pub(crate) fn of_series(mut self, series: usize) -> Self {
        let seconds = i64::try_from(MANY_ROWS / series.max(1)).unwrap_or(i64::MAX);
        self.width = seconds.saturating_mul(1000).clamp(FIRST_MS, WIDEST_MS);
        self
    }

    /// The same pieces of time, beginning with the oldest.
    pub(crate) fn oldest_first(mut self) -> Self {
        self.oldest_first = true;
        self
    }

    /// Whether there is no more than one piece, before any was given.
    pub(crate) fn is_one(&self) -> bool {
        self.done || self.to.saturating_sub(self.from) < self.width
    }

    /// The next piece, inclusive at both ends.
    pub(crate) fn next(&mut self) -> Option<(i64, i64)> {
        if self.done {
            return None;
        }
        if self.oldest_first {
            let from = self.from;
            let to = from.saturating_add(self.width - 1).min(self.to);
            self.done = to == self.to;
            if !self.done {
                self.from = to + 1;
            }
            return Some((from, to));
        }
        let to = self.to;
        let from = to.saturating_sub(self.width - 1).max(self.from);
        self.done = from == self.from || from == i64::MIN;
        if !self.done {
            self.to = from - 1;
        }
        Some((from, to))
    }

    /// Tells how many rows the last piece had.
    pub(crate) fn had(&mut self, rows: usize) {
        if rows < FEW_ROWS {
            self.width = self.width.saturating_mul(2).min(WIDEST_MS);
        } else if rows > MANY_ROWS {
            self.width = (self.width / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_once_and_without_gaps() {
        let mut slices = Slices::new(-5, 100_000_000, Some((i64::MIN, i64::MAX)));
        let mut expected_to = 100_000_000;
        let mut rows = [0, 5_000_000, 300_000].iter().cycle();
        while let Some((from, to)) = slices.next() {
            assert_eq!(to, expected_to);
            assert!(from <= to);
            expected_to = from - 1;
            slices.had(*rows.next().unwrap());
        }
        assert_eq!(expected_to, -6);
    }

    #[test]
    fn pieces_cover_the_range_the_other_way_round_too() {
        let mut slices = Slices::new(-5, 100_000_000, Some((i64::MIN, i64::MAX))).oldest_first();
        let mut expected_from = -5;
        let mut rows = [0, 5_000_000, 300_000].iter().cycle();
        while let Some((from, to)) = slices.next() {
            assert_eq!(from, expected_from);
            assert!(from <= to);
            expected_from = to + 1;
            slices.had(*rows.next().unwrap());
        }
        assert_eq!(expected_from, 100_000_001);
        assert_eq!(Slices::new(5, 4, Some((0, 9))).oldest_first().next(), None);
    }

    #[test]
    fn only_stored_times_are_cut_up_and_no_piece_is_wider_than_the_widest() {
        let week = 7 * 24 * 3600 * 1000;
        let mut slices = Slices::new(i64::MIN, i64::MAX, Some((0, week)));
        let (mut pieces, mut widest) = (0, 0);
        while let Some((from, to)) = slices.next() {
            assert!(0 <= from && to <= week);
            slices.had(0);
            pieces += 1;
            widest = widest.max(to - from + 1);
        }
        assert_eq!(widest, WIDEST_MS);
        assert!(pieces < 40, "{pieces}");
        assert_eq!(Slices::new(i64::MIN, i64::MAX, None).next(), None);
    }

    #[test]
    fn few_series_are_read_in_few_pieces() {
        let day = 24 * 3600 * 1000;
        let first =
            |series| Slices::new(0, day, Some((0, day))).of_series(series).next().map(|(from, to)| to - from + 1);
        assert_eq!((first(0), first(1), first(100)), (Some(WIDEST_MS), Some(WIDEST_MS), Some(8_000_000)));
        assert_eq!(first(1_000_000), Some(FIRST_MS));
    }

    #[test]
    fn what_fits_into_the_first_piece_is_one() {
        for (to, is_one) in [(FIRST_MS - 1, true), (FIRST_MS, false)] {
            let mut slices = Slices::new(0, to, Some((0, i64::MAX)));
            assert_eq!(slices.is_one(), is_one);
            slices.next();
            assert_eq!(slices.next().is_none(), is_one);
        }
    }

    #[test]
    fn an_empty_range_has_no_piece_and_one_instant_has_one() {
        assert_eq!(Slices::new(5, 4, Some((0, 9))).next(), None);
        assert!(Slices::new(5, 4, Some((0, 9))).is_one());
        let mut one = Slices::new(5, 5, Some((0, 9)));
        assert!(one.is_one());
        assert_eq!(one.next(), Some((5, 5)));
        assert_eq!(one.next(), None);
    }
}
