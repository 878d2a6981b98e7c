//! What `history(half_life)` answers from: decayed histograms of usage, kept up from one query to the next.
//!
//! A sample weighs 2^(-age / half-life). Instead of ageing all weights all the time, a new sample weighs more: the weight is
//! 2^(time / half-life) relative to a reference, which moves on by whole half-lives, so that nothing is rounded by it. Values
//! are counted in buckets that grow by 5 %, as in the Kubernetes vertical pod autoscaler
//! (`recommender/util/decaying_histogram.go`, `model/aggregations_config.go`: ratio 1.05, half-life 24 h).
//!
//! A state holds all samples up to an instant that lies a little in the past, since samples take a while to arrive. A query
//! reads what came after that instant, and once that is more than twice the little while, the state moves on. One that
//! arrives even later is noticed by [`History::see`], and the state is made anew from what is stored: so late samples and
//! duplicates count as they do in `usage`, and a state never differs from what a fresh look at `usage` would give. The
//! while then grows to the lateness that was seen, up to ten minutes. Only what retention removes meanwhile still counts, until
//! the process starts anew; it is older than everything that `usage` has.
//!
//! A query for an instant before a state's own is answered by a second state, which follows a replay as the first one
//! follows the present.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use datafusion::common::Result;
use parking_lot::{Mutex, MutexGuard};
use tidegate_model::{TimeMs, metrics};

use crate::config::StoreConfig;
use crate::functions::Making;
use crate::store::Store;
use crate::tables::{LabelFilter, LabelTable, Selected, Source, Subject, UsageSource, executed, subjects};

/// Growth from one bucket to the next.
pub(crate) const RATIO: f64 = 1.05;
/// Values up to here count as nothing: a billionth of a core, or of a byte.
const NOTHING: f64 = 1e-9;
/// How long a sample may be under way, to begin with.
const LATE_MS: i64 = 30_000;
/// What that grows to.
const LATEST_MS: i64 = 600_000;
/// Tables whose labels a state knows: `usage`, and some of mapped metrics.
const LABELLED: usize = 4;
/// Half-lives after which the reference moves on. Far from the 1023 at which a weight would overflow.
const REFERENCE_STEP: i64 = 256;
/// States of one half-life: the present and a replay.
const STATES: usize = 2;
/// Rows that are read at once, about.
const SLICE_ROWS: usize = 400_000;
/// The narrowest and the widest slice of time that is read at once.
const SLICE_MS: (i64, i64) = (60_000, 6 * 3_600_000);
const ROW_BYTES: usize = 24;
const TAIL_BYTES: usize = 64;

/// The decayed histogram of one container and resource.
#[derive(Debug)]
pub(crate) struct Decayed {
    pub(crate) app: Option<String>,
    pub(crate) samples: u64,
    /// Times of the first and the last sample.
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) max: f64,
    weight: f64,
    sum: f64,
    /// The sample whose value times weight is the largest, and that product.
    peak: (i64, f64, f64),
    /// Weight of the values up to [`NOTHING`].
    nothing: f64,
    /// Number of the lowest bucket.
    lowest: i32,
    buckets: Vec<f64>,
}

// Not derived, so that `clone_from` keeps what there is room in.
impl Clone for Decayed {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        copy.clone_from(self);
        copy
    }

    fn clone_from(&mut self, source: &Self) {
        let (mut app, mut buckets) = (self.app.take(), std::mem::take(&mut self.buckets));
        app.clone_from(&source.app);
        buckets.clone_from(&source.buckets);
        let Self { samples, first, last, max, weight, sum, peak, nothing, lowest, .. } = *source;
        *self = Self { app, samples, first, last, max, weight, sum, peak, nothing, lowest, buckets };
    }
}

impl Decayed {
    fn new() -> Self {
        Self {
            app: None,
            samples: 0,
            first: i64::MAX,
            last: i64::MIN,
            max: f64::NEG_INFINITY,
            weight: 0.0,
            sum: 0.0,
            peak: (0, 0.0, 0.0),
            nothing: 0.0,
            lowest: 0,
            buckets: Vec::new(),
        }
    }

    fn push(&mut self, time: i64, value: f64, weight: f64) {
        self.samples += 1;
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        self.max = self.max.max(value);
        self.weight += weight;
        self.sum += weight * value;
        if value * weight >= self.peak.2 {
            self.peak = (time, value, value * weight);
        }
        if value <= NOTHING {
            self.nothing += weight;
            return;
        }
        let bucket = (value.ln() / RATIO.ln()).floor() as i32;
        *self.bucket(bucket) += weight;
    }

    fn bucket(&mut self, bucket: i32) -> &mut f64 {
        if self.buckets.is_empty() {
            self.lowest = bucket;
        }
        if bucket < self.lowest {
            let more = self.lowest.abs_diff(bucket) as usize;
            self.buckets.splice(..0, std::iter::repeat_n(0.0, more));
            self.lowest = bucket;
        }
        let at = bucket.abs_diff(self.lowest) as usize;
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, 0.0);
        }
        &mut self.buckets[at]
    }

    /// Its newest measurement names this app, if any.
    fn is_of(&mut self, app: Option<&str>) {
        if let Some(app) = app.filter(|app| self.app.as_deref() != Some(app)) {
            self.app = Some(app.to_owned());
        }
    }

    fn scale(&mut self, factor: f64) {
        self.weight *= factor;
        self.sum *= factor;
        self.peak.2 *= factor;
        self.nothing *= factor;
        self.buckets.iter_mut().for_each(|bucket| *bucket *= factor);
    }

    /// The weighted mean; `None` when all weights have faded to nothing.
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Of each share, in rising order, the upper end of the bucket in which that much of the weight is reached, at most the largest
    /// value: never below the value that is meant, and at most 5 % above it.
    pub(crate) fn percentiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let total = self.nothing + self.buckets.iter().sum::<f64>();
        let mut values = [self.max; N];
        let mut reached = self.nothing;
        let mut next = 0;
        while next < N && reached >= shares[next] * total && (reached > 0.0 || self.buckets.is_empty()) {
            values[next] = 0.0_f64.min(self.max);
            next += 1;
        }
        for (bucket, weight) in (self.lowest..).zip(&self.buckets) {
            reached += weight;
            while next < N && reached >= shares[next] * total && *weight > 0.0 {
                values[next] = RATIO.powi(bucket + 1).min(self.max);
                next += 1;
            }
            if next == N {
                break;
            }
        }
        values
    }

    /// The largest value after each has decayed by its age.
    pub(crate) fn peak(&self, now: i64, half_life_ms: i64) -> f64 {
        let (time, value, _) = self.peak;
        value * (-((now - time) as f64) / half_life_ms as f64).exp2()
    }

    /// The confidence of the vertical pod autoscaler (`logic/estimator.go`, `getConfidence`): days from the first sample to the
    /// last, or samples in days at one a minute, whatever is less.
    pub(crate) fn confidence(&self) -> f64 {
        let days = (self.last - self.first) as f64 / 86_400_000.0;
        days.min(self.samples as f64 / (24.0 * 60.0))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.buckets.capacity() * size_of::<f64>()
    }
}

/// Who the labels of a table are, in a [`State`].
#[derive(Clone, Debug)]
struct Labelled {
    table: Arc<LabelTable>,
    /// By label.
    numbers: Arc<Vec<(usize, Option<Arc<str>>)>>,
}

/// All samples up to an instant.
#[derive(Debug)]
struct State {
    half_life_ms: i64,
    /// In ms UTC, inclusive; `i64::MIN` before the first.
    upto: i64,
    /// What the names in pushed metrics stood for, see [`names`].
    names: u64,
    numbers: HashMap<Subject, usize, ahash::RandomState>,
    rows: Vec<Decayed>,
    /// The numbers in the order of who they are of; looked up anew where somebody has come.
    order: Arc<Vec<(Subject, usize)>>,
    /// Of labels that were seen lately, the numbers and apps.
    labelled: Vec<Labelled>,
    /// The half-life, counted since 1970, at whose beginning a sample weighs 1.
    reference: Option<i64>,
    /// The last weight that was worked out: many samples have the same time.
    known: (i64, f64),
}

impl State {
    fn new(half_life_ms: i64, names: u64) -> Self {
        Self {
            half_life_ms,
            upto: i64::MIN,
            names,
            numbers: HashMap::default(),
            rows: Vec::new(),
            order: Arc::default(),
            labelled: Vec::new(),
            reference: None,
            known: (i64::MIN, 0.0),
        }
    }

    /// The weight of a sample. Whole half-lives are powers of two, so the reference does not show in it.
    fn weight(&mut self, time: i64) -> f64 {
        if self.known.0 != time {
            let whole = time.div_euclid(self.half_life_ms);
            let rest = time.rem_euclid(self.half_life_ms) as f64 / self.half_life_ms as f64;
            let ahead = whole - *self.reference.get_or_insert(whole);
            self.known = (time, rest.exp2() * 2.0_f64.powi(ahead.clamp(-1100, 1000) as i32));
        }
        self.known.1
    }

    /// Moves the reference on when the samples to come would weigh too much.
    fn refer_to(&mut self, time: i64) {
        let Some(reference) = self.reference else { return };
        let ahead = time.div_euclid(self.half_life_ms) - reference;
        if ahead > REFERENCE_STEP {
            let factor = 2.0_f64.powi(-(ahead.min(1100) as i32));
            self.rows.iter_mut().for_each(|row| row.scale(factor));
            self.reference = Some(reference + ahead);
            self.known = (i64::MIN, 0.0);
        }
    }

    fn number(&mut self, subject: &Subject) -> usize {
        if let Some(number) = self.numbers.get(subject) {
            return *number;
        }
        self.rows.push(Decayed::new());
        self.numbers.insert(subject.clone(), self.rows.len() - 1);
        self.rows.len() - 1
    }

    /// Who the labels of a part are.
    fn labels(&mut self, part: &Selected) -> Arc<Vec<(usize, Option<Arc<str>>)>> {
        let table = &part.part.labels;
        if let Some(known) = self.labelled.iter().find(|known| Arc::ptr_eq(&known.table, table)) {
            return Arc::clone(&known.numbers);
        }
        let known = subjects(&table.columns).into_iter().map(|(who, app)| (self.number(&who), app.map(Arc::from)));
        let numbers = Arc::new(known.collect::<Vec<_>>());
        if self.labelled.len() >= LABELLED {
            self.labelled.remove(0);
        }
        self.labelled.push(Labelled { table: Arc::clone(table), numbers: Arc::clone(&numbers) });
        numbers
    }

    /// Adds the samples of a part in (label, time) order.
    fn add(&mut self, part: &Selected, rows: &mut [(u32, i64, f64)]) {
        rows.sort_by_key(|row| (row.0, row.1));
        let labels = self.labels(part);
        for of_label in rows.chunk_by(|a, b| a.0 == b.0) {
            let (number, app) = &labels[of_label[0].0 as usize];
            let newest = self.rows[*number].last;
            for (_, time, value) in of_label {
                let weight = self.weight(*time);
                self.rows[*number].push(*time, *value, weight);
            }
            if of_label.last().is_some_and(|(_, time, _)| *time >= newest) {
                self.rows[*number].is_of(app.as_deref());
            }
        }
    }

    /// Who there is, in order, and their numbers.
    fn in_order(&mut self) -> Arc<Vec<(Subject, usize)>> {
        if self.order.len() != self.numbers.len() {
            let mut all: Vec<_> = self.numbers.iter().map(|(who, number)| (who.clone(), *number)).collect();
            all.sort();
            self.order = Arc::new(all);
        }
        Arc::clone(&self.order)
    }

    /// Forgets who has nothing in the store any more.
    fn expire(&mut self, earliest: i64) {
        // Who has a label and no sample yet is no reason.
        if self.rows.iter().all(|row| row.samples == 0 || row.last >= earliest) {
            return;
        }
        (self.order, self.labelled) = (Arc::default(), Vec::new());
        let rows = std::mem::take(&mut self.rows);
        for (subject, number) in std::mem::take(&mut self.numbers) {
            if rows[number].last >= earliest {
                self.numbers.insert(subject, self.rows.len());
                self.rows.push(rows[number].clone());
            }
        }
    }

    fn bytes(&self) -> usize {
        let names = self.numbers.keys().map(|who| who.host.len() + who.container.len() + who.resource.len());
        self.rows.iter().map(Decayed::bytes).sum::<usize>() + names.sum::<usize>() + 96 * self.numbers.len()
    }
}

struct Inner {
    states: Vec<State>,
    /// How long a sample may be under way.
    late_ms: i64,
}

/// The states that a store keeps.
pub(crate) struct History {
    /// Half-lives that are kept up.
    half_lives_ms: Vec<i64>,
    /// Metrics that are usage.
    metrics: HashSet<String>,
    inner: Mutex<Inner>,
    /// The latest instant that any state has reached or is about to; `i64::MIN` as long as nobody asked.
    reached: AtomicI64,
    /// The earliest sample that came after a state had passed its time; `i64::MAX` without one.
    late_from: AtomicI64,
}

impl History {
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let mapped = config.usage_maps.iter().flat_map(|map| map.metrics.iter().cloned());
        Self {
            half_lives_ms: config.history_half_lives_s.iter().map(|s| i64::from(*s) * 1000).collect(),
            metrics: mapped.chain([metrics::USAGE.to_owned()]).collect(),
            inner: Mutex::new(Inner { states: Vec::new(), late_ms: LATE_MS }),
            reached: AtomicI64::new(i64::MIN),
            late_from: AtomicI64::new(i64::MAX),
        }
    }

    /// Notes samples that a state has already passed. Called once they are visible, and without a lock held.
    pub(crate) fn see(&self, store: &Store, series: &[u32], times: &[i64]) {
        // As `reach` stores it: a state first says how far it will read, then reads; a writer first shows, then looks. So
        // either the state reads the sample or the writer sees that it comes late.
        let reached = self.reached.load(Ordering::SeqCst);
        if reached == i64::MIN || times.iter().all(|time| *time > reached) {
            return;
        }
        let index = store.index.read();
        for (id, time) in series.iter().zip(times).filter(|(_, time)| **time <= reached) {
            if index.key(*id).is_some_and(|key| self.metrics.contains(key.metric())) {
                self.late_from.fetch_min(*time, Ordering::SeqCst);
            }
        }
    }

    /// Calls `row` for each container and resource with what is known of it as of `now`.
    ///
    /// # Errors
    /// When the samples cannot be read, or the query has to end. What was read until then is kept for the next one.
    pub(crate) fn each(
        &self,
        store: &Store,
        half_life_ms: i64,
        now: i64,
        making: &Making,
        mut row: impl FnMut(&Subject, &Decayed),
    ) -> Result<()> {
        if !self.half_lives_ms.contains(&half_life_ms) {
            let mut state = State::new(half_life_ms, 0);
            let mut charged = 0;
            slices(store, i64::MIN, now, Some(making), |slice_end, part, rows| {
                state.refer_to(slice_end);
                state.add(part, rows);
                // What is kept from one query to the next is the store's; this is the query's.
                let bytes = state.bytes().max(charged);
                making.memory.try_grow(bytes - charged)?;
                charged = bytes;
                Ok(())
            })?;
            for (subject, number) in state.in_order().iter() {
                if state.rows[*number].samples > 0 {
                    row(subject, &state.rows[*number]);
                }
            }
            return Ok(());
        }
        let mut inner = self.lock(making)?;
        self.drop_outdated(&mut inner, now);
        let late_ms = inner.late_ms;
        let state = inner.state(half_life_ms, names(store, &self.metrics), now);
        if state.upto == i64::MIN || now.saturating_sub(state.upto) > 2 * late_ms {
            self.reach(now.saturating_sub(late_ms));
            follow(state, store, now.saturating_sub(late_ms), Some(making))?;
        }
        // By the number of the row, those of a row in the order of time.
        let mut tail: Vec<(usize, i64, f64, Option<Arc<str>>)> = Vec::new();
        let (upto, reference) = (state.upto, state.reference);
        slices(store, upto.saturating_add(1), now, Some(making), |_, part, rows| {
            making.memory.try_grow(rows.len() * TAIL_BYTES)?;
            rows.sort_by_key(|row| (row.0, row.1));
            let labels = state.labels(part);
            tail.extend(rows.iter().map(|(label, time, value)| {
                let (number, app) = &labels[*label as usize];
                (*number, *time, *value, app.clone())
            }));
            Ok(())
        })?;
        tail.sort_by_key(|(number, ..)| *number);
        let mut recent = State::new(half_life_ms, 0);
        recent.reference = reference.or_else(|| tail.first().map(|(_, time, ..)| time.div_euclid(half_life_ms)));
        state.reference = recent.reference;
        let of_row = |number: usize| {
            let begin = tail.partition_point(|(of, ..)| *of < number);
            &tail[begin..begin + tail[begin..].iter().take_while(|(of, ..)| *of == number).count()]
        };
        let mut with_tail = Decayed::new();
        for (subject, number) in state.in_order().iter() {
            let (known, points) = (&state.rows[*number], of_row(*number));
            if points.is_empty() {
                if known.samples > 0 {
                    row(subject, known);
                }
                continue;
            }
            with_tail.clone_from(known);
            for (_, time, value, app) in points {
                let weight = recent.weight(*time);
                with_tail.push(*time, *value, weight);
                with_tail.is_of(app.as_deref());
            }
            row(subject, &with_tail);
        }
        Ok(())
    }

    /// Whether [`History::catch_up`] has something to do.
    pub(crate) fn is_behind(&self, now: TimeMs) -> bool {
        let reached = self.reached.load(Ordering::SeqCst);
        reached != i64::MIN && now.0.saturating_sub(reached) > 4 * LATE_MS
    }

    /// Moves the states of the present on, so that the next query after a long while has little to read. Reads files.
    ///
    /// # Errors
    /// When the samples cannot be read.
    pub(crate) fn catch_up(&self, store: &Store, now: TimeMs) -> Result<()> {
        let mut inner = self.inner.lock();
        self.drop_outdated(&mut inner, now.0);
        let (late_ms, names) = (inner.late_ms, names(store, &self.metrics));
        for half_life_ms in &self.half_lives_ms {
            let of_it = inner.states.iter_mut().filter(|state| state.half_life_ms == *half_life_ms);
            if let Some(state) = of_it.max_by_key(|state| state.upto).filter(|state| state.names == names) {
                self.reach(now.0.saturating_sub(late_ms));
                follow(state, store, now.0.saturating_sub(late_ms), None)?;
            }
        }
        Ok(())
    }

    fn reach(&self, upto: i64) {
        self.reached.fetch_max(upto, Ordering::SeqCst);
    }

    fn lock(&self, making: &Making) -> Result<MutexGuard<'_, Inner>> {
        loop {
            if let Some(inner) = self.inner.try_lock_for(Duration::from_millis(20)) {
                return Ok(inner);
            }
            making.check()?;
        }
    }

    /// Forgets states that a late sample has made wrong.
    fn drop_outdated(&self, inner: &mut Inner, now: i64) {
        let late_from = self.late_from.swap(i64::MAX, Ordering::SeqCst);
        if late_from == i64::MAX {
            return;
        }
        inner.states.retain(|state| state.upto < late_from);
        // Once more for the time until it is asked again. What is later than the latest is not waited for: it was put in later.
        let late = now.saturating_sub(late_from).saturating_mul(3) / 2;
        if late <= LATEST_MS {
            inner.late_ms = inner.late_ms.max(late);
        }
    }
}

impl Inner {
    /// The state that is nearest before `now`, or a new one.
    fn state(&mut self, half_life_ms: i64, names: u64, now: i64) -> &mut State {
        self.states.retain(|state| state.half_life_ms != half_life_ms || state.names == names);
        let mine = |state: &State| state.half_life_ms == half_life_ms;
        let nearest = (0..self.states.len())
            .filter(|at| mine(&self.states[*at]) && self.states[*at].upto <= now)
            .max_by_key(|at| self.states[*at].upto);
        let at = nearest.unwrap_or_else(|| {
            let all: Vec<usize> = (0..self.states.len()).filter(|at| mine(&self.states[*at])).collect();
            if all.len() >= STATES {
                // Of the present and a replay the replay begins anew.
                if let Some(earliest) = all.into_iter().min_by_key(|at| self.states[*at].upto) {
                    self.states.remove(earliest);
                }
            }
            self.states.push(State::new(half_life_ms, names));
            self.states.len() - 1
        });
        &mut self.states[at]
    }
}

/// What containers' names stand for where pushed metrics say no more than the name; 0 where none do.
fn names(store: &Store, usage: &HashSet<String>) -> u64 {
    if !usage.iter().any(|metric| metric != metrics::USAGE && store.metric(metric).is_some()) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    for container in store.containers() {
        (container.key.host, container.key.name).hash(&mut hasher);
    }
    hasher.finish()
}

/// Moves a state on to `upto`, slice by slice, the oldest first.
fn follow(state: &mut State, store: &Store, upto: i64, making: Option<&Making>) -> Result<()> {
    if upto <= state.upto {
        return Ok(());
    }
    if let Some((earliest, _)) = store.stored_times() {
        state.expire(earliest);
    }
    let from = state.upto.saturating_add(1);
    let mut ends = i64::MIN;
    slices(store, from, upto, making, |slice_end, part, rows| {
        if slice_end > ends {
            (state.upto, ends) = (ends.max(state.upto), slice_end);
        }
        state.refer_to(slice_end);
        state.add(part, rows);
        Ok(())
    })?;
    state.upto = upto;
    Ok(())
}

/// Reads `usage` in slices of time, the oldest first; `each` gets a slice's end, a part and its rows of (label, time, value).
fn slices(
    store: &Store,
    from: i64,
    to: i64,
    making: Option<&Making>,
    mut each: impl FnMut(i64, &Selected, &mut [(u32, i64, f64)]) -> Result<()>,
) -> Result<()> {
    let Some((earliest, latest)) = store.stored_times() else { return Ok(()) };
    let (mut from, to) = (from.max(earliest), to.min(latest));
    let usage = UsageSource { maps: store.config().usage_maps.clone() };
    let parts: Vec<_> = usage.parts(store, &LabelFilter::everything()).into_iter().map(Selected::all).collect();
    let mut width = 600_000;
    while from <= to {
        let end = from.saturating_add(width - 1).min(to);
        let mut had = 0;
        let mut read = Vec::with_capacity(parts.len());
        for part in &parts {
            if let Some(making) = making {
                making.check()?;
            }
            let mut rows: Vec<(u32, i64, f64)> = Vec::new();
            for block in part.read(store, from, end).map_err(executed)? {
                let Some(values) = block.values.first().and_then(|column| column.as_primitive_opt::<Float64Type>())
                else {
                    continue;
                };
                let columns = block.label.values().iter().zip(block.time.values()).zip(values.values());
                rows.extend(columns.map(|((label, time), value)| (*label, *time, *value)));
            }
            had += rows.len();
            read.push(rows);
        }
        if let Some(making) = making {
            making.memory.try_grow(had * ROW_BYTES)?;
        }
        // Only whole slices are added, so that whoever is stopped in between knows how far it came.
        for (part, rows) in parts.iter().zip(&mut read) {
            each(end, part, rows)?;
        }
        if let Some(making) = making {
            making.memory.shrink(had * ROW_BYTES);
        }
        width = if had < SLICE_ROWS / 2 {
            width * 2
        } else if had > SLICE_ROWS {
            width / 2
        } else {
            width
        };
        width = width.clamp(SLICE_MS.0, SLICE_MS.1);
        match end.checked_add(1) {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(())
}
