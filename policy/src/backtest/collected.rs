//! What the rows of a file say, by container.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_actuator::simulated::Member;
use tidegate_model::{Bounds, CgroupVersion, Limit, Resource, TimeMs};

use super::trace::{Traced, Wanted};

/// A number of a container that does not change: what counts is the first row that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    CpuLimit,
    MemoryLimit,
    CpuMin,
    CpuMax,
    MemoryMin,
    MemoryMax,
}

/// How many of them there are.
pub(super) const FIXED: usize = 6;

/// One row: time in ms, demands in cores and bytes. Files have millions of them, so what is missing is NaN, which no number
/// of a file is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) time: i64,
    pub(super) cpu: f64,
    pub(super) memory: f64,
    /// The part of the memory that cannot be reclaimed.
    pub(super) anon: f64,
}

/// The rows of one container, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Samples {
    app: Option<String>,
    container: String,
    rows: Vec<Sample>,
    /// With the time of its row, in ms.
    fixed: [Option<(i64, f64)>; FIXED],
    /// Whose row came behind the last one of this container.
    next: usize,
}

impl Samples {
    /// Notes a number of a row at `time`. Some write 0 for a limit that is none.
    pub(super) fn fix(&mut self, what: Fixed, time: i64, value: f64) {
        let is_limit = matches!(what, Fixed::CpuLimit | Fixed::MemoryLimit);
        let known = &mut self.fixed[what as usize];
        // Files are sorted as their makers like; of rows of the same time the first one counts.
        if (!is_limit || value > 0.0) && known.is_none_or(|(first, _)| time < first) {
            *known = Some((time, value));
        }
    }

    pub(super) fn push(&mut self, sample: Sample) {
        self.rows.push(sample);
    }

    /// Takes what came later in the file.
    fn extend(&mut self, later: Self) {
        if self.rows.is_empty() {
            self.rows = later.rows;
        } else {
            self.rows.extend(later.rows);
        }
        for (known, more) in self.fixed.iter_mut().zip(later.fixed) {
            if let Some((time, _)) = more
                && known.is_none_or(|(first, _)| time < first)
            {
                *known = more;
            }
        }
    }

    fn traced(mut self, app: Option<String>, container: String) -> (Traced, Option<String>) {
        if !self.rows.is_sorted_by_key(|sample| sample.time) {
            self.rows.sort_by_key(|sample| sample.time);
        }
        let fixed = |what: Fixed| self.fixed[what as usize].map(|(_, value)| value);
        let first = |what: Fixed| fixed(what).map_or(Limit::Unlimited, Limit::At);
        let ends =
            [(Resource::Cpu, Fixed::CpuMin, Fixed::CpuMax), (Resource::Memory, Fixed::MemoryMin, Fixed::MemoryMax)];
        let bounds = ends.into_iter().filter_map(|(resource, min, max)| {
            let (min, max) = (fixed(min), fixed(max));
            let bounds = Bounds { min: min.unwrap_or(0.0), max: max.unwrap_or(1e300) };
            let stated = min.is_some() || max.is_some();
            (stated && bounds.min <= bounds.max).then_some((resource, bounds))
        });
        let member = Member {
            host: "trace".to_owned(),
            cgroup: CgroupVersion::V2,
            name: container,
            app,
            user: None,
            labels: BTreeMap::new(),
            bounds: bounds.collect(),
            cpu: first(Fixed::CpuLimit),
            memory: first(Fixed::MemoryLimit),
        };
        let mut traced = Traced { member, cpu: Wanted::default(), memory: Wanted::default() };
        let mut left_out = 0;
        let known = |value: f64| (!value.is_nan()).then_some(value);
        for Sample { time, cpu, memory, anon } in self.rows {
            for (wanted, value, anon) in
                [(&mut traced.cpu, known(cpu), None), (&mut traced.memory, known(memory), known(anon))]
            {
                left_out += usize::from(value.is_some_and(|value| !wanted.push(TimeMs(time), value, anon)));
            }
        }
        let problem = (left_out > 0).then(|| {
            format!(
                "{}: {left_out} values are negative or of a time that there was already, and left out",
                traced.member.name
            )
        });
        traced.limit_at_peak();
        (traced, problem)
    }
}

/// The rows of a file, or of a part of it.
#[derive(Debug, Default)]
pub(super) struct Collected {
    all: Vec<Samples>,
    places: HashMap<(Option<String>, String), usize, ahash::RandomState>,
    /// The container of the last row.
    last: usize,
    rows: u64,
    left_out: u64,
    /// The first row that was left out, and why.
    first_bad: Option<(u64, String)>,
}

impl Collected {
    /// Counts a row.
    pub(super) fn count(&mut self) {
        self.rows += 1;
    }

    /// The row that was counted last is none.
    pub(super) fn leave_out(&mut self, why: String) {
        self.left_out += 1;
        self.first_bad.get_or_insert((self.rows, why));
    }

    /// The container that a row is about.
    pub(super) fn of(&mut self, app: Option<&str>, container: &str) -> &mut Samples {
        // Rows go round the containers, or come container by container: mostly whoever followed last time follows again.
        let likely = self.all.get(self.last).map_or(0, |last| last.next);
        let is_it = |known: &Samples| known.container == container && known.app.as_deref() == app;
        if !self.all.get(likely).is_some_and(is_it) {
            let found = self.place(app, container);
            if let Some(last) = self.all.get_mut(self.last) {
                last.next = found;
            }
            self.last = found;
        } else {
            self.last = likely;
        }
        &mut self.all[self.last]
    }

    fn place(&mut self, app: Option<&str>, container: &str) -> usize {
        let (app, container) = (app.map(str::to_owned), container.to_owned());
        *self.places.entry((app, container)).or_insert_with_key(|(app, container)| {
            let (app, container, next) = (app.clone(), container.clone(), self.all.len());
            self.all.push(Samples { app, container, next, ..Samples::default() });
            next
        })
    }

    /// Takes the rows that come behind these in the file.
    pub(super) fn extend(&mut self, later: Self) {
        for mut samples in later.all {
            let (app, container) = (samples.app.take(), std::mem::take(&mut samples.container));
            let place = self.place(app.as_deref(), &container);
            self.all[place].extend(samples);
        }
        if let (None, Some((row, why))) = (&self.first_bad, later.first_bad) {
            self.first_bad = Some((self.rows + row, why));
        }
        self.rows += later.rows;
        self.left_out += later.left_out;
    }

    /// What is to be told about the rows.
    pub(super) fn problems(&self) -> Vec<String> {
        let bad = self.first_bad.iter();
        bad.map(|(row, why)| format!("{} of {} rows are left out; of row {row}, {why}", self.left_out, self.rows))
            .collect()
    }

    /// The containers by name, each with what is to be told about it.
    pub(super) fn traced(self) -> Vec<(Traced, Option<String>)> {
        let named: Vec<_> = self.named().into_iter().collect();
        named.into_iter().map(|(name, (app, samples))| samples.traced(app, name)).collect()
    }

    /// The containers by a name that is theirs alone: where the same name is in several apps, the app stands before it.
    fn named(self) -> BTreeMap<String, (Option<String>, Samples)> {
        let mut apps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Samples { app, container, .. } in &self.all {
            apps.entry(container.clone()).or_default().extend(app.clone());
        }
        let mut all = self.all;
        all.sort_by(|a, b| (&a.app, &a.container).cmp(&(&b.app, &b.container)));
        let mut named: BTreeMap<String, (Option<String>, Samples)> = BTreeMap::new();
        for mut samples in all {
            let (app, container) = (samples.app.take(), std::mem::take(&mut samples.container));
            let several = apps.get(&container).is_some_and(|apps| apps.len() > 1);
            let name = match &app {
                Some(app) if several => format!("{app}/{container}"),
                _ => container,
            };
            let (known, together) = named.entry(name).or_default();
            *known = known.take().or(app);
            together.extend(samples);
        }
        named
    }
}
