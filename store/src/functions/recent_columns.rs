//! The columns of `recent(window)`, and which of them somebody wants: all of them cost several times what rules usually ask for.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::statistics::Wanted;
use crate::tables::{Column, Kind, schema_of};

/// The columns of `recent(window)`.
pub(crate) fn recent_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    vec![
        text("host", "the host; empty where it is not known"),
        text("container", "the container's name"),
        text("app", "the container's app, if any"),
        text("resource", "cpu, memory, disk_read, disk_write, net_receive or net_send"),
        Column::new("samples", Kind::Integer, "measurements in the window"),
        double("age", "seconds from the newest measurement to now()"),
        double("usage", "the newest measurement, in cores, bytes or bytes a second"),
        double("usage_avg", "mean"),
        double("usage_max", "peak"),
        double("usage_p50", "median"),
        double("usage_p95", "95th percentile"),
        double("usage_p99", "99th percentile"),
        double("usage_stddev", "standard deviation of the sample; null for a single measurement"),
        double("usage_slope", "least-squares slope per second; null for a single measurement"),
        double("allocated", "the newest limit, in the same; also one from up to 10 minutes before the window"),
        double("allocated_age", "seconds from the newest limit to now()"),
        double("min", "the lowest limit that the operator allows; null if none"),
        double("max", "the highest limit that the operator allows; null if none"),
        double("upper", "limit - margin; a usage above it asks for more"),
        double("lower", "limit - 2 margin; a usage below it can do with less"),
        double("throttled", "mean share of CFS periods throttled, 0 to 1"),
        double("throttled_last", "newest share of CFS periods throttled, 0 to 1"),
        double("pressure", "mean share of time in which some task stalled, 0 to 1"),
        double("oom_kills", "OOM kills in the window"),
        double("unreclaimable", "newest memory that cannot be reclaimed, in bytes; memory only"),
        double("host_free", "the host's capacity minus the newest limits of its containers, at least 0"),
        double("high", "where memory.high stands, in bytes; null where nobody set it, and for cpu"),
        double("weight", "where cpu.weight stands; null where nobody set it, and for memory"),
    ]
}

/// Places among [`recent_columns`].
pub(super) mod place {
    pub(in super::super) const HOST: usize = 0;
    pub(in super::super) const CONTAINER: usize = 1;
    pub(in super::super) const APP: usize = 2;
    pub(in super::super) const RESOURCE: usize = 3;
    pub(in super::super) const SAMPLES: usize = 4;
    pub(in super::super) const AGE: usize = 5;
    pub(in super::super) const USAGE: usize = 6;
    pub(in super::super) const USAGE_AVG: usize = 7;
    pub(in super::super) const USAGE_MAX: usize = 8;
    pub(in super::super) const USAGE_P50: usize = 9;
    pub(in super::super) const USAGE_P95: usize = 10;
    pub(in super::super) const USAGE_P99: usize = 11;
    pub(in super::super) const USAGE_STDDEV: usize = 12;
    pub(in super::super) const USAGE_SLOPE: usize = 13;
    pub(in super::super) const ALLOCATED: usize = 14;
    pub(in super::super) const ALLOCATED_AGE: usize = 15;
    pub(in super::super) const MIN: usize = 16;
    pub(in super::super) const MAX: usize = 17;
    pub(in super::super) const UPPER: usize = 18;
    pub(in super::super) const LOWER: usize = 19;
    pub(in super::super) const THROTTLED: usize = 20;
    pub(in super::super) const THROTTLED_LAST: usize = 21;
    pub(in super::super) const PRESSURE: usize = 22;
    pub(in super::super) const OOM_KILLS: usize = 23;
    pub(in super::super) const UNRECLAIMABLE: usize = 24;
    pub(in super::super) const HOST_FREE: usize = 25;
    pub(in super::super) const HIGH: usize = 26;
    pub(in super::super) const WEIGHT: usize = 27;
    pub(in super::super) const COUNT: usize = 28;
}

pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(&recent_columns()));

/// The places of the columns with these names; one that is not there has none.
pub(crate) fn recent_places(names: &[&str]) -> Vec<usize> {
    names.iter().filter_map(|name| SCHEMA.index_of(name).ok()).collect()
}

/// Some of the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Columns(u32);

impl Columns {
    pub(super) const ALL: Self = Self((1 << place::COUNT) - 1);

    pub(super) fn of(places: &[usize]) -> Self {
        Self(places.iter().fold(0, |all, place| all | 1 << place))
    }

    pub(super) fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    pub(super) fn has_any(self, places: &[usize]) -> bool {
        self.0 & Self::of(places).0 != 0
    }

    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The figures over usage that they need.
    pub(super) fn figures(self) -> Wanted {
        Wanted {
            max: self.has(place::USAGE_MAX),
            percentiles: self.has_any(&[place::USAGE_P50, place::USAGE_P95, place::USAGE_P99]),
            avg: self.has(place::USAGE_AVG),
            stddev: self.has(place::USAGE_STDDEV),
            slope: self.has(place::USAGE_SLOPE),
        }
    }
}

/// All rows, with the columns that somebody has asked for so far.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) rows: usize,
    /// By place.
    pub(super) columns: Vec<Option<ArrayRef>>,
}

impl Known {
    /// The columns that are there.
    pub(super) fn columns(&self) -> Columns {
        let known = self.columns.iter().enumerate().filter(|(_, column)| column.is_some());
        Columns(known.fold(0, |all, (place, _)| all | 1 << place))
    }

    /// Takes what `more` has, which is made from the same.
    pub(super) fn merge(&mut self, more: Self) {
        if self.rows != more.rows {
            *self = more;
            return;
        }
        for (column, more) in self.columns.iter_mut().zip(more.columns).filter(|(_, more)| more.is_some()) {
            *column = more;
        }
    }

    /// The columns at `places`; `None` when one is not there.
    pub(super) fn batch(&self, places: &[usize]) -> Result<Option<RecordBatch>> {
        let columns: Option<Vec<ArrayRef>> = places.iter().map(|place| self.columns[*place].clone()).collect();
        let Some(columns) = columns else { return Ok(None) };
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let schema = Arc::new(SCHEMA.project(places)?);
        Ok(Some(RecordBatch::try_new_with_options(schema, columns, &options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_has_its_place() {
        let names: Vec<String> = recent_columns().into_iter().map(|column| column.name.to_string()).collect();
        assert_eq!(names.len(), place::COUNT);
        let at = |place: usize| names[place].as_str();
        assert_eq!((at(place::SAMPLES), at(place::USAGE_SLOPE), at(place::MAX)), ("samples", "usage_slope", "max"));
        assert_eq!((at(place::THROTTLED_LAST), at(place::HOST_FREE)), ("throttled_last", "host_free"));
    }
}
