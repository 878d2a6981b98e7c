//! Roll-ups: what a minute's or an hour's samples come to, so that a long range is drawn from few rows.
//!
//! A compaction writes them beside the samples, in one file a step, sorted like them and with the same decimals; other
//! tools find a series' tags in the sample file. Bins begin at multiples of the step since the epoch and, like partitions,
//! never reach over a segment's end.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int8Array, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::hot::Row;
use crate::scan::Wanted;
use crate::segment::Segment;
use crate::segment::columns::{Coding, Codings, ColumnFile, Effort};
use crate::segment::samples::{MetricRange, RANGES, SeriesRun, metric_column, ranges_json, text};
use crate::segment::scaled;

/// Rows that a metric needs to have for a row group of its own.
const OWN_GROUP_ROWS: usize = 8_192;
/// Rows of one row group at most.
const GROUP_ROWS: usize = 4 << 20;

/// How long the bins of a roll-up are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    Minute,
    Hour,
}

impl Step {
    pub(crate) const ALL: [Step; 2] = [Step::Minute, Step::Hour];

    pub(crate) fn ms(self) -> i64 {
        match self {
            Step::Minute => 60_000,
            Step::Hour => 3_600_000,
        }
    }

    /// As it is called in file names.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Step::Minute => "1m",
            Step::Hour => "1h",
        }
    }
}

/// What the samples of one series in one bin come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RollupRow {
    pub series: u32,
    /// When the bin begins, in ms UTC.
    pub time: i64,
    pub min: f64,
    pub max: f64,
    /// Of decimals the exact sum, rounded once; otherwise the sum in the order of time. It may differ from a sum in another
    /// order in the last digits. See [`Bin`].
    pub sum: f64,
    pub count: u32,
    /// The latest value.
    pub last: f64,
}

/// What the samples of a bin come to, as they are shown one by one in the order of time.
///
/// It says the same of the same samples whoever shows them, a compaction or a question, and whatever else lies around them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bin {
    time: i64,
    min: f64,
    max: f64,
    last: f64,
    count: u32,
    /// In the order of time.
    sum: f64,
    /// The same without rounding, as an integer and its scale, while all samples are decimals.
    exact: Option<(i64, u8)>,
}

impl Bin {
    /// An empty bin that begins at `time`, in ms UTC.
    pub(crate) fn new(time: i64) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { time, min, max, last: 0.0, count: 0, sum: 0.0, exact: Some((0, 0)) }
    }

    /// When it begins.
    pub(crate) fn time(&self) -> i64 {
        self.time
    }

    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        self.last = value;
        self.sum += value;
        self.exact = self.exact.and_then(|sum| with_decimal(sum, value));
    }

    pub(crate) fn row(&self, series: u32) -> RollupRow {
        let exact = self.exact.and_then(|(sum, scale)| Some(scaled::from_scaled(sum, scaled::power(scale)?)));
        let Bin { time, min, max, last, count, .. } = *self;
        RollupRow { series, time, min, max, sum: exact.unwrap_or(self.sum), count, last }
    }
}

/// A sum, given as an integer and its scale, with one more value; `None` when that is no decimal, or the sum has no room.
#[inline]
fn with_decimal((sum, scale): (i64, u8), value: f64) -> Option<(i64, u8)> {
    if let Some(more) = scaled::to_scaled(value, scale) {
        return Some((sum.checked_add(more)?, scale));
    }
    let at = |scale| Some((scaled::to_scaled(value, scale)?, scale));
    let (more, wider) = (scale + 1..=scaled::MAX_SCALE).find_map(at)?;
    let sum = sum.checked_mul(10_i64.pow(u32::from(wider - scale)))?;
    Some((sum.checked_add(more)?, wider))
}

/// The roll-ups of sorted samples, sorted, each with the scale of its samples.
pub(crate) fn roll_up_all(runs: &[SeriesRun<'_>], step: Step) -> Vec<(RollupRow, Option<u8>)> {
    let bin = |row: &Row| row.time.div_euclid(step.ms());
    let bins =
        runs.iter().flat_map(|run| run.rows.chunk_by(move |a, b| bin(a) == bin(b)).map(|rows| (rows, run.scale)));
    let rolled_up = |rows: &[Row]| {
        let first = rows.first()?;
        let mut all = Bin::new(bin(first) * step.ms());
        rows.iter().for_each(|row| all.add(row.value));
        Some(all.row(first.series))
    };
    bins.filter_map(|(rows, scale)| Some((rolled_up(rows)?, scale))).collect()
}

/// A file of roll-ups being written.
pub(crate) struct RollupFile {
    step: Step,
    file: ColumnFile,
    ranges: Vec<MetricRange>,
    /// Samples that a bin has to save on average for a metric to be kept.
    min_samples: usize,
    /// The metric that is being written, and whether it is kept.
    current: Option<(String, bool)>,
    group_bytes: usize,
}

impl RollupFile {
    pub(crate) fn create(path: &Path, step: Step, min_samples: usize, group_bytes: usize) -> Result<Self, StoreError> {
        let file = ColumnFile::create(path, schema(), CODINGS, &[0, 1, 2], Effort::Hardest)?;
        Ok(Self { step, file, ranges: Vec::new(), min_samples, current: None, group_bytes })
    }

    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Appends whole series of a metric, sorted. Metrics come in the order of their names.
    pub(crate) fn write(&mut self, metric: &str, runs: &[SeriesRun<'_>]) -> Result<(), StoreError> {
        let known = self.current.as_ref().filter(|(current, _)| current == metric).map(|(_, kept)| *kept);
        if runs.is_empty() || known == Some(false) {
            return Ok(());
        }
        let rows = roll_up_all(runs, self.step);
        if known.is_none() {
            // The first series speak for all: being wrong about the rest costs some bytes or some speed, nothing else.
            let samples: usize = runs.iter().map(|run| run.rows.len()).sum();
            let kept = !rows.is_empty() && samples >= rows.len().saturating_mul(self.min_samples);
            self.current = Some((metric.to_owned(), kept));
            if !kept {
                return Ok(());
            }
            if self.file.group_rows() >= OWN_GROUP_ROWS || rows.len() >= OWN_GROUP_ROWS {
                self.file.end_group()?;
            }
            let offset = self.file.rows();
            let (min_time, max_time) = (i64::MAX, i64::MIN);
            self.ranges.push(MetricRange { metric: metric.to_owned(), offset, rows: 0, min_time, max_time });
        }
        let Some(range) = self.ranges.last_mut() else { return Ok(()) };
        for (row, _) in &rows {
            range.min_time = range.min_time.min(row.time);
            range.max_time = range.max_time.max(row.time);
        }
        range.rows += rows.len();
        self.file.write(&columns(metric, &rows))?;
        if self.file.group_rows() >= GROUP_ROWS || self.file.group_bytes() > self.group_bytes {
            self.file.end_group()?;
        }
        Ok(())
    }

    /// Completes the file and returns its size; `None`, and no file, when there were no rows.
    pub(crate) fn finish(self) -> Result<Option<u64>, StoreError> {
        if self.ranges.is_empty() {
            return Ok(None);
        }
        self.file.finish(vec![(RANGES.to_owned(), ranges_json(&self.ranges)?)]).map(Some)
    }
}

fn columns(metric: &str, rows: &[(RollupRow, Option<u8>)]) -> Vec<ArrayRef> {
    let numbers = |row: &RollupRow| [row.min, row.max, row.sum, row.last];
    // A row is integers as a whole or doubles as a whole.
    let decimal = |(row, scale): &(RollupRow, Option<u8>)| {
        let scale = (*scale)?;
        let integers = numbers(row).map(|number| scaled::to_scaled(number, scale));
        integers.iter().all(Option::is_some).then_some((integers, scale))
    };
    let decimals: Vec<_> = rows.iter().map(decimal).collect();
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|(row, _)| row.time));
    let mut columns: Vec<ArrayRef> = vec![
        metric_column(metric, rows.len()),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(row, _)| row.series))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(row, _)| row.count))),
        Arc::new(decimals.iter().map(|decimal| Some(decimal.as_ref()?.1 as i8)).collect::<Int8Array>()),
    ];
    for number in 0..4 {
        let doubles = rows.iter().zip(&decimals);
        let doubles = doubles.map(|((row, _), decimal)| decimal.is_none().then(|| numbers(row)[number]));
        columns.push(Arc::new(doubles.collect::<Float64Array>()));
        let integers = decimals.iter().map(|decimal| decimal.as_ref()?.0[number]);
        columns.push(Arc::new(integers.collect::<Int64Array>()));
    }
    columns
}

/// A number is `coalesce(min, min_scaled / pow(10, scale))`, and so on.
fn schema() -> SchemaRef {
    let mut fields = vec![
        Field::new("metric", text(), false),
        Field::new("series", DataType::UInt32, false),
        Field::new("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        Field::new("count", DataType::UInt32, false),
        Field::new("scale", DataType::Int8, true),
    ];
    for name in NUMBERS {
        fields.push(Field::new(name, DataType::Float64, true));
        fields.push(Field::new(format!("{name}_scaled"), DataType::Int64, true));
    }
    Arc::new(Schema::new(fields))
}

const NUMBERS: [&str; 4] = ["min", "max", "sum", "last"];
const COUNT: &str = "count";

/// Where a row has a number.
type Place = fn(&mut RollupRow) -> &mut f64;

/// Where it has each of [`NUMBERS`].
const PLACES: [Place; 4] = [|row| &mut row.min, |row| &mut row.max, |row| &mut row.sum, |row| &mut row.last];

/// Which figures of roll-ups are wanted: each is a column of its own, and costs what a column costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures(u8);

impl Figures {
    const NAMES: [&str; 5] = ["min", "max", "sum", "last", COUNT];

    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self(0b1_1111);

    /// Those with these names.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().filter_map(Self::bit).fold(0, |all, bit| all | bit))
    }

    pub(crate) fn has(self, name: &str) -> bool {
        Self::bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    fn bit(name: &str) -> Option<u8> {
        Self::NAMES.iter().position(|one| *one == name).map(|at| 1 << at)
    }
}
const DOUBLES: &[Coding] = &[Coding::SplitBytes, Coding::Dictionary, Coding::Empty];
const INTEGERS: &[Coding] = &[Coding::Delta, Coding::Dictionary, Coding::SplitBytes];
const CODINGS: &Codings = &[
    &[Coding::Runs],
    &[Coding::Runs, Coding::Delta],
    &[Coding::Delta, Coding::Dictionary],
    &[Coding::Dictionary, Coding::Delta],
    &[Coding::Runs],
    DOUBLES,
    INTEGERS,
    DOUBLES,
    INTEGERS,
    DOUBLES,
    INTEGERS,
    DOUBLES,
    INTEGERS,
];

impl Segment {
    /// Whether it has roll-ups of a step, of some metrics at least.
    pub(crate) fn has_rollups(&self, step: Step) -> bool {
        self.rollups.iter().any(|(kept, _)| *kept == step)
    }

    /// Whether all samples of a metric are whole numbers, so that their roll-ups are too.
    pub(crate) fn has_whole_numbers(&self, metric: &str) -> Result<bool, StoreError> {
        self.samples.has_whole_numbers(metric, "value")
    }

    /// Appends the wanted roll-ups, those of bins that begin in `wanted.from..=wanted.to`, sorted by (series, time), with the
    /// figures that are asked for; the others are 0. `false`, and nothing, when the segment has samples of the metric but no
    /// roll-ups of that step.
    ///
    /// They are right for a bin only when no other segment and nothing in memory has samples in it: of duplicates the last
    /// counts, and which that is only the samples tell.
    pub(crate) fn read_rollups(
        &self,
        wanted: &Wanted<'_>,
        step: Step,
        figures: Figures,
        rows: &mut Vec<RollupRow>,
    ) -> Result<bool, StoreError> {
        // Horizons lie at whole hours, so no bin is visible in part.
        let wanted = &self.visible(wanted);
        if self.samples.metric(wanted.metric)?.is_none() {
            return Ok(true);
        }
        let Some((_, file)) = self.rollups.iter().find(|(kept, _)| *kept == step) else { return Ok(false) };
        if file.metric(wanted.metric)?.is_none() {
            return Ok(false);
        }
        let runs = file.runs(wanted)?;
        let numbers: Vec<(&str, Place)> =
            NUMBERS.into_iter().zip(PLACES).filter(|(name, _)| figures.has(name)).collect();
        let names: Vec<&str> = numbers.iter().map(|(name, _)| *name).collect();
        file.read(&runs, &names, figures.has(COUNT).then_some(COUNT), |piece| {
            let first = piece.times.partition_point(|&time| time < wanted.from);
            let end = piece.times.partition_point(|&time| time <= wanted.to).max(first);
            let from = rows.len();
            rows.extend((first..end).map(|at| RollupRow {
                series: piece.series,
                time: piece.times[at],
                min: 0.0,
                max: 0.0,
                sum: 0.0,
                count: piece.whole(at),
                last: 0.0,
            }));
            for (number, (_, place)) in numbers.iter().enumerate() {
                piece.numbers(number, first..end, rows[from..].iter_mut().map(place));
            }
        })?;
        Ok(true)
    }
}
