//! The labels of series in columns: made once for each version of the series index and shared by all queries.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices};
use arrow::error::ArrowError;
use datafusion::physical_expr::PhysicalExpr;
use hashbrown::HashTable;
use parking_lot::Mutex;
use tidegate_model::SeriesKey;

use super::rank::Members;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Answers about one table that are kept at most.
const MAX_KEPT: usize = 64;
/// Which labels have a value, by value; labels sorted.
type Postings = Map<String, Vec<u32>>;
/// Which labels each filter has let through.
type Verdicts = Kept<Arc<dyn PhysicalExpr>, Arc<Vec<u32>>>;
/// How each list of keys groups the labels.
type Groupings = Kept<Vec<Arc<dyn PhysicalExpr>>, Arc<Groups>>;
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

impl Groups {
    /// Which place each group has in the order of its columns; nothing where there are none.
    ///
    /// # Errors
    /// When a column has a type without an order.
    pub(crate) fn ranks(&self, options: SortOptions) -> Result<Vec<u32>, ArrowError> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        let column = |values: &ArrayRef| SortColumn { values: Arc::clone(values), options: Some(options) };
        let sorted = lexsort_to_indices(&self.columns.iter().map(column).collect::<Vec<_>>(), None)?;
        let mut ranks = vec![0; self.count];
        (0u32..).zip(sorted.values()).for_each(|(rank, group)| ranks[*group as usize] = rank);
        Ok(ranks)
    }
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

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;
    use proptest::prelude::*;

    use super::*;

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
                    prop_assert_eq!((&one.ids, one.is_in_place()), (&other.ids, other.is_in_place()));
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
