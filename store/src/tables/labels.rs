//! The labels of series in columns: made once for each version of the series index and shared by all queries.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::datatypes::DataType;
use datafusion::physical_expr::PhysicalExpr;
use hashbrown::HashTable;
use parking_lot::Mutex;
use tidegate_model::SeriesKey;

use crate::write::series::SeriesIndex;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Tables kept at most; beyond that all are made anew. One is needed for each metric that is asked about.
const MAX_TABLES: usize = 65_536;
/// Answers about one table that are kept at most.
const MAX_KEPT: usize = 64;
/// A table from ids to labels may have this many places for each series in it. Ids are given out in the order of arrival,
/// so those of one metric lie close together as a rule.
const PLACES_PER_SERIES: usize = 64;

/// From the id of a series to its label.
#[derive(Debug)]
pub(crate) enum Rank {
    Dense { first: u32, labels: Vec<u32> },
    Sparse(Map<u32, u32>),
}

impl Rank {
    /// What stands for no label.
    const NONE: u32 = u32::MAX;

    /// `ids` sorted, with the label of each.
    pub(crate) fn new(ids: &[u32], labels: &[u32]) -> Self {
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Rank::Sparse(Map::default()) };
        let places = (last - first) as usize + 1;
        let pairs = ids.iter().zip(labels);
        if places > PLACES_PER_SERIES * ids.len() {
            return Rank::Sparse(pairs.map(|(id, label)| (*id, *label)).collect());
        }
        let mut dense = vec![Self::NONE; places];
        pairs.for_each(|(id, label)| dense[(id - first) as usize] = *label);
        Rank::Dense { first, labels: dense }
    }

    /// With the labels of further series behind `known`; all ids are sorted.
    fn with_more(&self, known: &[u32], ids: &[u32], labels: &[u32]) -> Self {
        match (self, ids.last()) {
            (Rank::Dense { first, labels: dense }, Some(last))
                if ((last - first) as usize) < PLACES_PER_SERIES * (known.len() + ids.len()) =>
            {
                let mut dense = dense.clone();
                dense.resize((last - first) as usize + 1, Self::NONE);
                ids.iter().zip(labels).for_each(|(id, label)| dense[(id - first) as usize] = *label);
                Rank::Dense { first: *first, labels: dense }
            }
            _ => {
                let of = known.iter().filter_map(|id| self.get(*id)).chain(labels.iter().copied());
                Self::new(&[known, ids].concat(), &of.collect::<Vec<_>>())
            }
        }
    }

    /// The label of a series; `None` where it has none.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<u32> {
        match self {
            // An id below the first one wraps around to beyond the last.
            Rank::Dense { first, labels } => {
                labels.get(id.wrapping_sub(*first) as usize).copied().filter(|label| *label != Self::NONE)
            }
            Rank::Sparse(labels) => labels.get(&id).copied(),
        }
    }
}

/// The series of one metric that have a label.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) metric: String,
    /// Sorted.
    pub(crate) ids: Vec<u32>,
    pub(crate) rank: Rank,
    /// Whether the label of each is its place.
    in_place: bool,
}

impl Members {
    /// `ids` sorted, with the label of each.
    pub(crate) fn new(metric: &str, ids: Vec<u32>, labels: &[u32]) -> Self {
        let rank = Rank::new(&ids, labels);
        let in_place = (0..).zip(labels).all(|(place, label)| place == *label);
        Self { metric: metric.to_owned(), ids, rank, in_place }
    }

    /// These and further series, whose ids are above.
    fn with_more(&self, ids: &[u32], labels: &[u32]) -> Self {
        Self {
            metric: self.metric.clone(),
            ids: [self.ids.as_slice(), ids].concat(),
            rank: self.rank.with_more(&self.ids, ids, labels),
            in_place: self.in_place && (self.ids.len()..).zip(labels).all(|(place, label)| place == *label as usize),
        }
    }

    /// The series whose label is among `labels` (sorted), by id.
    pub(crate) fn with_labels(&self, labels: &[u32]) -> Vec<u32> {
        if self.in_place {
            return labels.iter().filter_map(|label| self.ids.get(*label as usize).copied()).collect();
        }
        let wanted = |id: &u32| self.rank.get(*id).is_some_and(|label| labels.binary_search(&label).is_ok());
        self.ids.iter().copied().filter(wanted).collect()
    }
}

/// Which labels have a value, by value; labels sorted.
type Postings = Map<String, Vec<u32>>;
/// Which labels each filter has let through.
type Verdicts = Kept<Arc<dyn PhysicalExpr>, Arc<Vec<u32>>>;
/// How each list of keys groups the labels.
type Groupings = Kept<Vec<Arc<dyn PhysicalExpr>>, Arc<Groups>>;
/// A table with the versions of what it was made from.
type Versioned = (Versions, Arc<LabelTable>);
/// One text a label column.
pub(crate) type Tuple = Vec<Option<String>>;

/// Distinct label tuples and the series that have them. A label is the position of its tuple in the columns.
#[derive(Debug)]
pub(crate) struct LabelTable {
    /// One array a label column.
    pub(crate) columns: Vec<ArrayRef>,
    /// How many tuples there are.
    pub(crate) count: usize,
    /// One for each metric that is read.
    pub(crate) members: Vec<Members>,
    /// A column that holds all tags as one text, and the tags of each tuple.
    tags: Option<(usize, Vec<Arc<SeriesKey>>)>,
    found: Arc<Found>,
    /// See [`LabelTable::next`].
    next: u32,
}

/// What was found out about the columns of a table when somebody asked.
#[derive(Debug)]
struct Found {
    postings: Vec<OnceLock<Postings>>,
    /// By the texts of all columns.
    by_texts: OnceLock<(ahash::RandomState, HashTable<u32>)>,
    tag_postings: Mutex<Map<String, Arc<Postings>>>,
    verdicts: Mutex<Verdicts>,
    groups: Mutex<Groupings>,
}

impl LabelTable {
    pub(crate) fn new(columns: Vec<ArrayRef>, count: usize, members: Vec<Members>) -> Self {
        let found = Found {
            postings: columns.iter().map(|_| OnceLock::new()).collect(),
            by_texts: OnceLock::new(),
            tag_postings: Mutex::default(),
            verdicts: Mutex::default(),
            groups: Mutex::default(),
        };
        let next =
            members.iter().filter_map(|members| members.ids.last()).max().map_or(0, |last| last.saturating_add(1));
        Self { columns, count, members, tags: None, found: Arc::new(found), next }
    }

    /// Series of its metrics with ids below were looked at when it was made.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// A table of so many columns in which nobody has a label yet.
    pub(crate) fn empty(width: usize, metrics: &[&str]) -> Self {
        let members = metrics.iter().map(|metric| Members::new(metric, Vec::new(), &[])).collect();
        Labels::new(width).table(members)
    }

    /// This table and further series, sorted by id and from [`LabelTable::next`] on: each with the place of its metric and its
    /// tuple, if it has one. Labels are numbered in the order of the first series that has them, so a table that was continued
    /// is the one that would be made at once. Not for a table whose tuples have tags.
    pub(crate) fn with_more(&self, more: impl IntoIterator<Item = (u32, usize, Option<Tuple>)>) -> Self {
        debug_assert!(self.tags.is_none());
        let mut new = Labels::new(self.columns.len());
        let mut added = vec![(Vec::new(), Vec::new()); self.members.len()];
        let mut next = self.next;
        for (id, place, tuple) in more {
            debug_assert!(id >= self.next);
            next = id.saturating_add(1);
            let Some(tuple) = tuple else { continue };
            let known = self.with_texts(&tuple.iter().map(Option::as_deref).collect::<Vec<_>>());
            let (ids, labels) = &mut added[place];
            ids.push(id);
            // Labels are counted in u32 as series are.
            labels.push(known.unwrap_or_else(|| self.count as u32 + new.intern(tuple)));
        }
        let members = self.members.iter().zip(&added).map(|(members, (ids, labels))| members.with_more(ids, labels));
        let members: Vec<Members> = members.collect();
        if new.rows.is_empty() {
            let (columns, found) = (self.columns.clone(), Arc::clone(&self.found));
            return Self { columns, count: self.count, members, tags: None, found, next };
        }
        let columns = self.columns.iter().enumerate().map(|(at, column)| new.column(at, Some(column)));
        Self { next, ..Self::new(columns.collect(), self.count + new.rows.len(), members) }
    }

    /// How each list of keys groups the labels.
    pub(crate) fn groups(&self) -> &Mutex<Groupings> {
        &self.found.groups
    }

    /// A table of one tuple without columns, for rows that no series has.
    pub(crate) fn none() -> Self {
        Self::new(Vec::new(), 1, Vec::new())
    }

    /// Notes that `column` holds all tags as one text, and the tags of each tuple.
    pub(crate) fn with_tags(self, column: usize, tags: Vec<Arc<SeriesKey>>) -> Self {
        Self { tags: Some((column, tags)), ..self }
    }

    /// A text of a label.
    pub(crate) fn text(&self, column: usize, label: u32) -> Option<&str> {
        let texts = self.columns[column].as_string_view();
        texts.is_valid(label as usize).then(|| texts.value(label as usize))
    }

    /// The label whose columns are `texts`.
    pub(crate) fn with_texts(&self, texts: &[Option<&str>]) -> Option<u32> {
        let (hasher, labels) = self.found.by_texts.get_or_init(|| {
            let hasher = ahash::RandomState::new();
            let mut labels = HashTable::with_capacity(self.count);
            let hash = |label: &u32| hash_of(&hasher, (0..self.columns.len()).map(|column| self.text(column, *label)));
            // Labels are counted in u32 as series are.
            for label in 0..self.count as u32 {
                labels.insert_unique(hash(&label), label, hash);
            }
            (hasher, labels)
        });
        let is_it = |label: &u32| (0..).zip(texts).all(|(column, text)| self.text(column, *label) == *text);
        labels.find(hash_of(hasher, texts.iter().copied()), is_it).copied()
    }

    /// The labels whose `column` is one of `values`, sorted.
    pub(crate) fn equal(&self, column: usize, values: &[String]) -> Vec<u32> {
        let postings = self.found.postings[column].get_or_init(|| {
            let mut postings = Postings::default();
            let texts = self.columns[column].as_string_view();
            for (label, text) in (0u32..).zip(texts) {
                let Some(text) = text else { continue };
                match postings.get_mut(text) {
                    Some(labels) => labels.push(label),
                    None => drop(postings.insert(text.to_owned(), vec![label])),
                }
            }
            postings
        });
        union(postings, values)
    }

    /// The labels whose tag `key` in `column` is one of `values`, sorted; `None` where that column does not hold the tags.
    pub(crate) fn tagged(&self, column: usize, key: &str, values: &[String]) -> Option<Vec<u32>> {
        let (_, keys) = self.tags.as_ref().filter(|(tags, _)| *tags == column)?;
        let known = self.found.tag_postings.lock().get(key).cloned();
        let postings = known.unwrap_or_else(|| {
            let mut postings = Postings::default();
            for (label, series) in (0u32..).zip(keys) {
                if let Some(value) = series.tag(key) {
                    postings.entry(value.to_owned()).or_default().push(label);
                }
            }
            let postings = Arc::new(postings);
            let mut kept = self.found.tag_postings.lock();
            if kept.len() >= MAX_KEPT {
                kept.clear(); // whoever asks for keys that do not exist shall not fill the memory
            }
            kept.insert(key.to_owned(), Arc::clone(&postings));
            postings
        });
        Some(union(&postings, values))
    }

    /// What `decide` says about `filter` for each label, asked once: the labels that it lets through, sorted.
    pub(crate) fn verdict<E>(
        &self,
        filter: &Arc<dyn PhysicalExpr>,
        decide: impl FnOnce() -> Result<Vec<u32>, E>,
    ) -> Result<Arc<Vec<u32>>, E> {
        if let Some(known) = self.found.verdicts.lock().get(filter) {
            return Ok(known);
        }
        let labels = Arc::new(decide()?);
        self.found.verdicts.lock().keep(Arc::clone(filter), Arc::clone(&labels));
        Ok(labels)
    }
}

fn hash_of<'a>(hasher: &ahash::RandomState, texts: impl Iterator<Item = Option<&'a str>>) -> u64 {
    let mut state = hasher.build_hasher();
    texts.for_each(|text| text.hash(&mut state));
    state.finish()
}

fn union(postings: &Postings, values: &[String]) -> Vec<u32> {
    let mut labels: Vec<u32> = values.iter().filter_map(|value| postings.get(value)).flatten().copied().collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// Which group each label of a table belongs to.
#[derive(Debug)]
pub(crate) struct Groups {
    /// Per label.
    pub(crate) of: Vec<u32>,
    /// What the groups have in common, one array for each expression; one row a group.
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) count: usize,
}

/// A few answers that are asked for again and again.
#[derive(Debug)]
pub(crate) struct Kept<K, V>(Map<K, V>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.0.get(key).cloned()
    }

    pub(crate) fn keep(&mut self, key: K, value: V) {
        if self.0.len() >= MAX_KEPT {
            self.0.clear();
        }
        self.0.insert(key, value);
    }
}

/// Distinct label tuples, numbered in the order in which they were first seen.
#[derive(Debug)]
pub(crate) struct Labels {
    width: usize,
    index: Map<Vec<Option<String>>, u32>,
    rows: Vec<Vec<Option<String>>>,
}

impl Labels {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, index: Map::default(), rows: Vec::new() }
    }

    /// The number of `tuple`.
    pub(crate) fn intern(&mut self, tuple: Vec<Option<String>>) -> u32 {
        debug_assert_eq!(tuple.len(), self.width);
        // Series are counted in u32 by the store, and each has one tuple here.
        let next = self.rows.len() as u32;
        *self.index.entry(tuple).or_insert_with_key(|tuple| {
            self.rows.push(tuple.clone());
            next
        })
    }

    /// The tuples as a table.
    pub(crate) fn table(&self, members: Vec<Members>) -> LabelTable {
        LabelTable::new((0..self.width).map(|at| self.column(at, None)).collect(), self.rows.len(), members)
    }

    /// The column at `at`, behind what stands `before` it.
    fn column(&self, at: usize, before: Option<&ArrayRef>) -> ArrayRef {
        let before = before.map(|before| before.as_string_view());
        let mut values = StringViewBuilder::with_capacity(before.map_or(0, Array::len) + self.rows.len());
        before.into_iter().flatten().for_each(|text| values.append_option(text));
        self.rows.iter().for_each(|row| values.append_option(row[at].as_deref()));
        Arc::new(values.finish())
    }
}

/// What a table was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TableKey {
    /// The table of a metric with these tag keys.
    Metric(String, Vec<String>),
    /// A metric's part of `samples`.
    Samples(String),
    /// Some of the collector's metrics by subject.
    Subjects(&'static str),
    /// The collector's part of `usage`.
    Usage,
    /// What the usage map at this place makes of pushed metrics.
    Mapped(usize),
}

/// The versions of what a table was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Change with everything that the table says.
    all: Vec<u64>,
    /// Do not change when there are only more series.
    but_new: Vec<u64>,
}

impl Versions {
    /// For a table that is made anew when there are more series.
    pub(crate) fn new(all: Vec<u64>) -> Self {
        Self { but_new: all.clone(), all }
    }

    /// For a table of the series of `metrics` that is continued when there are more of them; `others` are the versions of
    /// whatever else it is made from.
    pub(crate) fn of_series(index: &SeriesIndex, metrics: &[&str], others: &[u64]) -> Self {
        let versions = |version: fn(&SeriesIndex, &str) -> u64| {
            metrics.iter().map(|metric| version(index, metric)).chain(others.iter().copied()).collect()
        };
        Self { all: versions(SeriesIndex::version), but_new: versions(SeriesIndex::rewritten) }
    }
}

/// The tables that queries have asked for, each with the versions of what it was made from.
#[derive(Default)]
pub(crate) struct LabelCache(Mutex<Map<TableKey, Versioned>>);

impl LabelCache {
    /// The table of `key`, made unless its `versions` are the same. `make` is given the former table if there are only more
    /// series since. Versions have to be looked up before what `make` looks at, so that a change in between makes the table be
    /// made once more and not once too few.
    pub(crate) fn get(
        &self,
        key: TableKey,
        versions: Versions,
        make: impl FnOnce(Option<Arc<LabelTable>>) -> LabelTable,
    ) -> Arc<LabelTable> {
        let mut former = None;
        if let Some((known, table)) = self.0.lock().get(&key) {
            if *known == versions {
                return Arc::clone(table);
            }
            former = (known.but_new == versions.but_new).then(|| Arc::clone(table));
        }
        let table = Arc::new(make(former));
        debug_assert!(table.columns.iter().all(|column| column.len() == table.count));
        debug_assert!(table.columns.iter().all(|column| *column.data_type() == DataType::Utf8View));
        let mut tables = self.0.lock();
        if tables.len() >= MAX_TABLES {
            tables.clear();
        }
        tables.insert(key, (versions, Arc::clone(&table)));
        table
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_series_is_found_by_its_id_whether_ids_lie_close_together_or_far_apart() {
        for ids in [vec![7, 9, 10], vec![7, 900_000, 4_000_000_000]] {
            let rank = Rank::new(&ids, &[2, 0, 1]);
            assert_eq!(ids.iter().map(|id| rank.get(*id)).collect::<Vec<_>>(), [Some(2), Some(0), Some(1)]);
            assert_eq!([0, 8, 11, u32::MAX].map(|id| rank.get(id)), [None; 4]);
        }
        assert_eq!(Rank::new(&[], &[]).get(0), None);
    }

    #[test]
    fn equal_tuples_have_one_number() {
        let mut labels = Labels::new(2);
        let tuple = |a: &str| vec![Some(a.to_owned()), None];
        assert_eq!([labels.intern(tuple("a")), labels.intern(tuple("b")), labels.intern(tuple("a"))], [0, 1, 0]);
        let table = labels.table(Vec::new());
        assert_eq!((table.columns[0].len(), table.count), (2, 2));
    }

    #[test]
    fn labels_are_found_by_the_value_of_a_column() {
        let column: ArrayRef = Arc::new(StringViewArray::from(vec![Some("b"), None, Some("a"), Some("b")]));
        let members = Members::new("m", vec![10, 11, 12, 13], &[0, 1, 2, 3]);
        let table = LabelTable::new(vec![column], 4, vec![members]);
        let found = table.equal(0, &["b".to_owned(), "a".to_owned(), "b".to_owned(), "z".to_owned()]);
        assert_eq!(found, [0, 2, 3]);
        assert_eq!(table.members[0].with_labels(&found), [10, 12, 13]);
        assert_eq!(Members::new("m", vec![10, 11, 12], &[3, 1, 0]).with_labels(&found), [10, 12]);
        assert_eq!(table.tagged(0, "k", &[]), None);
    }

    #[test]
    fn a_label_is_found_by_its_texts() {
        let column = |texts: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringViewArray::from(texts.to_vec())) };
        let columns = vec![column([Some("a"), Some("ab"), None]), column([Some("bc"), Some("c"), Some("c")])];
        let table = LabelTable::new(columns, 3, Vec::new());
        let texts = [[Some("a"), Some("bc")], [Some("ab"), Some("c")], [None, Some("c")], [Some(""), Some("c")]];
        assert_eq!(texts.map(|texts| table.with_texts(&texts)), [Some(0), Some(1), Some(2), None]);
        assert_eq!((table.text(0, 1), table.text(0, 2)), (Some("ab"), None));
    }

    #[test]
    fn a_table_is_made_once_a_version_and_continued_when_there_are_only_more_series() {
        let cache = LabelCache::default();
        let get = |all, but_new, expected: bool| {
            let versions = Versions { all: vec![all], but_new: vec![but_new] };
            cache.get(TableKey::Usage, versions, |former| {
                assert_eq!(former.is_some(), expected);
                LabelTable::none()
            })
        };
        let first = get(1, 1, false);
        assert!(Arc::ptr_eq(&first, &get(1, 1, false)));
        let second = get(2, 1, true);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&second, &get(3, 3, false)));
    }

    proptest! {
        #[test]
        fn a_table_that_is_continued_is_the_one_that_is_made_at_once(
            // How far the next id is, of which metric, whose label, if any.
            rounds in proptest::collection::vec(
                proptest::collection::vec((1_u32..200, 0_usize..2, 0_u8..6), 0..12),
                1..5,
            ),
        ) {
            let tuple = |label: u8| (label > 0).then(|| vec![Some(format!("c{label}")), (label > 3).then(String::new)]);
            let mut table = LabelTable::empty(2, &["a", "b"]);
            let mut all: Vec<(u32, usize, Option<Tuple>)> = Vec::new();
            for round in rounds {
                let mut next = table.next();
                let more = round.into_iter().map(|(gap, place, label)| {
                    let id = next + gap - 1;
                    next = id + 1;
                    (id, place, tuple(label))
                });
                let more: Vec<_> = more.collect();
                all.extend(more.iter().cloned());
                table = table.with_more(more);
                let made = LabelTable::empty(2, &["a", "b"]).with_more(all.clone());
                prop_assert_eq!((table.count, table.next()), (made.count, made.next()));
                prop_assert_eq!(&table.columns, &made.columns);
                for (one, other) in table.members.iter().zip(&made.members) {
                    prop_assert_eq!((&one.ids, one.in_place), (&other.ids, other.in_place));
                    let labels = |members: &Members| (0..made.next() + 2).map(|id| members.rank.get(id)).collect::<Vec<_>>();
                    prop_assert_eq!(labels(one), labels(other));
                }
            }
        }
    }

    #[test]
    fn further_series_of_known_labels_leave_the_columns_and_what_was_found_out_about_them() {
        let tuple = |text: &str| Some(vec![Some(text.to_owned())]);
        let table = LabelTable::empty(1, &["m"]).with_more([(3, 0, tuple("a")), (4, 0, tuple("b"))]);
        let more = table.with_more([(5, 0, None), (6, 0, tuple("b")), (8, 0, None)]);
        assert!(Arc::ptr_eq(&table.columns[0], &more.columns[0]) && Arc::ptr_eq(&table.found, &more.found));
        assert_eq!((more.count, more.next(), more.members[0].rank.get(6)), (2, 9, Some(1)));
        let new = more.with_more([(9, 0, tuple("c"))]);
        assert_eq!((new.count, new.text(0, 1), new.text(0, 2)), (3, Some("b"), Some("c")));
    }
}
