//! What was measured of every limit: the rows of `recent()`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};
use tidegate_model::Resource;

use crate::proposal::{Keys, LimitKey, numbers};

/// The figures without which nothing can be judged.
const USUAL: [Figure; 12] = [
    Figure::Samples,
    Figure::Age,
    Figure::Usage,
    Figure::Allocated,
    Figure::AllocatedAge,
    Figure::Min,
    Figure::Max,
    Figure::ThrottledLast,
    Figure::OomKills,
    Figure::Unreclaimable,
    Figure::High,
    Figure::Weight,
];
/// The figures that a decrease is judged by, and watched by afterwards. They take a pass over the whole window each.
const OF_DECREASES: [Figure; 4] = [Figure::UsageStddev, Figure::UsageSlope, Figure::Throttled, Figure::Pressure];

/// What a knob of CPU has in common with CPU.
const OF_KNOBS: [Figure; 6] =
    [Figure::Samples, Figure::Age, Figure::AllocatedAge, Figure::Throttled, Figure::ThrottledLast, Figure::Pressure];
/// The `cpu.weight` of whoever was given none.
const USUAL_WEIGHT: f64 = 100.0;

/// How much is read of each limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All figures: decisions that are kept tell all that was known.
    All,
    /// What judging decreases takes.
    Decreases,
    /// What judging anything else takes.
    Usual,
}

impl Extent {
    /// The columns of `recent()` to read.
    pub fn columns(self) -> Vec<&'static str> {
        let figures: &[&[Figure]] = match self {
            Extent::All => &[&Figure::ALL],
            Extent::Decreases => &[&USUAL, &OF_DECREASES],
            Extent::Usual => &[&USUAL],
        };
        KEY.into_iter().chain(figures.iter().copied().flatten().map(|figure| figure.column())).collect()
    }
}

/// So much newer than the newest sample of a limit on a rate usage is at least when there is no limit any more: both are measured
/// together.
const LIMIT_GONE_S: f64 = 5.0;

/// The columns that say what a row is about.
const KEY: [&str; 3] = ["host", "container", "resource"];

macro_rules! figures {
    ($($figure:ident = $column:literal),* $(,)?) => {
        /// A column of `recent()` that a decision keeps among its inputs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Figure { $($figure),* }

        impl Figure {
            const ALL: [Self; [$($column),*].len()] = [$(Self::$figure),*];

            const fn column(self) -> &'static str {
                match self { $(Self::$figure => $column),* }
            }
        }
    };
}

figures! {
    Samples = "samples",
    Age = "age",
    Usage = "usage",
    UsageAvg = "usage_avg",
    UsageMax = "usage_max",
    UsageP50 = "usage_p50",
    UsageP95 = "usage_p95",
    UsageP99 = "usage_p99",
    UsageStddev = "usage_stddev",
    UsageSlope = "usage_slope",
    Allocated = "allocated",
    AllocatedAge = "allocated_age",
    Min = "min",
    Max = "max",
    Upper = "upper",
    Lower = "lower",
    Throttled = "throttled",
    ThrottledLast = "throttled_last",
    Pressure = "pressure",
    OomKills = "oom_kills",
    Unreclaimable = "unreclaimable",
    HostFree = "host_free",
    High = "high",
    Weight = "weight",
}

/// One row of `recent()`, NaN where a figure is null. A tick reads one of each limit and looks at few of its figures, so it is
/// a plain row of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Reading([f64; Figure::ALL.len()]);

impl Default for Reading {
    fn default() -> Self {
        Self([f64::NAN; Figure::ALL.len()])
    }
}

impl Reading {
    /// A figure; `None` when it is null or not a finite number.
    pub fn get(&self, figure: Figure) -> Option<f64> {
        Some(self.0[figure as usize]).filter(|value| value.is_finite())
    }

    /// Of a rate: that a limit was read once says nothing where usage was measured since and no limit. Other resources always
    /// have one, if only what their host has.
    fn of_rate(&mut self) {
        let (age, allocated_age) = (self.0[Figure::Age as usize], self.0[Figure::AllocatedAge as usize]);
        if age.is_finite() && (allocated_age.is_nan() || allocated_age > age + LIMIT_GONE_S) {
            self.0[Figure::Allocated as usize] = f64::INFINITY;
            self.0[Figure::AllocatedAge as usize] = age;
        }
    }

    /// Whether it is known that there is no limit.
    pub fn is_unlimited(&self) -> bool {
        self.0[Figure::Allocated as usize] == f64::INFINITY
    }

    /// Of a limit that was read so many seconds ago, when nothing else is known.
    pub fn last_limit(limit: f64, age: f64) -> Self {
        let mut reading = Self::default();
        reading.0[Figure::Allocated as usize] = limit;
        reading.0[Figure::AllocatedAge as usize] = age;
        reading
    }

    /// What is known of a knob, out of what was read of its resource.
    pub fn of_knob(&self, knob: Resource) -> Self {
        let mut reading = self.clone();
        let stands = match knob {
            Resource::CpuWeight => {
                // In cores, which are none of a weight.
                for figure in Figure::ALL.into_iter().filter(|figure| !OF_KNOBS.contains(figure)) {
                    reading.0[figure as usize] = f64::NAN;
                }
                self.get(Figure::Weight).unwrap_or(USUAL_WEIGHT)
            }
            // One that is not set stands where the limit does.
            _ => self.0[Figure::High as usize].min(self.0[Figure::Allocated as usize]),
        };
        reading.0[Figure::Allocated as usize] = stands;
        reading
    }

    /// The reading as a JSON object, nulls left out.
    pub fn to_json(&self) -> Map<String, Value> {
        self.json_of(&Figure::ALL)
    }

    /// Of the reading what a watch over a decrease compares with afterwards.
    pub fn watched_json(&self) -> Map<String, Value> {
        self.json_of(&[Figure::Throttled, Figure::Pressure, Figure::OomKills])
    }

    fn json_of(&self, figures: &[Figure]) -> Map<String, Value> {
        let known = figures.iter().filter_map(|figure| Some((figure.column().to_owned(), self.get(*figure)?.into())));
        known.collect()
    }

    #[cfg(test)]
    pub fn of(values: &[(&'static str, f64)]) -> Self {
        let mut reading = Self::default();
        for (column, value) in values {
            let at = Figure::ALL.iter().position(|figure| figure.column() == *column);
            reading.0[at.expect("a column of recent()")] = *value;
        }
        reading
    }
}

/// The limits that rows are about, and where each of them is. The same from tick to tick, as long as nobody comes or goes.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// The columns that say so.
    columns: Vec<ArrayRef>,
    /// Each with its row.
    keys: Vec<(LimitKey, usize)>,
    places: HashMap<LimitKey, usize, ahash::RandomState>,
    /// How many containers are on each host.
    containers: BTreeMap<String, usize>,
}

impl Limits {
    /// Rows that name no container or resource are left out.
    fn of(batch: &RecordBatch, columns: Vec<ArrayRef>) -> Self {
        let keys = Keys::of(batch);
        let keys: Vec<_> = (0..batch.num_rows()).filter_map(|row| Some((keys.at(row).ok()?, row))).collect();
        Self::new(columns, keys)
    }

    fn new(columns: Vec<ArrayRef>, keys: Vec<(LimitKey, usize)>) -> Self {
        let places = keys.iter().zip(0..).map(|((key, _), place)| (key.clone(), place)).collect();
        let mut containers = BTreeMap::new();
        for container in keys.iter().map(|((container, _), _)| container).collect::<BTreeSet<_>>() {
            *containers.entry(container.host.clone()).or_default() += 1;
        }
        Self { columns, keys, places, containers }
    }

    fn are(&self, columns: &[ArrayRef]) -> bool {
        let same = |(a, b): (&ArrayRef, &ArrayRef)| Arc::ptr_eq(a, b) || a == b;
        self.columns.len() == columns.len() && self.columns.iter().zip(columns).all(same)
    }
}

/// The newest row of each limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings {
    limits: Arc<Limits>,
    /// In the order of the limits' keys.
    rows: Vec<Reading>,
}

impl Readings {
    /// Reads the rows of `recent()` with all columns. `former` are the limits of the tick before, which are those of this one as
    /// a rule.
    pub fn read(batch: &RecordBatch, former: &mut Arc<Limits>) -> Self {
        let columns: Vec<ArrayRef> = KEY.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect();
        if !former.are(&columns) {
            *former = Arc::new(Limits::of(batch, columns));
        }
        let mut rows = vec![Reading::default(); former.keys.len()];
        for figure in Figure::ALL {
            let Some(column) = numbers(batch, figure.column()) else { continue };
            for (reading, (_, row)) in rows.iter_mut().zip(&former.keys).filter(|(_, (_, row))| column.is_valid(*row)) {
                reading.0[figure as usize] = column.value(*row);
            }
        }
        for (reading, ((_, resource), _)) in rows.iter_mut().zip(&former.keys) {
            if resource.is_rate() {
                reading.of_rate();
            }
        }
        Self { limits: Arc::clone(former), rows }
    }

    pub fn get(&self, key: &LimitKey) -> Option<&Reading> {
        self.limits.places.get(key).map(|place| &self.rows[*place])
    }

    /// The limits that the rows are about.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The rows, in the order of the limits.
    pub fn rows(&self) -> &[Reading] {
        &self.rows
    }

    pub fn contains_key(&self, key: &LimitKey) -> bool {
        self.limits.places.contains_key(key)
    }

    /// How many containers of a host have readings.
    pub fn containers_on(&self, host: &str) -> usize {
        self.limits.containers.get(host).copied().unwrap_or(0)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &LimitKey> {
        self.limits.keys.iter().map(|(key, _)| key)
    }

    /// In the order of the rows, which are sorted by host, container and resource.
    pub fn iter(&self) -> impl Iterator<Item = (&LimitKey, &Reading)> {
        self.keys().zip(&self.rows)
    }
}

#[cfg(test)]
impl FromIterator<(LimitKey, Reading)> for Readings {
    fn from_iter<T: IntoIterator<Item = (LimitKey, Reading)>>(rows: T) -> Self {
        let (keys, rows): (Vec<_>, Vec<_>) =
            rows.into_iter().enumerate().map(|(at, (key, row))| ((key, at), row)).unzip();
        Self { limits: Arc::new(Limits::new(Vec::new(), keys)), rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray};
    use tidegate_model::ContainerKey;

    fn batch(containers: &[&str], usage: &[f64]) -> RecordBatch {
        let text = |value: &str| Arc::new(StringArray::from(vec![value; containers.len()])) as ArrayRef;
        RecordBatch::try_from_iter([
            ("host", text("h")),
            ("container", Arc::new(StringArray::from(containers.to_vec())) as ArrayRef),
            ("resource", text("cpu")),
            ("usage", Arc::new(Float64Array::from(usage.to_vec())) as ArrayRef),
        ])
        .unwrap()
    }

    #[test]
    fn a_limit_on_a_rate_that_usage_has_outlived_is_none() {
        let of = |age: f64, allocated_age: f64| {
            let mut reading = Reading::of(&[("age", age), ("allocated", 7.0), ("allocated_age", allocated_age)]);
            reading.of_rate();
            (reading.get(Figure::Allocated), reading.is_unlimited())
        };
        assert_eq!(of(1.0, 1.0), (Some(7.0), false));
        assert_eq!(of(1.0, 5.9), (Some(7.0), false));
        assert_eq!(of(1.0, 6.1), (None, true));
        assert_eq!(of(f64::NAN, 300.0), (Some(7.0), false), "without usage it is the last that is known");
        let mut never = Reading::of(&[("age", 1.0)]);
        never.of_rate();
        assert!(never.is_unlimited());
    }

    #[test]
    fn limits_are_those_of_the_tick_before_until_somebody_comes_or_goes() {
        let key = |name: &str| (ContainerKey { host: "h".to_owned(), name: name.to_owned() }, Resource::Cpu);
        let usage = |readings: &Readings, name| readings.get(&key(name)).and_then(|row| row.get(Figure::Usage));
        let mut limits = Arc::default();
        let first = Readings::read(&batch(&["a", "b"], &[1.0, 2.0]), &mut limits);
        let known = Arc::clone(&limits);
        let second = Readings::read(&batch(&["a", "b"], &[3.0, f64::NAN]), &mut limits);
        assert!(Arc::ptr_eq(&known, &limits));
        assert_eq!((usage(&first, "b"), usage(&second, "a"), usage(&second, "b")), (Some(2.0), Some(3.0), None));
        let third = Readings::read(&batch(&["b", "c"], &[4.0, 5.0]), &mut limits);
        assert_eq!((usage(&third, "a"), usage(&third, "b"), usage(&third, "c")), (None, Some(4.0), Some(5.0)));
        assert_eq!(usage(&second, "a"), Some(3.0), "what was read before stays as it was");
        assert_eq!(Readings::read(&batch(&[], &[]), &mut limits).len(), 0);
    }
}
