//! What `recent(window)` goes on with: whoever asks each second what the last minute was like is told from what the second
//! before was told, and the samples since.
//!
//! Samples that are not newer than the last question are noticed by [`Version`], and everything is read anew then. So it is
//! where several series are about the same row, since the order of their samples is known to the full reading only.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use parking_lot::Mutex;

use super::gather::{Gathering, InWindow, Mean, Target};
use super::recent_columns::{Columns, place};
use super::roster::{Roster, Tables, Version};
use super::statistics::{Moving, increase};
use crate::aggregate::{Ended, Visit, Visitor};
use crate::tables::{LabelTable, Read, Selected, TimeRange};

/// Windows that are followed at most. The default rules ask for nine; one too few and each would be read anew each time.
const MAX_TRAILS: usize = 12;
/// What a window may hold to be followed: beyond that, memory is worth more than time. Two minutes of 10,000 containers that are
/// measured each second are just within it.
const MAX_BYTES: usize = 48 << 20;

/// What all windows go on with.
#[derive(Default)]
pub(super) struct Trails {
    /// By window, in ms; the one that was asked for last at the end.
    windows: Mutex<Vec<(i64, Arc<Mutex<State>>)>>,
    /// What was read last of each metric: windows that were asked for at the same instants go on by the same samples.
    read: [Mutex<Option<Reading>>; METRICS],
}

impl Trails {
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.windows.lock().clear();
    }

    fn of(&self, window_ms: i64) -> Arc<Mutex<State>> {
        let mut trails = self.windows.lock();
        let found = trails.iter().position(|(window, _)| *window == window_ms);
        let trail = found.map(|at| trails.remove(at)).unwrap_or_default();
        if trails.len() >= MAX_TRAILS {
            trails.remove(0);
        }
        let state = Arc::clone(&trail.1);
        trails.push((window_ms, trail.1));
        state
    }
}

/// What is followed of a window, and how many metrics that are.
const USAGE: usize = 0;
const THROTTLED: usize = 1;
const PRESSURE: usize = 2;
const OOM_KILLS: usize = 3;
const METRICS: usize = 4;

/// The samples of a metric between two questions, in the order of rows, those of a row in the order of time.
struct Reading {
    since: i64,
    now: i64,
    version: Version,
    roster: Arc<Roster>,
    found: Arc<Vec<New>>,
}

/// What is known of a window.
#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// It was asked for once, at an instant: nobody knows yet whether it will be again.
    Asked(i64),
    Followed(Box<Trail>),
    /// Too much to be followed, with these rows.
    TooLarge(Arc<Roster>),
}

/// What an answer was made from.
struct Trail {
    now: i64,
    version: Version,
    roster: Arc<Roster>,
    usage: Followed<Moving>,
    throttled: Followed<Points>,
    pressure: Followed<Points>,
    oom_kills: Followed<Runs>,
}

impl Trail {
    fn bytes(&self) -> usize {
        self.usage.bytes + self.throttled.bytes + self.pressure.bytes + self.oom_kills.bytes
    }
}

/// What is known of a metric, by row; nothing until somebody wants it.
struct Followed<T> {
    /// Until when.
    upto: Option<i64>,
    rows: Vec<T>,
    /// What they held when they were read.
    bytes: usize,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { upto: None, rows: Vec::new(), bytes: 0 }
    }
}

/// Samples of a row in the order of time.
#[derive(Clone, Default)]
struct Points(Vec<(i64, f64)>);

impl Points {
    /// All of them, or the newest alone where no mean is wanted.
    fn mean(&self, all: bool) -> Mean {
        let from = if all { 0 } else { self.0.len().saturating_sub(1) };
        let mut mean = Mean::default();
        for (time, value) in &self.0[from..] {
            mean.push(*time, *value);
        }
        mean
    }
}

/// Readings of a counter: each value with the time of the last of the samples that say so.
#[derive(Clone, Default)]
struct Runs(Vec<(i64, f64)>);

impl Runs {
    /// Kills in the window; `None` where the container is not watched.
    fn kills(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| increase(&self.0))
    }
}

impl Target for Moving {
    fn push(&mut self, time: i64, value: f64) -> usize {
        Moving::push(self, time, value)
    }

    fn clear(&mut self) {
        Moving::clear(self);
    }
}

impl Target for Points {
    fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.0.capacity();
        self.0.push((time, value));
        (self.0.capacity() - room) * size_of::<(i64, f64)>()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Target for Runs {
    fn push(&mut self, time: i64, value: f64) -> usize {
        let room = self.0.capacity();
        match self.0.last_mut() {
            Some((last, known)) if *known == value => *last = time,
            _ => self.0.push((time, value)),
        }
        (self.0.capacity() - room) * size_of::<(i64, f64)>()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// What moves on with the window.
trait Follows {
    /// From now on the window begins at `from` and has `new` samples too, which are later than all others.
    fn go_on(&mut self, from: i64, new: &[New]);
}

/// Row, time and value.
type New = (u32, i64, f64);

impl Follows for Moving {
    fn go_on(&mut self, from: i64, new: &[New]) {
        Moving::go_on(self, from, new.iter().map(|(_, time, value)| (*time, *value)));
    }
}

impl Follows for Points {
    fn go_on(&mut self, from: i64, new: &[New]) {
        self.0.drain(..self.0.partition_point(|(time, _)| *time < from));
        self.0.extend(new.iter().filter(|(_, time, _)| *time >= from).map(|(_, time, value)| (*time, *value)));
    }
}

impl Follows for Runs {
    fn go_on(&mut self, from: i64, new: &[New]) {
        self.0.drain(..self.0.partition_point(|(time, _)| *time < from));
        for (_, time, value) in new.iter().filter(|(_, time, _)| *time >= from) {
            self.push(*time, *value);
        }
    }
}

/// The samples since the last question.
struct News<'a> {
    /// Per label; each row has one label.
    rows: &'a [Option<u32>],
    found: Vec<New>,
}

impl Visitor for News<'_> {
    fn row(&mut self, label: u32, time: i64, value: f64) {
        if let Some(row) = self.rows[label as usize] {
            self.found.push((row, time, value));
        }
    }

    fn forget(&mut self, late: &mut [bool]) {
        let rows = self.rows.iter().zip(&*late).filter(|(_, late)| **late);
        let mut gone: Vec<u32> = rows.filter_map(|(row, _)| *row).collect();
        gone.sort_unstable();
        self.found.retain(|(row, ..)| gone.binary_search(row).is_err());
    }

    fn held(&self) -> usize {
        self.found.capacity() * size_of::<New>()
    }
}

/// A metric that may be followed: its place among them, its labels and the row of each.
#[derive(Clone, Copy)]
struct Labels<'a> {
    metric: usize,
    table: &'a LabelTable,
    rows: &'a [Option<u32>],
}

impl Gathering<'_> {
    /// What the samples in the window come to, as far as some columns need them, from what is known of the one before; `None`
    /// where nothing is.
    pub(super) fn follow<'r>(
        &self,
        roster: &'r Arc<Roster>,
        tables: &Tables,
        parts: &[Selected],
        wanted: Columns,
    ) -> Result<Option<InWindow<'r>>> {
        let ([selected], [usage]) = (parts, roster.usage.as_slice()) else { return Ok(None) };
        let rows = roster.subjects.len();
        let labels = |metric, table, rows| Labels { metric, table, rows };
        let metrics: [Labels; METRICS] = [
            labels(USAGE, selected.part.labels.as_ref(), usage.rows.as_slice()),
            labels(THROTTLED, tables.throttled.as_ref(), &roster.throttled),
            labels(PRESSURE, tables.pressure.as_ref(), &roster.pressure),
            labels(OOM_KILLS, tables.oom_kills.as_ref(), &roster.oom_kills),
        ];
        if !matches!(selected.part.read, Read::Samples) || !metrics.iter().all(|of| one_each(of.table, of.rows, rows)) {
            return Ok(None);
        }
        let now = self.now();
        let window_ms = now.saturating_sub(self.start);
        let state = self.store().recents.trails.of(window_ms);
        // Somebody asks the same as of another instant.
        let Some(mut state) = state.try_lock() else { return Ok(None) };
        let is_next = |before: i64| before < now;
        let mut trail = match std::mem::take(&mut *state) {
            State::Followed(trail) if trail.now > now => {
                *state = State::Followed(trail);
                return Ok(None);
            }
            State::Followed(trail) if trail.version == *self.version && Arc::ptr_eq(&trail.roster, roster) => trail,
            State::TooLarge(of) if Arc::ptr_eq(&of, roster) => {
                *state = State::TooLarge(of);
                return Ok(None);
            }
            former => {
                let before = match former {
                    State::Asked(before) => Some(before),
                    State::Followed(trail) => Some(trail.now),
                    State::Unknown | State::TooLarge(_) => None,
                };
                if !before.is_some_and(is_next) {
                    *state = State::Asked(now);
                    return Ok(None);
                }
                Box::new(Trail {
                    now,
                    version: self.version.clone(),
                    roster: Arc::clone(roster),
                    usage: Followed::default(),
                    throttled: Followed::default(),
                    pressure: Followed::default(),
                    oom_kills: Followed::default(),
                })
            }
        };
        trail.now = now;
        let throttled = wanted.has_any(&[place::THROTTLED, place::THROTTLED_LAST]);
        let mut room = MAX_BYTES.saturating_sub(trail.bytes());
        let is_there = self.bring(&mut trail.usage, metrics[USAGE], roster, &mut room)?
            && (!throttled || self.bring(&mut trail.throttled, metrics[THROTTLED], roster, &mut room)?)
            && (!wanted.has(place::PRESSURE)
                || self.bring(&mut trail.pressure, metrics[PRESSURE], roster, &mut room)?)
            && (!wanted.has(place::OOM_KILLS)
                || self.bring(&mut trail.oom_kills, metrics[OOM_KILLS], roster, &mut room)?);
        if !is_there {
            *state = State::TooLarge(Arc::clone(roster));
            return Ok(None);
        }
        let figures = wanted.figures();
        let mut found = InWindow {
            usage: trail.usage.rows.iter_mut().map(|window| window.statistics(figures)).collect(),
            ..InWindow::default()
        };
        if wanted.has(place::APP) {
            found.app = vec![None; rows];
            for (row, of) in usage.rows.iter().zip(&usage.apps) {
                if let Some(row) = row.map(|row| row as usize).filter(|row| found.usage[*row].is_some()) {
                    found.app[row] = of.as_deref();
                }
            }
        }
        if throttled {
            let mean = wanted.has(place::THROTTLED);
            found.throttled = trail.throttled.rows.iter().map(|points| points.mean(mean)).collect();
        }
        if wanted.has(place::PRESSURE) {
            found.pressure = trail.pressure.rows.iter().map(|points| points.mean(true)).collect();
        }
        if wanted.has(place::OOM_KILLS) {
            found.oom_kills = trail.oom_kills.rows.iter().map(Runs::kills).collect();
        }
        *state = State::Followed(trail);
        Ok(Some(found))
    }

    /// Brings what is known of a metric to the instant; false when it is too much to be followed.
    fn bring<T: Follows + Target + Clone + Default>(
        &self,
        followed: &mut Followed<T>,
        labels: Labels<'_>,
        roster: &Arc<Roster>,
        room: &mut usize,
    ) -> Result<bool> {
        let now = self.now();
        let is_there = match followed.upto.take() {
            Some(upto) if upto == now => true,
            Some(upto) if upto < now => {
                // Of what came since, where the windows are apart, only what lies in this one.
                let new = self.news(upto.max(self.start), labels, roster)?;
                self.go_on(&mut followed.rows, labels.table, &new);
                true
            }
            _ => {
                *room += std::mem::take(&mut followed.bytes);
                followed.rows = vec![T::default(); roster.subjects.len()];
                let held = self.begin(&mut followed.rows, labels, *room)?;
                followed.bytes = held.unwrap_or(0);
                *room -= followed.bytes;
                held.is_some()
            }
        };
        // An error leaves it unknown.
        followed.upto = is_there.then_some(now);
        Ok(is_there)
    }

    /// Reads the whole window to follow it from now on, and tells how many bytes it holds; `None` when that is beyond `room`.
    fn begin<T: Target>(&self, targets: &mut [T], labels: Labels<'_>, room: usize) -> Result<Option<usize>> {
        let (before, last) = (self.memory.size(), Cell::new(0));
        let too_large = Cell::new(false);
        let mut check = |held: usize| {
            last.set(held);
            self.run.deadline.check()?;
            let charged = if held > room {
                Err(DataFusionError::ResourcesExhausted("what recent() goes on with".to_owned()))
            } else {
                self.memory.try_resize(before + held)
            };
            charged.inspect_err(|_| too_large.set(true)).map_err(Ended::Query)
        };
        let window = TimeRange { from: self.start + 1, to: self.now() };
        let read = self.each_checked(labels.table, labels.rows, window, targets, &mut check);
        // It outlives the query.
        self.memory.try_resize(before)?;
        match read {
            Ok(_) => Ok(Some(last.get())),
            Err(_) if too_large.get() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The samples that came after `since`.
    fn news(&self, since: i64, labels: Labels<'_>, roster: &Arc<Roster>) -> Result<Arc<Vec<New>>> {
        let mut read = self.store().recents.trails.read[labels.metric].lock();
        if let Some(reading) = read.as_ref()
            && (reading.since, reading.now) == (since, self.now())
            && reading.version == *self.version
            && Arc::ptr_eq(&reading.roster, roster)
        {
            return Ok(Arc::clone(&reading.found));
        }
        let mut news = News { rows: labels.rows, found: Vec::with_capacity(roster.subjects.len()) };
        if let Some(members) = labels.table.members.first() {
            let range = TimeRange { from: since.saturating_add(1), to: self.now() };
            let visit = Visit { members, labels: labels.table.count, series: None, range };
            self.store().visit(&visit, &[range], &mut news, &mut self.charging())?;
        }
        // As a rule they lie in the order of rows already, instant by instant.
        news.found.sort_by_key(|(row, ..)| *row);
        let found = Arc::new(news.found);
        let (version, roster) = (self.version.clone(), Arc::clone(roster));
        *read = Some(Reading { since, now: self.now(), version, roster, found: Arc::clone(&found) });
        Ok(found)
    }

    fn go_on<T: Follows>(&self, targets: &mut [T], table: &LabelTable, new: &[New]) {
        let Some(members) = table.members.first() else { return };
        let from = (self.start + 1).max(self.store().horizons.of(&members.metric));
        let mut rest = new;
        for (row, target) in (0u32..).zip(targets) {
            let (new, others) = rest.split_at(run_of(rest, row));
            rest = others;
            target.go_on(from, new);
        }
    }
}

/// How many samples at the beginning are of a row.
fn run_of(news: &[New], row: u32) -> usize {
    news.iter().take_while(|(of, ..)| *of == row).count()
}

/// Whether each row has the samples of one series at most.
fn one_each(table: &LabelTable, rows: &[Option<u32>], count: usize) -> bool {
    let series = match table.members.as_slice() {
        [] => 0,
        [members] => members.ids.len(),
        _ => return false,
    };
    let mut taken = vec![false; count];
    let mut new = |row: &u32| !std::mem::replace(&mut taken[*row as usize], true);
    series == table.count && rows.iter().flatten().all(&mut new)
}
