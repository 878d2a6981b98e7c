//! The guards that look at all limits of a host at once: its capacity, and how many containers may shrink in a minute.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tidegate_model::Resource;

use super::capacity::{Wish, counted, grants};
use super::shrink_share::{Shrinker, WINDOW, admitted, allowed};
use super::{Context, Direction, Verdict};
use crate::config::PolicyConfig;
use crate::history::History;
use crate::options::Class;
use crate::proposal::LimitKey;
use crate::readings::{Figure, Reading};
use crate::snapshot::Snapshot;

/// A change that has passed the guards of its own limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move<'a> {
    pub key: &'a LimitKey,
    pub class: Class,
    pub context: &'a Context,
    pub target: f64,
}

/// What is known of all hosts.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub history: &'a History,
    pub config: &'a PolicyConfig,
    /// Whether the changes will be made, or only would be.
    pub acting: bool,
}

/// Nothing, or the name of a guard and what it makes of a change.
pub(crate) type Named = Option<(&'static str, Verdict)>;

/// What the guards make of each of `moves`, which are all that are made at one instant.
pub(crate) fn judge(moves: &[Move], view: View) -> Vec<Named> {
    let mut verdicts = vec![None; moves.len()];
    let mut growing: BTreeMap<(&str, Resource), Vec<usize>> = BTreeMap::new();
    let mut shrinking: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, change) in moves.iter().enumerate() {
        let host = change.key.0.host.as_str();
        match change.context.direction(change.target) {
            Direction::Up => growing.entry((host, change.key.1)).or_default().push(at),
            // Where there is no limit, any makes the container smaller.
            Direction::Down | Direction::Unknown => shrinking.entry(host).or_default().push(at),
            Direction::None => {}
        }
    }
    if growing.is_empty() && shrinking.is_empty() {
        return verdicts;
    }
    growing.retain(|(host, resource), _| view.snapshot.capacity_of(host, *resource).is_some());
    let hosts: BTreeSet<&str> = growing.keys().map(|(host, _)| *host).collect();
    let fleet = if hosts.is_empty() { HashMap::new() } else { by_host(view.snapshot, &hosts) };
    let silent = if growing.is_empty() { HashMap::new() } else { silent_by_host(view) };
    for ((host, resource), members) in growing {
        let Some(capacity) = view.snapshot.capacity_of(host, resource) else { continue };
        let lowered = moves.iter().filter(|change| change.context.may_shrink(change.target));
        let here = fleet.get(host).map_or(&[][..], Vec::as_slice);
        let silent = silent.get(&(host, resource)).map_or(&[][..], Vec::as_slice);
        Room::of(here, silent, resource, capacity, lowered, view).share(moves, &members, view, &mut verdicts);
    }
    let lately = match shrinking.is_empty() {
        true => HashMap::new(),
        false => view.history.shrunk_lately(view.snapshot.now, WINDOW, view.acting),
    };
    for (host, members) in shrinking {
        let lately = lately.get(host).unwrap_or(&NOBODY);
        hold_back(host, moves, &members, lately, view, &mut verdicts);
    }
    verdicts
}

/// What the limits of a host may add up to, and what they do.
struct Room {
    resource: Resource,
    ratio: f64,
    capacity: f64,
    committed: f64,
    /// What is used of it, as measured.
    used: f64,
}

/// A container that uses this share of its memory limit is at it: what it is refused it may be killed for.
const AT_LIMIT: f64 = 0.9;

impl Room {
    /// `silent` are the limits of those who are not measured, `lowered` the decreases of this instant.
    fn of<'a>(
        here: &[(&LimitKey, &Reading)],
        silent: &[f64],
        resource: Resource,
        capacity: f64,
        lowered: impl Iterator<Item = &'a Move<'a>>,
        view: View,
    ) -> Self {
        let View { snapshot, history, config, .. } = view;
        let lowered: BTreeMap<&LimitKey, f64> = lowered.map(|change| (change.key, change.target)).collect();
        let here = || here.iter().filter(|(key, _)| key.1 == resource);
        let used = here().filter_map(|(_, reading)| reading.get(Figure::Usage)).sum();
        let committed = here().map(|(key, reading)| {
            let track = history.get(key);
            let stands = history.limit(key, reading, snapshot.now);
            let coming = track.and_then(|track| track.pending.as_ref()).map(|pending| pending.to);
            // Whatever comes of what is under way and of what is lowered now: a limit that begins to be one counts for more.
            let reserved = reserved(history, key, capacity);
            let states = [coming, lowered.get(key).copied(), reserved].into_iter().flatten().map(Some).chain([stands]);
            states.map(|limit| counted(limit, reading.get(Figure::Usage), capacity)).fold(0.0, f64::max)
        });
        let silent = silent.iter().map(|limit| counted(Some(*limit), None, capacity));
        let committed = committed.sum::<f64>() + silent.sum::<f64>();
        Self { resource, ratio: config.capacity_ratio(resource), capacity, committed, used }
    }

    /// Classes one after the other, within a class by weight.
    fn share(&self, moves: &[Move], members: &[usize], view: View, verdicts: &mut [Named]) {
        let mut free = self.ratio * self.capacity - self.committed;
        // Limits of memory that add up to too much are a risk; a limit that is reached kills now. So who is at his limit gets
        // of what is not used, whatever limits others have.
        let mut unused = if self.resource == Resource::Memory { self.ratio * self.capacity - self.used } else { 0.0 };
        // Who comes back to what was reserved for him may use that as well.
        let back = |at: &usize| {
            let Move { context, target, .. } = &moves[*at];
            let limit = context.limit.unwrap_or(*target);
            (target.min(self.base(&moves[*at], view.history)) - limit).max(0.0)
        };
        unused -= members.iter().map(back).sum::<f64>();
        for members in by_class(moves, members) {
            let growth = |at: usize| (moves[at].target - self.base(&moves[at], view.history)).max(0.0);
            let wish = |at: &usize| Wish { growth: growth(*at), weight: view.snapshot.weight(&moves[*at].key.0) };
            let wishes: Vec<Wish> = members.iter().map(wish).collect();
            let granted = grants(free, &wishes);
            unused -= granted.iter().sum::<f64>();
            for (at, mut grant) in members.into_iter().zip(granted) {
                if grant < growth(at) && at_limit(&moves[at], view.snapshot) {
                    let more = (growth(at) - grant).min(unused).max(0.0);
                    unused -= more;
                    grant += more;
                }
                free -= grant;
                if grant < growth(at) {
                    verdicts[at] =
                        Some(("capacity", self.verdict(&moves[at], self.base(&moves[at], view.history), grant)));
                }
            }
        }
    }

    /// What a container has or has reserved: to get there takes no room. On a host that has promised too much already,
    /// nothing is reserved.
    fn base(&self, change: &Move, history: &History) -> f64 {
        let limit = change.context.limit.unwrap_or(change.target);
        if self.committed > self.ratio * self.capacity {
            return limit;
        }
        reserved(history, change.key, self.capacity).map_or(limit, |reserved| reserved.max(limit))
    }

    /// `base` is what the container has or has reserved; `grant` is on top of it.
    fn verdict(&self, change: &Move, base: f64, grant: f64) -> Verdict {
        let Move { context, target, key, .. } = *change;
        let limit = context.limit.unwrap_or(target);
        let show = |value: f64| self.resource.display(value);
        let sum = format!(
            "the limits on {} add up to {} and may grow to {}, {:.2} times what it has",
            key.0.host,
            show(self.committed),
            show(self.ratio * self.capacity),
            self.ratio
        );
        let granted = base + grant;
        let short = format!("{sum}; of the {} wanted, there is {}", show(target - limit), show(granted - limit));
        if granted <= limit {
            return Verdict::Refuse(format!("{sum}, so nothing is left"));
        }
        cut(granted, context, short)
    }
}

/// What a container had before a decrease that may have to be taken back. Without a limit it had nothing that counts.
fn reserved(history: &History, key: &LimitKey, capacity: f64) -> Option<f64> {
    history.watches.reserved(key).filter(|reserved| *reserved < capacity)
}

/// What becomes of a change that is cut to `target`, and why: nothing where the rest is not worth a change.
pub(super) fn cut(target: f64, context: &Context, why: String) -> Verdict {
    match super::dead_band::check(target, context) {
        Verdict::Pass | Verdict::Change(..) => Verdict::Change(target, why),
        Verdict::Refuse(_) | Verdict::Infeasible(_) => Verdict::Refuse(format!("{why}, which is not worth a change")),
    }
}

/// `members`, which are places in `moves`, by class: the first one is served first.
pub(super) fn by_class(moves: &[Move], members: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let mut classes: BTreeMap<Class, Vec<usize>> = BTreeMap::new();
    for at in members {
        classes.entry(moves[*at].class).or_default().push(*at);
    }
    classes.into_values()
}

fn at_limit(change: &Move, snapshot: &Snapshot) -> bool {
    let usage = snapshot.readings.get(change.key).and_then(|reading| reading.get(Figure::Usage));
    matches!((usage, change.context.limit), (Some(usage), Some(limit)) if usage >= AT_LIMIT * limit)
}

/// Who was shrunk lately on a host where nobody was.
static NOBODY: BTreeSet<&str> = BTreeSet::new();

/// All readings of `hosts`, in a fixed order, so that sums are the same for the same limits.
fn by_host<'a>(snapshot: &'a Snapshot, hosts: &BTreeSet<&str>) -> HashMap<&'a str, Vec<(&'a LimitKey, &'a Reading)>> {
    let mut fleet: HashMap<&str, Vec<(&LimitKey, &Reading)>> = HashMap::new();
    for (key, reading) in snapshot.readings.iter().filter(|(key, _)| hosts.contains(key.0.host.as_str())) {
        fleet.entry(key.0.host.as_str()).or_default().push((key, reading));
    }
    for here in fleet.values_mut() {
        here.sort_by_key(|(key, _)| *key);
    }
    fleet
}

/// Not measured is not gone: for a while such limits count as they were. In a fixed order, as [`by_host`].
fn silent_by_host(view: View<'_>) -> HashMap<(&str, Resource), Vec<f64>> {
    let mut silent: HashMap<(&str, Resource), Vec<f64>> = HashMap::new();
    for (key, limit) in view.history.silent_limits(view.snapshot, Duration::from_secs(view.config.hold_max_s)) {
        silent.entry((key.0.host.as_str(), key.1)).or_default().push(limit);
    }
    silent.values_mut().for_each(|limits| limits.sort_by(f64::total_cmp));
    silent
}

/// Refuses the decreases beyond the share of containers that may be shrunk.
fn hold_back(
    host: &str,
    moves: &[Move],
    members: &[usize],
    lately: &BTreeSet<&str>,
    view: View,
    verdicts: &mut [Named],
) {
    let View { snapshot, history, config, acting } = view;
    let containers = snapshot.readings.containers_on(host);
    let shrinker = |at: &usize| {
        let (container, _) = moves[*at].key;
        let last = history.shrunk(container, acting);
        Shrinker { container: &container.name, rank: moves[*at].class as u8, last }
    };
    let shrinkers: Vec<Shrinker> = members.iter().map(shrinker).collect();
    let most = allowed(config.shrink_share, containers);
    let chosen = admitted(most, lately, &shrinkers);
    for at in members {
        if !chosen.contains(moves[*at].key.0.name.as_str()) {
            let why = format!(
                "{} of {containers} containers on {host} were shrunk in the last {} s or are now, and no more than {most} may be",
                lately.len().max(chosen.union(lately).count()),
                WINDOW.as_secs(),
            );
            verdicts[*at] = Some(("shrink_share", Verdict::Refuse(why)));
        }
    }
}
