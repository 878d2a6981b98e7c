//! Sums of several series of measurements, at the instants at which all of them were measured.

use std::collections::BTreeMap;

use super::statistics::Window;

/// The shortest distance of two instants.
const SHORTEST_MS: i64 = 1_000;

/// The sum of several windows.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Aligned {
    /// The distance of the instants.
    pub(super) step_ms: i64,
    /// The sums at instants at which all were measured.
    pub(super) whole: Window,
    /// Instants at which some were measured and some were not: a sum of those alone would look like a fall.
    pub(super) partial: i64,
}

/// Sums `windows`, none of which is empty, at instants that lie a step apart back from `now`. A measurement belongs to the
/// nearest of them; of several of one window at the same instant the mean counts.
///
/// The step is the usual distance (the median) of the measurements of the window that has the fewest, in whole seconds: with a
/// shorter one, instants without that window would be left out though nothing is missing.
pub(super) fn aligned(windows: &mut [Window], now: i64) -> Aligned {
    let step_ms = windows.iter_mut().filter_map(spacing).max().unwrap_or(SHORTEST_MS);
    // The sum of the means, and of how many windows.
    let mut sums: BTreeMap<i64, (f64, usize)> = BTreeMap::new();
    for window in windows.iter_mut() {
        let mut means: BTreeMap<i64, (f64, u32)> = BTreeMap::new();
        for (time, value) in window.sorted() {
            let back = (now - time + step_ms / 2).div_euclid(step_ms);
            let mean = means.entry(now - back * step_ms).or_default();
            *mean = (mean.0 + value, mean.1 + 1);
        }
        for (instant, (sum, count)) in means {
            let all = sums.entry(instant).or_default();
            *all = (all.0 + sum / f64::from(count), all.1 + 1);
        }
    }
    let mut aligned = Aligned { step_ms, ..Aligned::default() };
    for (instant, (sum, of)) in sums {
        if of == windows.len() {
            aligned.whole.push(instant, sum);
        } else {
            aligned.partial += 1;
        }
    }
    aligned
}

/// The median distance of the measurements in whole seconds; `None` where there is none.
fn spacing(window: &mut Window) -> Option<i64> {
    let points = window.sorted();
    let mut distances: Vec<i64> = points.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|ms| *ms > 0).collect();
    if distances.is_empty() {
        return None;
    }
    let middle = (distances.len() - 1) / 2;
    let (_, median, _) = distances.select_nth_unstable(middle);
    Some(((*median + SHORTEST_MS / 2) / SHORTEST_MS * SHORTEST_MS).max(SHORTEST_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;

    /// Seconds before now, and values.
    fn window(points: &[(f64, f64)]) -> Window {
        let mut window = Window::default();
        for (ago, value) in points {
            window.push(NOW - (ago * 1000.0) as i64, *value);
        }
        window
    }

    fn sum(windows: &mut [Window]) -> (i64, Vec<(i64, f64)>, i64) {
        let mut aligned = aligned(windows, NOW);
        let whole = aligned.whole.sorted().iter().map(|(time, value)| ((NOW - time) / 1000, *value)).collect();
        (aligned.step_ms / 1000, whole, aligned.partial)
    }

    #[test]
    fn an_instant_at_which_somebody_is_missing_is_no_sum() {
        let mut windows =
            [window(&[(3.0, 1.0), (2.0, 1.0), (1.0, 1.0), (0.0, 1.0)]), window(&[(3.0, 5.0), (2.0, 5.0), (0.0, 6.0)])];
        assert_eq!(sum(&mut windows), (1, vec![(3, 6.0), (2, 6.0), (0, 7.0)], 1));
    }

    #[test]
    fn whoever_measures_least_often_says_how_far_apart_instants_are() {
        let fine: Vec<(f64, f64)> = (0..20).map(|ago| (f64::from(ago), 1.0)).collect();
        let mut windows = [window(&fine), window(&[(12.3, 4.0), (7.3, 4.0), (2.3, 8.0)])];
        let (step, whole, _) = sum(&mut windows);
        assert_eq!((step, whole), (5, vec![(10, 5.0), (5, 5.0), (0, 9.0)]));
    }

    #[test]
    fn clocks_that_differ_by_less_than_half_a_step_do_not_matter() {
        let mut windows =
            [window(&[(2.0, 1.0), (1.0, 2.0), (0.0, 3.0)]), window(&[(2.3, 1.0), (1.3, 1.0), (0.3, 1.0)])];
        assert_eq!(sum(&mut windows), (1, vec![(2, 2.0), (1, 3.0), (0, 4.0)], 0));
    }

    proptest! {
        #[test]
        fn the_sum_of_what_is_always_measured_is_the_sum_of_the_values(
            values in prop::collection::vec(prop::collection::vec(0.0_f64..10.0, 30), 1..6),
            missing in prop::option::of((0_usize..6, 0_usize..30)),
        ) {
            let mut windows: Vec<Window> = values.iter().enumerate().map(|(of, values)| {
                let points = values.iter().enumerate().filter(|(ago, _)| missing != Some((of, *ago)));
                window(&points.map(|(ago, value)| (ago as f64, *value)).collect::<Vec<_>>())
            }).collect();
            let lacks = missing.filter(|(of, _)| *of < values.len());
            let (step, whole, partial) = sum(&mut windows);
            prop_assert_eq!(step, 1);
            // Of one alone that is not measured, nobody knows that it is missing.
            prop_assert_eq!(partial, i64::from(lacks.is_some() && values.len() > 1));
            prop_assert_eq!(whole.len(), 30 - usize::from(lacks.is_some()));
            for (ago, sum) in whole {
                let expected: f64 = values.iter().map(|values| values[ago as usize]).sum();
                prop_assert!((sum - expected).abs() < 1e-9);
            }
        }
    }
}
