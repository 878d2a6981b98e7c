//! Gathers the rows of `recent(window)` from the store in one pass over each metric.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray, UInt32Array};
use arrow::compute::take;
use datafusion::common::{Result, internal_err};
use datafusion::execution::memory_pool::MemoryReservation;
use tidegate_model::{Bounds, Resource, metrics};

use super::recent_columns::{Columns, Known, SCHEMA, place};
use super::roster::{Roster, Tables, Version};
use super::statistics::{Statistics, Window, increase};
use crate::aggregate::{Ended, Visit, Visitor};
use crate::query::run::Run;
use crate::store::Store;
use crate::tables::{LabelFilter, LabelTable, Read, Selected, Source, SubjectSource, TimeRange, UsageSource};

/// How far before the window the newest limit is looked for.
const LIMIT_LOOKBACK_MS: i64 = 10 * 60 * 1000;
/// Columns that come from limits.
const OF_LIMITS: [usize; 7] =
    [place::ALLOCATED, place::ALLOCATED_AGE, place::UPPER, place::LOWER, place::HOST_FREE, place::HIGH, place::WEIGHT];
/// What is known of one row takes this many bytes, apart from measurements.
const ROW_BYTES: usize = size_of::<Window>()
    + size_of::<Option<Statistics>>()
    + size_of::<Option<&str>>()
    + size_of::<Option<(i64, f64)>>()
    + size_of::<Option<(i64, f64)>>()
    + 2 * size_of::<Mean>()
    + size_of::<Readings>()
    + size_of::<Option<f64>>();

/// Mean and newest of a few values.
#[derive(Clone, Copy, Default)]
pub(super) struct Mean {
    sum: f64,
    count: u32,
    newest: Option<(i64, f64)>,
}

impl Mean {
    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }

    fn last(&self) -> Option<f64> {
        self.newest.map(|(_, value)| value)
    }
}

/// Readings of a counter with their times; not those that say what the one before says.
type Readings = Vec<(i64, f64)>;

/// What is known of each row of the roster.
struct Gathered<'a> {
    window: InWindow<'a>,
    limit: Vec<Option<(i64, f64)>>,
    knob: Vec<Option<(i64, f64)>>,
    unreclaimable: Vec<Option<f64>>,
}

/// What comes from the samples in the window. What nobody wants is empty.
#[derive(Default)]
pub(super) struct InWindow<'a> {
    pub(super) usage: Vec<Option<Statistics>>,
    pub(super) app: Vec<Option<&'a str>>,
    pub(super) throttled: Vec<Mean>,
    pub(super) pressure: Vec<Mean>,
    pub(super) oom_kills: Vec<Option<f64>>,
}

/// What [`Gathering::usage_and_limits`] finds, by row of the roster.
pub(super) struct UsageAndLimits {
    pub(super) roster: Arc<Roster>,
    pub(super) usage: Vec<Window>,
    pub(super) limits: Vec<Option<(i64, f64)>>,
}

/// One gathering, which answers [`Gathering::rows`].
pub(super) struct Gathering<'a> {
    pub(super) run: &'a Run,
    pub(super) memory: MemoryReservation,
    /// The window is open here: a measurement at this very instant is not in it.
    pub(super) start: i64,
    /// Rows about it alone are wanted, or all.
    pub(super) resource: Option<Resource>,
    /// Which version of everything there was before anything was read.
    pub(super) version: &'a Version,
}

/// What becomes of the samples of a row.
pub(super) trait Target {
    /// Takes in a sample. Returns how many bytes more are held.
    fn push(&mut self, time: i64, value: f64) -> usize;
    /// As [`Target::push`], many in the order of time.
    fn append(&mut self, points: Vec<(i64, f64)>) -> usize {
        points.into_iter().map(|(time, value)| self.push(time, value)).sum()
    }
    /// Forgets all samples, but not the memory that they took.
    fn clear(&mut self);
}

impl Target for Window {
    #[inline]
    fn push(&mut self, time: i64, value: f64) -> usize {
        Window::push(self, time, value)
    }

    fn append(&mut self, points: Vec<(i64, f64)>) -> usize {
        Window::append(self, points)
    }

    fn clear(&mut self) {
        Window::clear(self);
    }
}

impl Target for Mean {
    fn push(&mut self, time: i64, value: f64) -> usize {
        self.sum += value;
        self.count += 1;
        if self.newest.is_none_or(|(newest, _)| newest <= time) {
            self.newest = Some((time, value));
        }
        0
    }

    fn clear(&mut self) {
        *self = Mean::default();
    }
}

impl Target for Readings {
    fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.capacity();
        // The counter stands still nearly always, and adds nothing then.
        if self.last().is_none_or(|(_, last)| *last != value) {
            Vec::push(self, (time, value));
        }
        (self.capacity() - room) * size_of::<(i64, f64)>()
    }

    fn clear(&mut self) {
        Vec::clear(self);
    }
}

/// Puts the samples of labels into the rows that they belong to.
struct Rows<'a, T> {
    /// Per label.
    rows: &'a [Option<u32>],
    targets: &'a mut [T],
    /// The time of the newest sample of each label.
    newest: Vec<i64>,
    held: usize,
}

impl<T: Target> Visitor for Rows<'_, T> {
    #[inline]
    fn row(&mut self, label: u32, time: i64, value: f64) {
        if let Some(row) = self.rows[label as usize] {
            self.held += self.targets[row as usize].push(time, value);
            let newest = &mut self.newest[label as usize];
            *newest = time.max(*newest);
        }
    }

    fn forget(&mut self, late: &mut [bool]) {
        let mut cleared = vec![false; self.targets.len()];
        for (row, _) in self.rows.iter().zip(&*late).filter(|(_, late)| **late) {
            row.iter().for_each(|row| cleared[*row as usize] = true);
        }
        self.targets.iter_mut().zip(&cleared).filter(|(_, cleared)| **cleared).for_each(|(target, _)| target.clear());
        // Of others who are in the same row nothing is left either.
        for ((row, late), newest) in self.rows.iter().zip(late).zip(&mut self.newest) {
            if row.is_some_and(|row| cleared[row as usize]) {
                (*late, *newest) = (true, i64::MIN);
            }
        }
    }

    fn held(&self) -> usize {
        self.held
    }
}

impl Gathering<'_> {
    /// All rows with some columns, sorted by host, container and resource.
    pub(super) fn rows(&self, wanted: Columns) -> Result<Known> {
        let usage = self.usage_parts();
        let tables = self.tables(&usage);
        let part = self.store().recents.part(self.resource);
        let roster = part.roster(self.store(), &tables);
        let rows = roster.subjects.len();
        self.memory.try_grow(rows * ROW_BYTES)?;
        // Whoever reads everything need not do it again for another column.
        let (window, wanted) = match self.follow(&part.trails, &roster, &tables, &usage, wanted)? {
            Some(followed) => (followed, wanted),
            None => (self.afresh(&roster, &tables, &usage)?, Columns::ALL),
        };
        let (limit, knob) = (vec![None; rows], vec![None; rows]);
        let mut gathered = Gathered { window, limit, knob, unreclaimable: vec![None; rows] };
        if wanted.has(place::UNRECLAIMABLE) {
            self.newest(&tables.unreclaimable, self.start + 1, |label, _, value| {
                if let Some(row) = roster.unreclaimable[label] {
                    gathered.unreclaimable[row as usize] = Some(value);
                }
            })?;
        }
        if wanted.has_any(&OF_LIMITS) {
            // Limits in the window of all containers, since they share a host, and older ones of those that have usage.
            self.newest(&tables.limits, self.start.saturating_sub(LIMIT_LOOKBACK_MS), |label, time, value| {
                if let Some(row) = roster.knobs[label] {
                    gathered.knob[row as usize] = Some((time, value));
                }
                let Some(row) = roster.limits[label] else { return };
                if time > self.start || gathered.window.usage[row as usize].is_some() {
                    gathered.limit[row as usize] = Some((time, value));
                }
            })?;
        }
        self.columns(&roster, &gathered, wanted)
    }

    /// What all samples in the window come to.
    fn afresh<'r>(&self, roster: &'r Roster, tables: &Tables, parts: &[Selected]) -> Result<InWindow<'r>> {
        let rows = roster.subjects.len();
        let (mut usage, app) = self.usage(roster, parts)?;
        let window = TimeRange { from: self.start + 1, to: self.now() };
        let (mut throttled, mut pressure) = (vec![Mean::default(); rows], vec![Mean::default(); rows]);
        let mut kills = vec![Readings::new(); rows];
        self.each(&tables.throttled, &roster.throttled, window, &mut throttled)?;
        self.each(&tables.pressure, &roster.pressure, window, &mut pressure)?;
        self.each(&tables.oom_kills, &roster.oom_kills, window, &mut kills)?;
        let mut keys = Vec::new();
        let usage = usage.iter_mut().map(|window| window.statistics(&mut keys)).collect();
        let oom_kills = kills.iter().map(|readings| oom_kills(readings)).collect();
        Ok(InWindow { usage, app, throttled, pressure, oom_kills })
    }

    /// Of everybody, in the order of the roster: what was used in the window, and the newest limit that was read at or after
    /// `since`, with its time.
    pub(super) fn usage_and_limits(&self, since: i64) -> Result<UsageAndLimits> {
        let usage = self.usage_parts();
        let tables = self.tables(&usage);
        let roster = self.store().recents.part(self.resource).roster(self.store(), &tables);
        let (usage, _) = self.usage(&roster, &usage)?;
        let mut limits = vec![None; roster.subjects.len()];
        self.newest(&tables.limits, since, |label, time, value| {
            if let Some(row) = roster.limits[label] {
                limits[row as usize] = Some((time, value));
            }
        })?;
        Ok(UsageAndLimits { roster, usage, limits })
    }

    fn usage_parts(&self) -> Vec<Selected> {
        let usage = UsageSource { maps: self.store().config().usage_maps.clone() };
        usage.parts(self.store(), &LabelFilter::everything()).into_iter().map(Selected::all).collect()
    }

    fn tables(&self, usage: &[Selected]) -> Tables {
        let table = |metric: &'static str| SubjectSource { table: metric, metric }.labels(self.store());
        Tables {
            usage: usage.iter().map(|part| Arc::clone(&part.part.labels)).collect(),
            limits: SubjectSource::LIMITS.labels(self.store()),
            throttled: table(metrics::THROTTLED),
            pressure: table(metrics::PRESSURE_SOME),
            oom_kills: table(metrics::OOM_KILLS),
            unreclaimable: table(metrics::UNRECLAIMABLE),
        }
    }

    /// The windows of usage, and the apps that the newest measurements name.
    fn usage<'r>(&self, roster: &'r Roster, parts: &[Selected]) -> Result<(Vec<Window>, Vec<Option<&'r str>>)> {
        let rows = roster.subjects.len();
        let (mut usage, mut apps) = (vec![Window::default(); rows], vec![None; rows]);
        let window = TimeRange { from: self.start + 1, to: self.now() };
        let mut named = vec![i64::MIN; rows];
        for (selected, part) in parts.iter().zip(&roster.usage) {
            let newest = match selected.part.read {
                Read::Sums(scale) => {
                    self.sums(selected, scale, &part.rows, window, &mut usage, &mut self.charging())?.0
                }
                // The first part: nothing of others is in the rows yet that could be forgotten with late samples.
                _ => self.each(&selected.part.labels, &part.rows, window, &mut usage)?,
            };
            for ((row, app), newest) in part.rows.iter().zip(&part.apps).zip(newest) {
                let Some(row) = row.map(|row| row as usize) else { continue };
                if newest > i64::MIN && app.is_some() && newest >= named[row] {
                    apps[row] = app.as_deref();
                    named[row] = newest;
                }
            }
        }
        Ok((usage, apps))
    }

    /// Puts the samples of a table's series in a range into the rows that its labels belong to. Returns the newest time of
    /// each label.
    fn each<T: Target>(
        &self,
        table: &LabelTable,
        rows: &[Option<u32>],
        range: TimeRange,
        targets: &mut [T],
    ) -> Result<Vec<i64>> {
        self.each_checked(table, rows, range, targets, &mut self.charging())
    }

    /// As [`Gathering::each`], with another look at how many bytes are held.
    pub(super) fn each_checked<T: Target>(
        &self,
        table: &LabelTable,
        rows: &[Option<u32>],
        range: TimeRange,
        targets: &mut [T],
        mut check: &mut impl FnMut(usize) -> std::result::Result<(), Ended>,
    ) -> Result<Vec<i64>> {
        let mut into = Rows { rows, targets, newest: vec![i64::MIN; table.count], held: 0 };
        for members in &table.members {
            let visit = Visit { members, labels: table.count, series: None, range };
            self.store().visit(&visit, &[range], &mut into, &mut check)?;
        }
        Ok(into.newest)
    }

    /// As [`Gathering::each_checked`], for usage that is summed up from several series. Returns also how many bytes are held
    /// in the end.
    pub(super) fn sums<T: Target>(
        &self,
        selected: &Selected,
        scale: f64,
        rows: &[Option<u32>],
        range: TimeRange,
        targets: &mut [T],
        check: &mut impl FnMut(usize) -> std::result::Result<(), Ended>,
    ) -> Result<(Vec<i64>, usize)> {
        let sums = self.store().sums(selected, scale, range, check)?;
        let newest = sums.iter().map(|points| points.last().map_or(i64::MIN, |(time, _)| *time)).collect();
        let mut held = 0;
        for (points, row) in sums.into_iter().zip(rows) {
            if let Some(row) = row {
                held += targets[*row as usize].append(points);
            }
        }
        check(held)?;
        Ok((newest, held))
    }

    /// Charges what is held in one pass, beside what has been charged before it.
    pub(super) fn charging(&self) -> impl FnMut(usize) -> std::result::Result<(), Ended> {
        let before = self.memory.size();
        move |held| self.check().and_then(|()| self.memory.try_resize(before + held)).map_err(Ended::Query)
    }

    /// Calls `each` with the newest sample at or after `from` of each label: of several series the newest.
    fn newest(&self, table: &LabelTable, from: i64, mut each: impl FnMut(usize, i64, f64)) -> Result<()> {
        for members in &table.members {
            let check = || self.check().map_err(Ended::Query);
            let found = self.store().newest_of(&members.metric, &members.ids, from, self.now(), check)?;
            let mut newest = vec![i64::MIN; table.count];
            for (place, time, value) in found {
                let Some(label) = members.rank.get(members.ids[place as usize]) else { continue };
                let label = label as usize;
                if newest[label] <= time {
                    newest[label] = time;
                    each(label, time, value);
                }
            }
        }
        Ok(())
    }

    pub(super) fn store(&self) -> &Store {
        &self.run.store
    }

    pub(super) fn now(&self) -> i64 {
        self.run.now.0
    }

    fn check(&self) -> Result<()> {
        Ok(self.run.deadline.check()?)
    }

    fn columns(&self, roster: &Roster, gathered: &Gathered, wanted: Columns) -> Result<Known> {
        let Gathered { window, limit, knob, unreclaimable } = gathered;
        let free = if wanted.has(place::HOST_FREE) { roster.free(limit) } else { Vec::new() };
        let boundary = self.store().config().boundary;
        let rows: Vec<(usize, &Statistics)> =
            window.usage.iter().enumerate().filter_map(|(row, usage)| Some((row, usage.as_ref()?))).collect();
        let everybody = rows.len() == roster.subjects.len();
        let seconds = |since: i64| (self.now() - since) as f64 / 1000.0;
        // A knob has a sample with each of the limit, as long as it is set.
        let knob = |row: usize, of: Resource| {
            let is_set = |(at, _): &(i64, f64)| limit[row].is_none_or(|(newest, _)| *at >= newest);
            let known = knob[row].filter(is_set).map(|(_, value)| value);
            known.filter(|_| roster.subjects[row].resource == of.as_str())
        };
        let limit = |row: usize| limit[row].map(|(_, limit)| limit);
        let places = || rows.iter().map(|(row, _)| *row as u32).collect::<UInt32Array>(); // rows are counted in u32
        let text = |column: usize| -> Result<ArrayRef> {
            match everybody {
                true => Ok(Arc::clone(&roster.columns[column])),
                false => Ok(take(&roster.columns[column], &places(), None)?),
            }
        };
        let all = |value: &dyn Fn(&Statistics) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, statistics)| value(statistics))))
        };
        let some = |value: &dyn Fn(usize, &Statistics) -> Option<f64>| -> ArrayRef {
            Arc::new(rows.iter().map(|(row, statistics)| value(*row, statistics)).collect::<Float64Array>())
        };
        let column = |at: usize| -> Result<ArrayRef> {
            Ok(match at {
                place::HOST => text(0)?,
                place::CONTAINER => text(1)?,
                place::RESOURCE => text(2)?,
                place::APP => Arc::new(rows.iter().map(|(row, _)| window.app[*row]).collect::<StringViewArray>()),
                place::SAMPLES => Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, of)| of.samples))),
                place::AGE => all(&|of| seconds(of.newest.0)),
                place::USAGE => all(&|of| of.newest.1),
                place::USAGE_AVG => all(&|of| of.avg),
                place::USAGE_MAX => all(&|of| of.max),
                place::USAGE_P50 => all(&|of| of.p50),
                place::USAGE_P95 => all(&|of| of.p95),
                place::USAGE_P99 => all(&|of| of.p99),
                place::USAGE_STDDEV => some(&|_, of| of.stddev),
                place::USAGE_SLOPE => some(&|_, of| of.slope),
                place::ALLOCATED => some(&|row, _| limit(row)),
                place::ALLOCATED_AGE => some(&|row, _| gathered.limit[row].map(|(time, _)| seconds(time))),
                place::MIN => some(&|row, _| roster.bounds[row].map(|bounds| bounds.min)),
                place::MAX => some(&|row, _| roster.bounds[row].and_then(Bounds::highest)),
                place::UPPER => some(&|row, _| limit(row).map(|limit| limit - boundary * limit)),
                place::LOWER => some(&|row, _| limit(row).map(|limit| limit - 2.0 * boundary * limit)),
                place::THROTTLED => some(&|row, _| window.throttled[row].mean()),
                place::THROTTLED_LAST => some(&|row, _| window.throttled[row].last()),
                place::PRESSURE => some(&|row, _| window.pressure[row].mean()),
                place::OOM_KILLS => some(&|row, _| window.oom_kills[row]),
                place::UNRECLAIMABLE => some(&|row, _| unreclaimable[row]),
                place::HOST_FREE => some(&|row, _| free[row]),
                place::HIGH => some(&|row, _| knob(row, Resource::Memory)),
                place::WEIGHT => some(&|row, _| knob(row, Resource::Cpu)),
                other => return internal_err!("recent() has no column {other}"),
            })
        };
        let columns = (0..SCHEMA.fields().len()).map(|at| wanted.has(at).then(|| column(at)).transpose());
        Ok(Known { rows: rows.len(), columns: columns.collect::<Result<_>>()? })
    }
}

/// Kills between the first and the last reading in the window, in any order; `None` where the container is not watched.
fn oom_kills(readings: &[(i64, f64)]) -> Option<f64> {
    if readings.is_empty() {
        return None;
    }
    let mut readings = readings.to_vec();
    readings.sort_by_key(|(time, _)| *time);
    Some(increase(&readings))
}
