//! What `recent(window)` goes on with: whoever asks each second what the last minute was like is told from what the second
//! before was told, and the samples since.
//!
//! Samples that are not newer than the last question are noticed by [`Version`], and what lies after the earliest of them is
//! read again: whoever measures each second and sends it a moment later is always late by a little. Everything is read anew
//! where they are later than that, after a flush, and where several series or labels are about the same row, since the order
//! of their samples is known to the full reading only.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use parking_lot::Mutex;

use super::followed::{Followed, Follows, New, Points, Runs};
use super::gather::{Gathering, InWindow, Target};
use super::recent_columns::{Columns, place};
use super::roster::{Roster, Tables, UsagePart, Version};
use super::statistics::Moving;
use crate::aggregate::{Ended, Visit, Visitor};
use crate::store::Store;
use crate::tables::{LabelTable, Read, Selected, TimeRange};

/// Windows that are followed at most, of each resource and of all. The default rules ask for seven of memory; one too few and each
/// would be read anew each time.
const MAX_TRAILS: usize = 12;
/// What a window of all resources may hold to be followed, one of a single resource half: beyond that, memory is worth more than
/// time. Two minutes of 10,000 containers that are measured each second are just within it.
const MAX_BYTES: usize = 48 << 20;

/// What all windows go on with.
#[derive(Default)]
pub(super) struct Trails {
    /// By window, in ms; the one that was asked for last at the end.
    windows: Mutex<Vec<(i64, Arc<Mutex<State>>)>>,
    /// What was read last of each metric: windows that were asked for at the same instants go on by the same samples.
    read: [LastRead; METRICS],
}

type LastRead = Mutex<Option<Reading>>;

impl Trails {
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

/// The places of what is followed of a window, and how many metrics that are.
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

impl Trail {
    /// What is known of rows whose samples nobody has read.
    fn new(now: i64, version: &Version, roster: &Arc<Roster>) -> Self {
        Self {
            now,
            version: version.clone(),
            roster: Arc::clone(roster),
            usage: Followed::default(),
            throttled: Followed::default(),
            pressure: Followed::default(),
            oom_kills: Followed::default(),
        }
    }

    /// Goes on to `now`; samples from `late` on have come since.
    fn go_on(&mut self, now: i64, version: &Version, late: Option<i64>) {
        self.now = now;
        self.version = version.clone();
        if let Some(late) = late {
            self.usage.rewind(late);
            self.throttled.rewind(late);
            self.pressure.rewind(late);
            self.oom_kills.rewind(late);
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

/// What the rows of a metric that may be followed are read from.
struct Metric<'a> {
    parts: Vec<Origin<'a>>,
}

/// Some labels, the row of each, and how their samples are read.
#[derive(Clone, Copy)]
struct Origin<'a> {
    table: &'a LabelTable,
    rows: &'a [Option<u32>],
    /// What is summed up from several series, and by what it is scaled.
    sums: Option<(&'a Selected, f64)>,
}

impl<'a> Metric<'a> {
    fn collected(table: &'a LabelTable, rows: &'a [Option<u32>]) -> Self {
        Self { parts: vec![Origin { table, rows, sums: None }] }
    }

    /// Usage; `None` where it is read in a way that cannot go on.
    fn usage(parts: &'a [Selected], roster: &'a Roster) -> Option<Self> {
        let from = |(selected, part): (&'a Selected, &'a UsagePart)| {
            let sums = match selected.part.read {
                Read::Samples => None,
                Read::Sums(scale) => Some((selected, scale)),
                Read::Rows(_) => return None,
            };
            Some(Origin { table: &selected.part.labels, rows: &part.rows, sums })
        };
        let parts = parts.iter().zip(&roster.usage).map(from).collect::<Option<_>>()?;
        Some(Self { parts })
    }

    /// Whether each row has the samples of one series, or the sums of one label, at most: only then their order is known.
    fn is_one_each(&self, rows: usize) -> bool {
        let mut taken = vec![false; rows];
        let mut new = |row: &u32| !std::mem::replace(&mut taken[*row as usize], true);
        self.parts.iter().all(|part| {
            let is_summed = part.sums.is_some();
            let series = match part.table.members.as_slice() {
                _ if is_summed => part.table.count,
                [] => 0,
                [members] => members.ids.len(),
                _ => return false,
            };
            series == part.table.count && part.rows.iter().flatten().all(&mut new)
        })
    }

    /// Whether some samples after `start` are past keeping.
    fn is_cut_after(&self, start: i64, store: &Store) -> bool {
        let members = self.parts.iter().flat_map(|part| &part.table.members);
        members.map(|members| store.horizons.of(&members.metric)).any(|horizon| horizon > start)
    }
}

impl Gathering<'_> {
    /// What the samples in the window come to, as far as some columns need them, from what is known of the one before; `None`
    /// where nothing is.
    pub(super) fn follow<'r>(
        &self,
        trails: &Trails,
        roster: &'r Arc<Roster>,
        tables: &Tables,
        parts: &[Selected],
        wanted: Columns,
    ) -> Result<Option<InWindow<'r>>> {
        let rows = roster.subjects.len();
        let Some(usage) = Metric::usage(parts, roster) else { return Ok(None) };
        let metrics: [Metric<'_>; METRICS] = [
            usage,
            Metric::collected(&tables.throttled, &roster.throttled),
            Metric::collected(&tables.pressure, &roster.pressure),
            Metric::collected(&tables.oom_kills, &roster.oom_kills),
        ];
        if metrics.iter().any(|metric| !metric.is_one_each(rows) || metric.is_cut_after(self.start, self.store())) {
            return Ok(None);
        }
        let now = self.now();
        let window_ms = now.saturating_sub(self.start);
        let state = trails.of(window_ms);
        // Somebody asks the same as of another instant.
        let Some(mut state) = state.try_lock() else { return Ok(None) };
        let mut trail = match std::mem::take(&mut *state) {
            State::Followed(trail) if trail.now > now => {
                *state = State::Followed(trail);
                return Ok(None);
            }
            State::Followed(mut trail)
                if self.version.goes_on_from(&trail.version) && Arc::ptr_eq(&trail.roster, roster) =>
            {
                let late = self.store().data.read().active.late_since(trail.version.samples);
                trail.go_on(now, self.version, late);
                trail
            }
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
                if before.is_none_or(|before| before >= now) {
                    *state = State::Asked(now);
                    return Ok(None);
                }
                Box::new(Trail::new(now, self.version, roster))
            }
        };
        let throttled = wanted.has_any(&[place::THROTTLED, place::THROTTLED_LAST]);
        let most = if self.resource.is_some() { MAX_BYTES / 2 } else { MAX_BYTES };
        let mut room = most.saturating_sub(trail.bytes());
        let of = |metric: usize| (&metrics[metric], &trails.read[metric]);
        let is_there = self.bring(&mut trail.usage, of(USAGE), roster, &mut room)?
            && (!throttled || self.bring(&mut trail.throttled, of(THROTTLED), roster, &mut room)?)
            && (!wanted.has(place::PRESSURE) || self.bring(&mut trail.pressure, of(PRESSURE), roster, &mut room)?)
            && (!wanted.has(place::OOM_KILLS) || self.bring(&mut trail.oom_kills, of(OOM_KILLS), roster, &mut room)?);
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
            for (row, of) in roster.usage.iter().flat_map(|part| part.rows.iter().zip(&part.apps)) {
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
        (metric, read): (&Metric<'_>, &LastRead),
        roster: &Arc<Roster>,
        room: &mut usize,
    ) -> Result<bool> {
        let now = self.now();
        let is_there = match followed.upto.take() {
            Some(upto) if upto == now => true,
            Some(upto) if upto < now => {
                // Of what came since, where the windows are apart, only what lies in this one.
                let since = upto.max(self.start);
                let new = self.news(since, metric, read, roster)?;
                let mut rest = new.as_slice();
                for (row, target) in (0u32..).zip(&mut followed.rows) {
                    let (new, others) = rest.split_at(run_of(rest, row));
                    rest = others;
                    target.go_on(self.start + 1, since, new);
                }
                true
            }
            _ => {
                *room += std::mem::take(&mut followed.bytes);
                followed.rows = vec![T::default(); roster.subjects.len()];
                let held = self.begin(&mut followed.rows, metric, *room)?;
                followed.bytes = held.unwrap_or(0);
                *room -= followed.bytes;
                held.is_some()
            }
        };
        // An error leaves it unknown.
        followed.upto = is_there.then_some(now);
        followed.now = now;
        Ok(is_there)
    }

    /// Reads the whole window to follow it from now on, and tells how many bytes it holds; `None` when that is beyond `room`.
    fn begin<T: Target>(&self, targets: &mut [T], metric: &Metric<'_>, room: usize) -> Result<Option<usize>> {
        let (before, last) = (self.memory.size(), Cell::new(0));
        let too_large = Cell::new(false);
        let window = TimeRange { from: self.start + 1, to: self.now() };
        let mut held = 0;
        for part in &metric.parts {
            let mut check = |more: usize| {
                last.set(more);
                self.run.deadline.check()?;
                let charged = if held + more > room {
                    Err(DataFusionError::ResourcesExhausted("what recent() goes on with".to_owned()))
                } else {
                    self.memory.try_resize(before + held + more)
                };
                charged.inspect_err(|_| too_large.set(true)).map_err(Ended::Query)
            };
            let read = match part.sums {
                Some((selected, scale)) => {
                    self.sums(selected, scale, part.rows, window, targets, &mut check).map(|_| ())
                }
                None => self.each_checked(part.table, part.rows, window, targets, &mut check).map(|_| ()),
            };
            match read {
                Ok(()) => held += last.get(),
                Err(error) => {
                    self.memory.try_resize(before)?;
                    return if too_large.get() { Ok(None) } else { Err(error) };
                }
            }
        }
        // It outlives the query.
        self.memory.try_resize(before)?;
        Ok(Some(held))
    }

    /// The samples that came after `since`.
    fn news(&self, since: i64, metric: &Metric<'_>, read: &LastRead, roster: &Arc<Roster>) -> Result<Arc<Vec<New>>> {
        let mut read = read.lock();
        if let Some(reading) = read.as_ref()
            && (reading.since, reading.now) == (since, self.now())
            && reading.version == *self.version
            && Arc::ptr_eq(&reading.roster, roster)
        {
            return Ok(Arc::clone(&reading.found));
        }
        let range = TimeRange { from: since.saturating_add(1), to: self.now() };
        let mut found = Vec::with_capacity(roster.subjects.len());
        for part in &metric.parts {
            if let Some((selected, scale)) = part.sums {
                let sums = self.store().sums(selected, scale, range, &mut self.charging())?;
                for (points, row) in sums.into_iter().zip(part.rows) {
                    found.extend(row.iter().flat_map(|row| points.iter().map(|(time, value)| (*row, *time, *value))));
                }
            } else if let Some(members) = part.table.members.first() {
                let mut news = News { rows: part.rows, found };
                let visit = Visit { members, labels: part.table.count, series: None, range };
                self.store().visit(&visit, &[range], &mut news, &mut self.charging())?;
                found = news.found;
            }
        }
        // As a rule they lie in the order of rows already, instant by instant.
        found.sort_by_key(|(row, ..)| *row);
        let found = Arc::new(found);
        let (version, roster) = (self.version.clone(), Arc::clone(roster));
        *read = Some(Reading { since, now: self.now(), version, roster, found: Arc::clone(&found) });
        Ok(found)
    }
}

/// How many samples at the beginning are of a row.
fn run_of(news: &[New], row: u32) -> usize {
    news.iter().take_while(|(of, ..)| *of == row).count()
}
