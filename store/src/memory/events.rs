//! Events as rules see them, and which of them somebody acted on.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tidegate_model::{ContainerKey, Event, Resource, TimeMs};

use super::{EVENTS_KEEP, EventId, MOST_SHADOW_EVENTS, RuleView};
use crate::error::StoreError;
use crate::store::Store;

/// The events that a rule acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumption {
    /// The rule.
    pub rule: String,
    /// Whether it only shows what it would do: then they are gone for itself alone.
    pub shadow: bool,
    /// About which container.
    pub container: ContainerKey,
    /// About which resource.
    pub resource: Resource,
    /// The events' name.
    pub name: String,
    /// How many, the oldest first; `None` for all.
    pub most: Option<u64>,
    /// How old they may be: an hour, or less where the rule looks no further back.
    pub within: Duration,
}

impl Consumption {
    /// The most that [`Consumption::within`] may be: older events are nobody's any more.
    pub const REACH: Duration = EVENTS_KEEP;
}

/// An event, whether it is one of a shadow rule, and who acted on it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenEvent {
    pub event: Event,
    pub shadow: bool,
    pub consumed_by: Option<String>,
}

impl Store {
    /// Keeps events of shadow rules, for other shadow rules.
    pub fn put_shadow_events(&self, now: TimeMs, events: impl IntoIterator<Item = Event>) {
        self.memory.change(now, |remembered| {
            remembered.shadow_events.extend(events);
            let over = remembered.shadow_events.len().saturating_sub(MOST_SHADOW_EVENTS);
            remembered.shadow_events.drain(..over);
        });
    }

    /// Notes that events were acted on, of those until `now` and no older than each may be that nobody acted on yet. Returns
    /// how many there were. Reads files.
    ///
    /// # Errors
    /// When the events cannot be read; then none is noted.
    pub fn consume_events(&self, now: TimeMs, consumptions: &[Consumption]) -> Result<u64, StoreError> {
        if consumptions.is_empty() {
            return Ok(0);
        }
        // One reading for all who act; each shadow rule sees its own.
        let mut readers: Vec<(bool, &str)> =
            consumptions.iter().map(|one| (one.shadow, if one.shadow { one.rule.as_str() } else { "" })).collect();
        readers.sort_unstable();
        readers.dedup();
        let mut taken: Vec<(EventId, &Consumption)> = Vec::new();
        for (shadow, rule) in readers {
            let view = RuleView::stateless(rule, shadow);
            let own = |one: &&Consumption| one.shadow == shadow && (!shadow || one.rule == rule);
            let reach = consumptions.iter().filter(own).map(|one| one.within).max().unwrap_or_default();
            let seen = self.seen_events(Some(&view), now.minus(reach.min(EVENTS_KEEP)).0, now.0)?;
            let mut open: HashMap<(&ContainerKey, Resource, &str), VecDeque<&Event>> = HashMap::new();
            for SeenEvent { event, .. } in seen.iter().filter(|seen| seen.consumed_by.is_none()) {
                open.entry((&event.container, event.resource, &event.name)).or_default().push_back(event);
            }
            for one in consumptions.iter().filter(own) {
                let Some(open) = open.get_mut(&(&one.container, one.resource, one.name.as_str())) else { continue };
                let oldest = now.minus(one.within);
                let first = open.partition_point(|event| event.time < oldest);
                let left = open.len() - first;
                let most = one.most.map_or(left, |most| left.min(usize::try_from(most).unwrap_or(usize::MAX)));
                taken.extend(open.drain(first..first + most).map(|event| (EventId::of(event), one)));
            }
        }
        let count = taken.len() as u64;
        self.memory.change(now, |remembered| {
            for (id, one) in taken {
                if one.shadow {
                    remembered.shadow_consumed.insert((one.rule.clone(), id));
                } else {
                    remembered.consumed.insert(id, one.rule.clone());
                }
            }
        });
        Ok(count)
    }

    /// The events with `from <= time <= to` (ms) as `view` sees them, sorted by time; everybody else sees all. Reads files.
    pub(crate) fn seen_events(
        &self,
        view: Option<&RuleView>,
        from: i64,
        to: i64,
    ) -> Result<Vec<SeenEvent>, StoreError> {
        let journal = self.scan_events(from, to)?;
        let remembered = self.memory.remembered.lock();
        let shadow_rule = view.filter(|view| view.shadow).map(|view| &view.rule);
        // Most of the time nobody has acted on anything.
        let by: Option<&HashMap<EventId, String>> = (!remembered.consumed.is_empty()).then_some(&remembered.consumed);
        let consumed_by = |event: &Event| {
            if by.is_none() && remembered.shadow_consumed.is_empty() {
                return None;
            }
            let id = EventId::of(event);
            by.and_then(|by| by.get(&id)).cloned().or_else(|| {
                let own = (shadow_rule?.clone(), id);
                remembered.shadow_consumed.contains(&own).then_some(own.0)
            })
        };
        let seen = |event: Event, shadow| SeenEvent { consumed_by: consumed_by(&event), event, shadow };
        let mut rows: Vec<SeenEvent> = journal.into_iter().map(|event| seen(event, false)).collect();
        if view.is_none_or(|view| view.shadow) {
            let among = |event: &&Event| from <= event.time.0 && event.time.0 <= to;
            rows.extend(remembered.shadow_events.iter().filter(among).map(|event| seen(event.clone(), true)));
            rows.sort_by_key(|row| row.event.time);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;
    use std::sync::Arc;

    fn event(rule: &str, at: i64) -> Event {
        Event {
            time: TimeMs(at),
            rule: rule.to_owned(),
            container: ContainerKey { host: "h".to_owned(), name: "c".to_owned() },
            resource: Resource::Cpu,
            name: "busy".to_owned(),
            value: 1.0,
        }
    }

    fn consumption(rule: &str, shadow: bool, most: Option<u64>) -> Consumption {
        let Event { container, resource, name, .. } = event("", 0);
        Consumption { rule: rule.to_owned(), shadow, container, resource, name, most, within: Consumption::REACH }
    }

    fn open_times(store: &Store, view: Option<&RuleView>) -> Vec<i64> {
        let seen = store.seen_events(view, 0, i64::MAX).unwrap();
        seen.into_iter().filter(|seen| seen.consumed_by.is_none()).map(|seen| seen.event.time.0).collect()
    }

    fn open(dir: &tempfile::TempDir) -> Arc<Store> {
        Store::open(StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() }, TimeMs(0)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_oldest_events_go_first_and_stay_gone_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.append_events(&[event("a", 3), event("a", 1), event("b", 2)]).await.unwrap();
        assert_eq!(store.consume_events(TimeMs(5), &[consumption("up", false, Some(2))]).unwrap(), 2);
        assert_eq!(open_times(&store, None), [3]);
        assert_eq!(store.consume_events(TimeMs(2), &[consumption("up", false, None)]).unwrap(), 0, "later ones stay");
        store.close().await.unwrap();
        drop(store);
        assert_eq!(open_times(&open(&dir), None), [3]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rule_takes_no_events_older_than_it_looks() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.append_events(&[event("a", 1_000), event("a", 5_000), event("a", 9_000)]).await.unwrap();
        let within =
            |most, seconds| Consumption { within: Duration::from_secs(seconds), ..consumption("up", false, most) };
        assert_eq!(store.consume_events(TimeMs(10_000), &[within(Some(1), 5)]).unwrap(), 1);
        assert_eq!(open_times(&store, None), [1_000, 9_000], "the oldest of those that it looks at");
        assert_eq!(store.consume_events(TimeMs(10_000), &[within(None, 5), within(None, 7_200)]).unwrap(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_shadow_rule_does_only_shadow_rules_see() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.append_events(&[event("on", 1)]).await.unwrap();
        store.put_shadow_events(TimeMs(2), [event("shadow", 2)]);
        let (acting, shadow) = (RuleView::stateless("up", false), RuleView::stateless("try", true));
        assert_eq!(open_times(&store, Some(&acting)), [1]);
        assert_eq!(open_times(&store, Some(&shadow)), [1, 2]);
        assert_eq!(store.consume_events(TimeMs(2), &[consumption("try", true, None)]).unwrap(), 2);
        assert_eq!(open_times(&store, Some(&shadow)), [0_i64; 0]);
        assert_eq!(open_times(&store, Some(&acting)), [1], "it took nothing from those who act");
        let other = RuleView::stateless("other", true);
        assert_eq!(open_times(&store, Some(&other)), [1, 2]);
    }
}
