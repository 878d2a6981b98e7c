//! Aggregates by row and by bin of time.

use std::collections::{HashMap, HashSet};

use super::visit::Visitor;
use crate::hot::Row;
use crate::segment::rollup::RollupRow;
use crate::tables::TimeRange;

/// Cells of a grid that is kept whole; one that would have more keeps those that something is in.
const DENSE_CELLS: usize = 1 << 20;

/// How time is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bins {
    /// Not at all.
    Whole,
    /// Into bins of this many ms, one of which begins at 1970-01-01.
    Every(i64),
}

impl Bins {
    /// The number of the bin that has `time`.
    #[inline]
    fn number(self, time: i64) -> i64 {
        match self {
            Bins::Whole => 0,
            Bins::Every(width) => time.div_euclid(width),
        }
    }

    /// The times of a bin.
    fn range(self, number: i64) -> TimeRange {
        match self {
            Bins::Whole => TimeRange::ALL,
            Bins::Every(width) => {
                let from = number.saturating_mul(width);
                TimeRange { from, to: from.saturating_add(width - 1) }
            }
        }
    }

    /// Where a bin begins, in ms UTC.
    pub(crate) fn start(self, number: i64) -> i64 {
        self.range(number).from
    }
}

/// What some samples come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) count: u64,
    /// Added up in the order of time.
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Time and value; of several at that time the largest.
    pub(crate) first: (i64, f64),
    /// As `first`.
    pub(crate) last: (i64, f64),
}

impl Cell {
    pub(crate) const EMPTY: Cell = Cell {
        count: 0,
        sum: 0.0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        first: (i64::MAX, f64::NEG_INFINITY),
        last: (i64::MIN, f64::NEG_INFINITY),
    };

    #[inline]
    fn add(&mut self, time: i64, value: f64) {
        self.count += 1;
        self.sum += value;
        // Values are finite, so these say what comparing says.
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        self.see_ends((time, value), (time, value));
    }

    #[inline]
    fn see_ends(&mut self, first: (i64, f64), last: (i64, f64)) {
        if first.0 < self.first.0 || (first.0 == self.first.0 && first.1 > self.first.1) {
            self.first = first;
        }
        if last.0 > self.last.0 || (last.0 == self.last.0 && last.1 > self.last.1) {
            self.last = last;
        }
    }

    /// A cell of which only the last sample is known.
    pub(crate) fn of_last(time: i64, value: f64) -> Self {
        Cell { count: 1, last: (time, value), ..Cell::EMPTY }
    }

    /// Adds what `other` has seen.
    pub(crate) fn merge(&mut self, other: &Cell) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = if other.min < self.min { other.min } else { self.min };
        self.max = if other.max > self.max { other.max } else { self.max };
        self.see_ends(other.first, other.last);
    }
}

/// One cell for each row and bin.
#[derive(Debug)]
pub(crate) struct Grid {
    bins: Bins,
    /// Number of the first bin, and how many there are.
    first: i64,
    width: usize,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    /// Row by row.
    Dense(Vec<Cell>),
    Sparse(HashMap<(u32, i64), Cell, ahash::RandomState>),
}

impl Grid {
    /// A grid of `rows` for times in `range`, which must not be empty.
    pub(crate) fn new(rows: usize, bins: Bins, range: TimeRange) -> Self {
        let (first, last) = (bins.number(range.from), bins.number(range.to));
        let width = usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX).saturating_add(1);
        let cells = match rows.saturating_mul(width) {
            cells if cells <= DENSE_CELLS || width == 1 => Cells::Dense(vec![Cell::EMPTY; cells]),
            _ => Cells::Sparse(HashMap::default()),
        };
        Self { bins, first, width, cells }
    }

    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        match &self.cells {
            Cells::Dense(cells) => cells.len() * size_of::<Cell>(),
            Cells::Sparse(cells) => cells.capacity() * (size_of::<((u32, i64), Cell)>() + 1),
        }
    }

    #[inline]
    pub(crate) fn cell(&mut self, row: u32, number: i64) -> &mut Cell {
        match &mut self.cells {
            Cells::Dense(cells) => &mut cells[row as usize * self.width + (number - self.first) as usize],
            Cells::Sparse(cells) => cells.entry((row, number)).or_insert(Cell::EMPTY),
        }
    }

    /// The cells that something is in with row and bin, sorted by them.
    pub(crate) fn filled(&self) -> Vec<(u32, i64, Cell)> {
        match &self.cells {
            Cells::Dense(cells) => {
                let rows = (0u32..).zip(cells.chunks_exact(self.width.max(1)));
                let filled = rows.flat_map(|(row, cells)| {
                    let cells = (self.first..).zip(cells).filter(|(_, cell)| cell.count > 0);
                    cells.map(move |(number, cell)| (row, number, *cell))
                });
                filled.collect()
            }
            Cells::Sparse(cells) => {
                let mut filled: Vec<_> = cells.iter().map(|(&(row, number), cell)| (row, number, *cell)).collect();
                filled.sort_unstable_by_key(|(row, number, _)| (*row, *number));
                filled
            }
        }
    }

    fn clear_all(&mut self) {
        match &mut self.cells {
            Cells::Dense(cells) => cells.fill(Cell::EMPTY),
            Cells::Sparse(cells) => cells.clear(),
        }
    }

    fn clear(&mut self, rows: &HashSet<u32>) {
        match &mut self.cells {
            Cells::Dense(cells) => {
                rows.iter().for_each(|row| cells[*row as usize * self.width..][..self.width].fill(Cell::EMPTY));
            }
            Cells::Sparse(cells) => cells.retain(|(row, _), _| !rows.contains(row)),
        }
    }
}

/// Fills a grid whose rows are labels, or some of them.
pub(crate) struct Filling<'a> {
    pub(crate) grid: Grid,
    /// The row of each label, where rows are not labels.
    rows: Option<&'a [u32]>,
    /// Number and times of the bin that the last sample was in.
    number: i64,
    times: TimeRange,
    /// Set while it matters.
    exact: Option<Exact>,
}

/// Whether sums are the same in whichever order they are added up.
#[derive(Clone, Copy, Debug)]
struct Exact {
    /// Whether all that was added is whole.
    whole: bool,
    /// No sum, of whatever was added until then, is larger.
    bound: f64,
}

impl Exact {
    fn see(&mut self, value: f64, times: f64) {
        self.whole &= value.fract() == 0.0;
        self.bound += value.abs() * times;
    }

    fn holds(self) -> bool {
        // Up to 2^53 doubles have all whole numbers; the bound itself may be off by its own rounding, far less than half.
        self.whole && self.bound < 4_503_599_627_370_496.0
    }
}

impl<'a> Filling<'a> {
    pub(crate) fn new(grid: Grid, rows: Option<&'a [u32]>) -> Self {
        // No time is in it.
        let times = TimeRange { from: i64::MAX, to: i64::MIN };
        Self { grid, rows, number: 0, times, exact: None }
    }

    #[inline]
    fn bin(&mut self, time: i64) -> i64 {
        if time < self.times.from || self.times.to < time {
            self.number = self.grid.bins.number(time);
            self.times = self.grid.bins.range(self.number);
        }
        self.number
    }

    /// Adds what a roll-up says of the samples of a label.
    pub(crate) fn rolled_up(&mut self, label: Option<u32>, row: &RollupRow) {
        let Some(label) = label else { return };
        let (number, place) = (self.grid.bins.number(row.time), self.place(label));
        let seen = Cell { count: u64::from(row.count), sum: row.sum, min: row.min, max: row.max, ..Cell::EMPTY };
        self.grid.cell(place, number).merge(&seen);
        if let Some(exact) = &mut self.exact {
            exact.see(row.min, f64::from(row.count));
            exact.see(row.max, f64::from(row.count));
        }
    }

    /// From now on it is watched whether the order makes a difference to sums.
    pub(crate) fn watch_sums(&mut self) {
        self.exact = Some(Exact { whole: true, bound: 0.0 });
    }

    /// Whether the order made no difference, as far as it was watched.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact.is_none_or(Exact::holds)
    }

    /// Begins anew, without watching.
    pub(crate) fn begin_anew(&mut self) {
        self.grid.clear_all();
        self.exact = None;
    }

    #[inline]
    fn place(&self, label: u32) -> u32 {
        self.rows.map_or(label, |rows| rows[label as usize])
    }
}

impl Visitor for Filling<'_> {
    #[inline]
    fn row(&mut self, label: u32, time: i64, value: f64) {
        let number = self.bin(time);
        let place = self.place(label);
        self.grid.cell(place, number).add(time, value);
        if let Some(exact) = &mut self.exact {
            exact.see(value, 1.0);
        }
    }

    fn run(&mut self, label: u32, mut rows: &[Row]) {
        let place = self.place(label);
        if let Some(exact) = &mut self.exact {
            rows.iter().for_each(|row| exact.see(row.value, 1.0));
        }
        while let Some(first) = rows.first() {
            let number = self.bin(first.time);
            let end = self.times.to;
            let cell = self.grid.cell(place, number);
            let mut sum = *cell;
            let mut count = 0;
            for row in rows.iter().take_while(|row| row.time <= end) {
                sum.add(row.time, row.value);
                count += 1;
            }
            *cell = sum;
            rows = &rows[count..];
        }
    }

    fn forget(&mut self, late: &mut [bool]) {
        let labels = (0u32..).zip(late.iter()).filter(|(_, late)| **late);
        let rows: HashSet<u32> = labels.map(|(label, _)| self.place(label)).collect();
        self.grid.clear(&rows);
        // Other labels of these rows were forgotten with them.
        for (label, late) in (0u32..).zip(late) {
            *late |= rows.contains(&self.place(label));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time: i64, value: f64) -> Row {
        Row { series: 0, time, value }
    }

    #[test]
    fn runs_and_single_rows_fill_the_same_cells_of_dense_and_sparse_grids() {
        let rows: Vec<Row> = (-7..9).map(|time| row(time, time as f64 / 4.0)).collect();
        let range = TimeRange { from: -10, to: 20 };
        let fill = |labels, by_run: bool| {
            let mut filling = Filling::new(Grid::new(labels, Bins::Every(5), range), None);
            if by_run {
                filling.run(1, &rows);
            } else {
                rows.iter().for_each(|row| filling.row(1, row.time, row.value));
            }
            filling.grid.filled()
        };
        let filled = fill(2, true);
        let shown: Vec<_> =
            filled.iter().map(|(row, bin, cell)| (*row, *bin, cell.count, cell.min, cell.max)).collect();
        assert_eq!(
            shown,
            [(1, -2, 2, -1.75, -1.5), (1, -1, 5, -1.25, -0.25), (1, 0, 5, 0.0, 1.0), (1, 1, 4, 1.25, 2.0)]
        );
        for labels in [2, DENSE_CELLS] {
            assert_eq!(fill(labels, true), filled);
            assert_eq!(fill(labels, false), filled);
        }
    }

    #[test]
    fn labels_are_forgotten_one_by_one() {
        for labels in [3, DENSE_CELLS] {
            let range = TimeRange { from: 0, to: 20 };
            let mut filling = Filling::new(Grid::new(labels, Bins::Every(5), range), Some(&[2, 1, 0]));
            (0..3).for_each(|label| filling.run(label, &[row(1, 1.0), row(7, f64::from(label))]));
            filling.forget(&mut [true, false, true]);
            let left = filling.grid.filled().iter().map(|(row, bin, cell)| (*row, *bin, cell.sum)).collect::<Vec<_>>();
            assert_eq!(left, [(1, 0, 1.0), (1, 1, 1.0)]);
        }
    }

    #[test]
    fn a_label_is_forgotten_with_those_of_its_row() {
        let mut filling = Filling::new(Grid::new(2, Bins::Whole, TimeRange::ALL), Some(&[0, 1, 0, u32::MAX]));
        (0..3).for_each(|label| filling.row(label, 1, f64::from(label)));
        let mut late = [true, false, false, false];
        filling.forget(&mut late);
        assert_eq!(late, [true, false, true, false]);
        assert_eq!(filling.grid.filled().iter().map(|(row, _, cell)| (*row, cell.max)).collect::<Vec<_>>(), [(1, 1.0)]);
    }

    #[test]
    fn without_bins_there_is_one_cell_a_row() {
        let mut filling = Filling::new(Grid::new(3, Bins::Whole, TimeRange::ALL), Some(&[9, 0, 9, 2]));
        filling.run(1, &[row(1, 1.0), row(i64::MAX, 3.0)]);
        filling.row(3, i64::MIN, 5.0);
        let filled: Vec<_> = filling.grid.filled().iter().map(|(row, _, cell)| (*row, cell.sum)).collect();
        assert_eq!(filled, [(0, 4.0), (2, 5.0)]);
        filling.forget(&mut [false, true, false, true]);
        assert!(filling.grid.filled().is_empty());
    }
}
