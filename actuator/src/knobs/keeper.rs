//! Keeps one container's knobs as they shall be: look, compare with what was last written, write once, read back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_model::{OutcomeStatus, Resource, TimeMs, Write};

use crate::DriftAnswer;
use crate::cgroup::disks::rate_of;
use crate::config::OnDrift;
use crate::drift::{Claim, DriftRule, Standing};
use crate::error::ActuatorError;
use crate::knobs::KnobMode;
use crate::knobs::file::Place;
use crate::knobs::setting::{Knob, Setting, Wishes};

/// How long after a refusal it is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// What is on disk of a knob that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnobRecord {
    /// What stood there before the first change.
    pub(crate) found: String,
    /// What was written last.
    pub(crate) written: String,
}

/// What came of one knob.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct News {
    pub(crate) knob: Knob,
    pub(crate) status: OutcomeStatus,
    pub(crate) value: f64,
    pub(crate) message: String,
    pub(crate) writes: Vec<Write>,
}

/// One container's knobs.
#[derive(Debug, Default)]
pub(crate) struct Knobs {
    wishes: Wishes,
    recorded: BTreeMap<Knob, KnobRecord>,
    kept: BTreeMap<Knob, Kept>,
    mode: KnobMode,
    /// When the container's owner is told of what was given back and it may know otherwise; `None` once it was.
    untold: BTreeMap<Knob, Option<TimeMs>>,
    /// Labels are still missing, so nobody can say what is not wished any more.
    incomplete: bool,
}

#[derive(Debug, Default)]
struct Kept {
    claim: Claim<String>,
    /// Why it is not as it shall be, which is told once.
    problem: Option<String>,
    /// It is not tried before.
    retry_at: Option<TimeMs>,
}

impl Kept {
    /// Whether it failed so lately that it is not tried yet.
    fn waits(&mut self, now: TimeMs) -> bool {
        self.retry_at.take_if(|at| now >= *at);
        self.retry_at.is_some()
    }
}

/// Keeps what is known of a knob; nothing once it is given back.
pub(crate) type Record<'a> = dyn Fn(Knob, Option<&KnobRecord>) -> Result<(), ActuatorError> + 'a;

/// What a look at a container's knobs needs.
pub(crate) struct Round<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) now: TimeMs,
    pub(crate) drift: DriftRule,
    /// Whether anything but giving back is forbidden.
    pub(crate) unscaled: bool,
    /// Whether the lock of the limit that goes with a knob is free, and held for the round.
    pub(crate) may: &'a dyn Fn(Knob) -> bool,
    /// Whether the container's owner may know a knob and bring it back, and has to be told when it is given back.
    pub(crate) owner_knows: &'a dyn Fn(Knob) -> bool,
    /// Puts on disk what is known of a knob, before it is changed.
    pub(crate) record: &'a Record<'a>,
}

impl Knobs {
    /// `recorded` by a former process or earlier in this one; `incomplete` while labels are missing.
    pub(crate) fn new(wishes: Wishes, recorded: BTreeMap<Knob, KnobRecord>, incomplete: bool) -> Self {
        Self { wishes, recorded, incomplete, ..Self::default() }
    }

    /// The labels that were missing are there.
    pub(crate) fn complete(&mut self, wishes: Wishes) {
        (self.wishes, self.incomplete) = (wishes, false);
    }

    /// The container's owner was told of a limit and may have set back what it knows otherwise: what stands then was set by
    /// nobody else.
    pub(crate) fn owner_was_told(&mut self) {
        for kept in self.kept.values_mut().filter(|kept| kept.claim.is_ours()) {
            kept.claim.doubt();
        }
    }

    /// Knobs that were given back and that the container's owner has to be told of now.
    pub(crate) fn to_tell(&self, now: TimeMs) -> Vec<Knob> {
        self.untold.iter().filter(|(_, at)| at.is_some_and(|at| now >= at)).map(|(knob, _)| *knob).collect()
    }

    /// The owner was told of one, or is told again later.
    pub(crate) fn told_owner(&mut self, knob: Knob, is_told: bool, now: TimeMs) {
        self.untold.insert(knob, (!is_told).then(|| now.plus(RETRY)));
    }

    /// Why a rule may not move a knob, when the configuration or a label says what it shall be.
    pub(crate) fn is_configured(&self, resource: Resource) -> Option<String> {
        if resource.is_disk() {
            // One device is enough: a limit of a rule is one for all disks.
            let sets = |setting: &&Setting| setting.rate(rate_of(resource)).is_some();
            let (knob, setting) = self.wishes.iter().find(|(_, setting)| sets(setting))?;
            return Some(format!(
                "the configuration or a label sets {knob} to {setting}, so no rule limits {resource}"
            ));
        }
        let knob = Knob::of(resource)?;
        let setting = self.wishes.get(&knob)?;
        Some(format!("the configuration or a label sets {knob} to {setting}, so no rule does"))
    }

    /// Whether memory.high is kept where it was set, whatever the limit is.
    pub(crate) fn keeps_high(&self) -> bool {
        self.keeps(Knob::MemoryHigh)
    }

    /// The burst in µs that is kept as far as the quota has room for it.
    pub(crate) fn kept_burst(&self) -> Option<u64> {
        match self.wishes.get(&Knob::CpuBurst) {
            Some(Setting::Burst(us)) if self.keeps(Knob::CpuBurst) => Some(*us),
            _ => None,
        }
    }

    /// Whether a knob was set and nobody else has it.
    fn keeps(&self, knob: Knob) -> bool {
        let is_ours = self.kept.get(&knob).is_some_and(|kept| kept.claim.is_ours());
        is_ours && self.mode == KnobMode::Keep && self.wishes.contains_key(&knob)
    }

    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.wishes.is_empty() && self.recorded.is_empty()
    }

    /// One look at all of them.
    pub(crate) fn tend(&mut self, round: &Round<'_>, mode: KnobMode) -> Vec<News> {
        self.mode = mode;
        let mut news = Vec::new();
        let recorded: Vec<(Knob, KnobRecord)> = self.recorded.clone().into_iter().collect();
        match mode {
            KnobMode::Hold => {}
            KnobMode::GiveBack => {
                for (knob, record) in recorded.into_iter().filter(|(knob, _)| (round.may)(*knob)) {
                    let known = news.len();
                    self.told(knob, round, |kept, writes| give_back(kept, knob, &record, round, writes), &mut news);
                    let is_given = news.len() > known && news.iter().all(|news| news.status == OutcomeStatus::Applied);
                    if is_given && (round.owner_knows)(knob) {
                        self.untold.insert(knob, Some(round.now));
                    }
                }
            }
            KnobMode::Keep => {
                let is_unwished = |knob: &Knob| !self.incomplete && !self.wishes.contains_key(knob);
                let unwished = recorded.into_iter().filter(|(knob, _)| is_unwished(knob));
                let unwished: Vec<(Knob, KnobRecord)> = unwished.filter(|(knob, _)| (round.may)(*knob)).collect();
                for (knob, record) in unwished {
                    self.forsake(knob, &record, round, &mut news);
                }
                if round.unscaled {
                    return news;
                }
                for (knob, setting) in self.wishes.clone().into_iter().filter(|(knob, _)| (round.may)(*knob)) {
                    let mut record = self.recorded.get(&knob).cloned();
                    self.told(knob, round, |kept, writes| keep(kept, &setting, &mut record, round, writes), &mut news);
                    self.untold.remove(&knob);
                    self.recorded.extend(record.map(|record| (knob, record)));
                }
            }
        }
        news
    }

    /// The configuration does not ask for it any more: what stood there before comes back, unless somebody else has it.
    fn forsake(&mut self, knob: Knob, record: &KnobRecord, round: &Round<'_>, news: &mut Vec<News>) {
        let told_before = match self.untold.get(&knob) {
            Some(Some(_)) => return,
            told => told.is_some(),
        };
        let is_done = Cell::new(false);
        let is_back = Cell::new(false);
        let work = |kept: &mut Kept, writes: &mut Vec<Write>| {
            let place = &round.place;
            let is_ours = place.is_as_written(knob, &record.found, &record.written)?;
            let told = if is_ours { give_back(kept, knob, record, round, writes)? } else { None };
            is_back.set(place.read(knob)? == place.returned(knob, &record.found, &record.written)?);
            // Its record stays until the owner knows, or a restart would leave it with what was set.
            let is_known = told_before || !is_back.get() || !(round.owner_knows)(knob);
            if (!is_ours || is_back.get()) && is_known {
                (round.record)(knob, None)?;
                is_done.set(true);
            }
            Ok(told)
        };
        self.told(knob, round, work, news);
        if is_done.get() {
            self.recorded.remove(&knob);
            self.kept.remove(&knob);
            self.untold.remove(&knob);
        } else if is_back.get() {
            self.untold.insert(knob, Some(round.now));
        }
    }

    /// Does something about one knob and adds what is to be told of it: a problem once, until it is another one.
    fn told(
        &mut self,
        knob: Knob,
        round: &Round<'_>,
        work: impl FnOnce(&mut Kept, &mut Vec<Write>) -> Result<Option<Told>, ActuatorError>,
        news: &mut Vec<News>,
    ) {
        let kept = self.kept.entry(knob).or_default();
        let mut writes = Vec::new();
        let told = match work(kept, &mut writes) {
            Ok(told) => told,
            Err(error) => {
                let (status, message) = round.place.explain(knob, &error);
                Some(Told::problem(status, message))
            }
        };
        let Some(Told { status, value, message, is_problem }) = told else { return };
        if is_problem {
            kept.retry_at = Some(round.now.plus(RETRY));
            if kept.problem.as_ref() == Some(&message) {
                return;
            }
        }
        kept.problem = is_problem.then(|| message.clone());
        news.push(News { knob, status, value, message, writes });
    }
}

/// What one knob's turn came to.
struct Told {
    status: OutcomeStatus,
    value: f64,
    message: String,
    is_problem: bool,
}

impl Told {
    fn problem(status: OutcomeStatus, message: String) -> Self {
        Self { status, value: 0.0, message, is_problem: true }
    }
}

/// Sees to it that a knob is as it shall be.
fn keep(
    kept: &mut Kept,
    setting: &Setting,
    record: &mut Option<KnobRecord>,
    round: &Round<'_>,
    writes: &mut Vec<Write>,
) -> Result<Option<Told>, ActuatorError> {
    // What failed is not looked at each second; what stands is, for somebody else may change it.
    if kept.waits(round.now) {
        return Ok(None);
    }
    let (knob, place) = (setting.knob(), &round.place);
    let found = place.read(knob)?;
    let wanted = match place.wanted(setting, &found)? {
        Ok(wanted) => wanted,
        Err(why) => {
            if knob == Knob::SwapMax {
                // It went along with the limit on memory, and nobody took it.
                kept.claim = Claim::default();
            }
            return Ok(Some(Told::problem(OutcomeStatus::Infeasible, format!("{knob} = {setting}: {why}"))));
        }
    };
    if found == wanted {
        kept.problem = None;
        kept.claim.stands(&found);
        let is_over = kept.claim.take_news().is_some_and(|(answer, _)| answer == DriftAnswer::Over);
        let message = format!("{knob} stands at {} again, as configured", place.shown(knob, &found));
        return Ok(is_over.then(|| Told {
            status: OutcomeStatus::Unchanged,
            value: setting.value(),
            message,
            is_problem: false,
        }));
    }
    if let Some(told) = foreign(kept, knob, &found, round) {
        return Ok(told);
    }
    // On disk before the kernel has it.
    let first = record.as_ref().map_or_else(|| found.clone(), |record| record.found.clone());
    let written = setting.beside(&first).unwrap_or_else(|| wanted.clone());
    let new = KnobRecord { found: first, written };
    (round.record)(knob, Some(&new))?;
    *record = Some(new);
    put(kept, knob, &found, &wanted, round, writes).map(|(status, message)| match status {
        OutcomeStatus::Applied => Some(Told { status, value: setting.value(), message, is_problem: false }),
        status => Some(Told::problem(status, message)),
    })
}

/// What is to be told of a value that somebody else set, which is left alone; `None` when it may be written.
fn foreign(kept: &mut Kept, knob: Knob, found: &str, round: &Round<'_>) -> Option<Option<Told>> {
    // What was found cannot be adopted: the configuration says what shall stand there, and it has not changed.
    let answer = if round.drift.answer == OnDrift::Adopt { OnDrift::HandsOff } else { round.drift.answer };
    let rule = DriftRule { answer, ..round.drift };
    let Standing::Foreign { expected, .. } = kept.claim.observe(found.to_owned(), round.now, rule) else {
        return None;
    };
    let told = kept.claim.take_news().map(|(answer, _)| {
        let (expected, found) = (round.place.shown(knob, &expected), round.place.shown(knob, found));
        let end = match answer {
            DriftAnswer::Restore => format!("it is put back after {} s", round.drift.hold.as_secs()),
            DriftAnswer::GivenUp => {
                format!("putting it back did not last, so it is left alone until it is {expected} again")
            }
            _ => format!("it is left alone until it is {expected} again"),
        };
        let message = format!("somebody else changed {knob} from {expected} to {found}; {end}");
        Told { status: OutcomeStatus::Drifted, value: 0.0, message, is_problem: false }
    });
    Some(told)
}

/// Puts back what was found before the first change.
fn give_back(
    kept: &mut Kept,
    knob: Knob,
    record: &KnobRecord,
    round: &Round<'_>,
    writes: &mut Vec<Write>,
) -> Result<Option<Told>, ActuatorError> {
    if kept.waits(round.now) {
        return Ok(None);
    }
    let found = round.place.read(knob)?;
    let former = round.place.returned(knob, &record.found, &record.written)?;
    if found == former || found == record.found {
        kept.claim.stands(&found);
        kept.problem = None;
        return Ok(None);
    }
    if round.place.is_as_written(knob, &record.found, &record.written)? {
        // A rule may have moved another rate of the disk meanwhile.
        kept.claim.stands(&found);
    }
    if let Some(told) = foreign(kept, knob, &found, round) {
        return Ok(told);
    }
    put(kept, knob, &found, &former, round, writes).map(|(status, message)| {
        let message = format!("{message}, which it was before the first change");
        match status {
            OutcomeStatus::Applied => Some(Told { status, value: 0.0, message, is_problem: false }),
            status => Some(Told::problem(status, message)),
        }
    })
}

/// Writes once and reads back.
fn put(
    kept: &mut Kept,
    knob: Knob,
    found: &str,
    wanted: &str,
    round: &Round<'_>,
    writes: &mut Vec<Write>,
) -> Result<(OutcomeStatus, String), ActuatorError> {
    round.place.write(knob, wanted, found, writes)?;
    let stands = round.place.read(knob)?;
    let is_same = stands == wanted;
    let shown = |text: &str| round.place.shown(knob, text);
    let message = match is_same {
        true => format!("{knob} {} to {}", shown(found), shown(&stands)),
        false => format!("{knob}: {} was written, but {} stands there", shown(wanted), shown(&stands)),
    };
    kept.claim.wrote(stands);
    Ok((if is_same { OutcomeStatus::Applied } else { OutcomeStatus::Failed }, message))
}
