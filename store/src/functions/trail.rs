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

use super::gather::{Gathering, InWindow, Mean, Target, oom_kills};
use super::roster::{Roster, Tables, Version};
use super::statistics::Moving;
use crate::aggregate::{Ended, Visit, Visitor};
use crate::tables::{LabelTable, Read, Selected, TimeRange};

/// Windows that are followed at most: rules of one store ask for a few.
const MAX_TRAILS: usize = 4;
/// What a window may hold to be followed: beyond that, memory is worth more than time.
const MAX_BYTES: usize = 32 << 20;

/// By window, in ms; the one that was asked for last at the end.
#[derive(Default)]
pub(super) struct Trails(Mutex<Vec<(i64, Arc<Mutex<State>>)>>);

impl Trails {
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    fn of(&self, window_ms: i64) -> Arc<Mutex<State>> {
        let mut trails = self.0.lock();
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
    usage: Vec<Moving>,
    throttled: Vec<Points>,
    pressure: Vec<Points>,
    oom_kills: Vec<Runs>,
}

/// Samples of a row in the order of time.
#[derive(Clone, Default)]
struct Points(Vec<(i64, f64)>);

impl Points {
    fn mean(&self) -> Mean {
        let mut mean = Mean::default();
        for (time, value) in &self.0 {
            mean.push(*time, *value);
        }
        mean
    }
}

/// Readings of a counter: each value with the time of the last of the samples that say so.
#[derive(Clone, Default)]
struct Runs(Vec<(i64, f64)>);

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

impl Gathering<'_> {
    /// What the samples in the window come to, from what is known of the one before; `None` where nothing is.
    pub(super) fn follow<'r>(
        &self,
        roster: &'r Arc<Roster>,
        tables: &Tables,
        parts: &[Selected],
    ) -> Result<Option<InWindow<'r>>> {
        let ([selected], [usage]) = (parts, roster.usage.as_slice()) else { return Ok(None) };
        let rows = roster.subjects.len();
        let followed = [
            (selected.part.labels.as_ref(), usage.rows.as_slice()),
            (tables.throttled.as_ref(), &roster.throttled),
            (tables.pressure.as_ref(), &roster.pressure),
            (tables.oom_kills.as_ref(), &roster.oom_kills),
        ];
        if !matches!(selected.part.read, Read::Samples) || !followed.iter().all(|(table, of)| one_each(table, of, rows))
        {
            return Ok(None);
        }
        let now = self.now();
        let window_ms = now.saturating_sub(self.start);
        let state = self.store().recents.trails.of(window_ms);
        // Somebody asks the same as of another instant.
        let Some(mut state) = state.try_lock() else { return Ok(None) };
        let is_next = |before: i64| before < now && now - before <= window_ms;
        let mut trail = match std::mem::take(&mut *state) {
            State::Followed(trail) if trail.now > now => {
                *state = State::Followed(trail);
                return Ok(None);
            }
            State::Followed(mut trail) if trail.version == *self.version && Arc::ptr_eq(&trail.roster, roster) => {
                self.go_on(&mut trail, &followed)?;
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
                if !before.is_some_and(is_next) {
                    *state = State::Asked(now);
                    return Ok(None);
                }
                let Some(trail) = self.begin(roster, &followed)? else {
                    *state = State::TooLarge(Arc::clone(roster));
                    return Ok(None);
                };
                trail
            }
        };
        let statistics: Vec<_> = trail.usage.iter_mut().map(Moving::statistics).collect();
        let mut app = vec![None; rows];
        for (row, of) in usage.rows.iter().zip(&usage.apps) {
            if let Some(row) = row.map(|row| row as usize).filter(|row| statistics[*row].is_some()) {
                app[row] = of.as_deref();
            }
        }
        let found = InWindow {
            usage: statistics,
            app,
            throttled: trail.throttled.iter().map(Points::mean).collect(),
            pressure: trail.pressure.iter().map(Points::mean).collect(),
            oom_kills: trail.oom_kills.iter().map(|runs| oom_kills(&runs.0)).collect(),
        };
        *state = State::Followed(trail);
        Ok(Some(found))
    }

    /// Reads the whole window to follow it from now on; `None` when it is too much.
    fn begin(&self, roster: &Arc<Roster>, followed: &[(&LabelTable, &[Option<u32>]); 4]) -> Result<Option<Box<Trail>>> {
        let rows = roster.subjects.len();
        let mut trail = Box::new(Trail {
            now: self.now(),
            version: self.version.clone(),
            roster: Arc::clone(roster),
            usage: vec![Moving::default(); rows],
            throttled: vec![Points::default(); rows],
            pressure: vec![Points::default(); rows],
            oom_kills: vec![Runs::default(); rows],
        });
        let (before, kept, last) = (self.memory.size(), Cell::new(0), Cell::new(0));
        let too_large = Cell::new(false);
        let mut check = |held: usize| {
            last.set(held);
            let bytes = kept.get() + held;
            self.run.deadline.check()?;
            let charged = if bytes > MAX_BYTES {
                Err(DataFusionError::ResourcesExhausted("what recent() goes on with".to_owned()))
            } else {
                self.memory.try_resize(before + bytes)
            };
            charged.inspect_err(|_| too_large.set(true)).map_err(Ended::Query)
        };
        let window = TimeRange { from: self.start + 1, to: self.now() };
        let [usage, throttled, pressure, kills] = followed;
        let mut read = || -> Result<()> {
            self.each_checked(usage.0, usage.1, window, &mut trail.usage, &mut check)?;
            kept.set(kept.get() + last.get());
            self.each_checked(throttled.0, throttled.1, window, &mut trail.throttled, &mut check)?;
            kept.set(kept.get() + last.get());
            self.each_checked(pressure.0, pressure.1, window, &mut trail.pressure, &mut check)?;
            kept.set(kept.get() + last.get());
            self.each_checked(kills.0, kills.1, window, &mut trail.oom_kills, &mut check)?;
            Ok(())
        };
        let read = read();
        // It outlives the query.
        self.memory.try_resize(before)?;
        match read {
            Ok(()) => Ok(Some(trail)),
            Err(_) if too_large.get() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads what came since the last question.
    fn go_on(&self, trail: &mut Trail, followed: &[(&LabelTable, &[Option<u32>]); 4]) -> Result<()> {
        let since = trail.now;
        let [usage, throttled, pressure, kills] = followed;
        self.add(since, usage, &mut trail.usage)?;
        self.add(since, throttled, &mut trail.throttled)?;
        self.add(since, pressure, &mut trail.pressure)?;
        self.add(since, kills, &mut trail.oom_kills)?;
        trail.now = self.now();
        Ok(())
    }

    fn add<T: Follows>(&self, since: i64, of: &(&LabelTable, &[Option<u32>]), targets: &mut [T]) -> Result<()> {
        let (table, rows) = *of;
        let Some(members) = table.members.first() else { return Ok(()) };
        let from = (self.start + 1).max(self.store().horizons.of(&members.metric));
        let range = TimeRange { from: since.saturating_add(1).max(from), to: self.now() };
        let mut news = News { rows, found: Vec::with_capacity(targets.len()) };
        let visit = Visit { members, labels: table.count, series: None, range };
        self.store().visit(&visit, &[range], &mut news, &mut self.charging())?;
        // As a rule they lie in the order of rows already, instant by instant.
        news.found.sort_by_key(|(row, ..)| *row);
        let mut rest = news.found.as_slice();
        for (row, target) in (0u32..).zip(targets) {
            let (new, others) = rest.split_at(run_of(rest, row));
            rest = others;
            target.go_on(from, new);
        }
        Ok(())
    }
}

/// How many samples at the beginning are of a row.
fn run_of(news: &[New], row: u32) -> usize {
    news.iter().take_while(|(of, ..)| *of == row).count()
}

/// Whether each row has the samples of one series at most.
fn one_each(table: &LabelTable, rows: &[Option<u32>], count: usize) -> bool {
    let [members] = table.members.as_slice() else { return false };
    let mut taken = vec![false; count];
    let mut new = |row: &u32| !std::mem::replace(&mut taken[*row as usize], true);
    members.ids.len() == table.count && rows.iter().flatten().all(&mut new)
}
