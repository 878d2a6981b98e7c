//! Label tables that queries have asked for, until what they were made from changes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::DataType;
use parking_lot::Mutex;

use super::labels::LabelTable;
use crate::write::series::SeriesIndex;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Tables kept at most; beyond that all are made anew. One is needed for each metric that is asked about.
const MAX_TABLES: usize = 65_536;
/// A table with the versions of what it was made from.
type Versioned = (Versions, Arc<LabelTable>);

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
    use super::*;

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
}
