//! What SQL sees: the metric tables in schema `metric`, the domain's tables in schema `public`.

mod choice;
mod current;
mod current_table;
mod filter;
mod journal;
mod label_cache;
mod labels;
mod metric;
mod rank;
mod slices;
mod source;
mod timed;
mod usage;

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use tidegate_model::TimeMs;

pub(crate) use self::choice::{Choice, LabelFilter, is_pure, label_batch};
pub(crate) use self::filter::TimeRange;
pub(crate) use self::label_cache::LabelCache;
pub(crate) use self::labels::{Groups, LabelTable};
pub(crate) use self::metric::{MetricSource, tag_columns};
pub(crate) use self::rank::{Members, Rank};
pub(crate) use self::slices::Slices;
pub(crate) use self::source::{Block, Part, Read, ReadRows, Selected, Source};
pub(crate) use self::timed::{Filters, Reader, TimedScanExec, TimedTable, pushdown};
pub(crate) use self::usage::{
    KnownNames, PressureSource, Subject, SubjectSource, UsageSource, each_row, subjects, unit,
};

pub(crate) use self::current_table::{CurrentExec, Facts};

use self::current::Current;
use self::current_table::{CurrentTable, OwnState};
use crate::scan::MetricInfo;
use crate::store::Store;

/// Name of the only catalog.
pub(crate) const CATALOG: &str = "tidegate";
/// Schema of the domain's tables, the default one.
pub(crate) const PUBLIC: &str = "public";
/// Schema of the metric tables.
pub(crate) const METRIC: &str = "metric";
/// Time zone of all times.
pub(crate) const UTC: &str = "UTC";

/// The type of every time column. It carries its zone, so that texts with and without a zone compare as one expects.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some(Arc::from(UTC)))
}

/// An instant for people.
pub(crate) fn rfc3339(ms: i64) -> String {
    match DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => ms.to_string(),
    }
}

/// An error of the engine on its way through DataFusion.
pub(crate) fn executed(error: crate::error::StoreError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The kinds of columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Time,
    Text,
    Double,
    Integer,
}

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Kind::Time => time_type(),
            // Views cost 16 bytes a row, however long the text of a tag is, and group faster than dictionaries.
            Kind::Text => DataType::Utf8View,
            Kind::Double => DataType::Float64,
            Kind::Integer => DataType::Int64,
        }
    }

    /// The type's name in SQL.
    fn sql(self) -> &'static str {
        match self {
            Kind::Time => "timestamp",
            Kind::Text => "text",
            Kind::Double => "double",
            Kind::Integer => "bigint",
        }
    }
}

/// A column with its meaning.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) doc: String,
}

impl Column {
    pub(crate) fn new(name: &str, kind: Kind, doc: &str) -> Self {
        Self { name: name.to_owned(), kind, doc: doc.to_owned() }
    }
}

pub(crate) fn schema_of(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(&column.name, column.kind.data_type(), column.name != filter::TIME);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// A table, for completion and documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// `public` or `metric`.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// Its columns in order.
    pub columns: Vec<ColumnInfo>,
}

/// A column, for completion and documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name, unquoted.
    pub name: String,
    /// Its SQL type: `timestamp`, `text`, `double` or `bigint`.
    pub data_type: String,
    /// What it holds, with the unit.
    pub doc: String,
}

impl TableInfo {
    fn new(schema: &str, name: &str, columns: Vec<Column>) -> Self {
        Self { schema: schema.to_owned(), name: name.to_owned(), columns: column_infos(columns) }
    }
}

pub(crate) fn column_infos(columns: Vec<Column>) -> Vec<ColumnInfo> {
    let info = |column: Column| {
        let data_type = column.kind.sql().to_owned();
        ColumnInfo { name: column.name, data_type, doc: column.doc }
    };
    columns.into_iter().map(info).collect()
}

/// The domain's tables whose rows have a time.
const TIMED: [&str; 6] = ["usage", "limits", "pressure", "events", "decisions", "samples"];

fn timed_columns(name: &str) -> Vec<Column> {
    match name {
        "usage" => usage::usage_columns(),
        "limits" => usage::limits_columns(),
        "pressure" => usage::pressure_columns(),
        "events" => journal::events_columns(),
        "decisions" => journal::decisions_columns(),
        _ => metric::samples_columns(),
    }
}

/// Every table that a query can name now.
pub(crate) fn all(store: &Store) -> Vec<TableInfo> {
    let timed = TIMED.iter().map(|name| TableInfo::new(PUBLIC, name, timed_columns(name)));
    let current = Current::ALL.iter().map(|table| TableInfo::new(PUBLIC, table.name(), table.columns()));
    let metrics = store.metrics().into_iter().map(|metric| {
        let columns = MetricSource::new(metric.name.clone(), metric.tag_keys).columns();
        TableInfo::new(METRIC, &metric.name, columns)
    });
    timed.chain(current).chain(metrics).collect()
}

/// The catalog that queries are planned with.
#[derive(Clone)]
pub(crate) struct Catalog {
    /// Weak, since the store keeps plans and what they are made with.
    store: Weak<Store>,
    /// The instant, for plans that are made for one only.
    now: Option<TimeMs>,
    /// The columns of the asking rule's own state; without any, `state` is that of all rules.
    own_state: Option<SchemaRef>,
}

impl Catalog {
    pub(crate) fn new(store: Weak<Store>, now: Option<TimeMs>, own_state: Option<SchemaRef>) -> Self {
        Self { store, now, own_state }
    }

    fn timed(&self, source: Arc<dyn Source>) -> Arc<dyn TableProvider> {
        Arc::new(TimedTable::new(source, self.now))
    }

    fn metric(&self, name: &str) -> Option<MetricInfo> {
        self.store.upgrade()?.metric(name)
    }

    fn public_table(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        if let Some(own) = self.own_state.as_ref().filter(|_| name == Current::State.name()) {
            return Some(Arc::new(CurrentTable::new(Arc::new(OwnState::new(own)))));
        }
        if let Some(table) = Current::ALL.into_iter().find(|table| table.name() == name) {
            return Some(Arc::new(CurrentTable::new(Arc::new(table))));
        }
        let store = self.store.upgrade()?;
        timed_source(&store, name).map(|source| self.timed(source))
    }
}

/// Where the rows of one of the [`TIMED`] tables come from.
pub(crate) fn timed_source(store: &Store, name: &str) -> Option<Arc<dyn Source>> {
    Some(match name {
        "usage" => Arc::new(UsageSource { maps: store.config().usage_maps.clone() }),
        "limits" => Arc::new(SubjectSource::LIMITS),
        "pressure" => Arc::new(usage::PressureSource),
        "events" => Arc::new(journal::EventsSource),
        "decisions" => Arc::new(journal::DecisionsSource),
        "samples" => Arc::new(metric::SamplesSource),
        _ => return None,
    })
}

/// Where the rows of a metric's table come from.
pub(crate) fn metric_source(store: &Store, name: &str) -> Option<Arc<dyn Source>> {
    let metric = store.metric(name)?;
    Some(Arc::new(MetricSource::new(metric.name, metric.tag_keys)))
}

// The store is not printable as a whole, and a catalog is printed only inside larger things.
impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("now", &self.now).finish_non_exhaustive()
    }
}

impl CatalogProviderList for Catalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        vec![PUBLIC.to_owned(), METRIC.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            PUBLIC => Some(Arc::new(PublicSchema(self.clone()))),
            METRIC => Some(Arc::new(MetricSchema(self.clone()))),
            _ => None,
        }
    }
}

/// Schema `public`.
#[derive(Debug)]
struct PublicSchema(Catalog);

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        TIMED.into_iter().chain(Current::ALL.iter().map(|table| table.name())).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.public_table(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        TIMED.contains(&name) || Current::ALL.iter().any(|table| table.name() == name)
    }
}

/// Schema `metric`: whatever was pushed until now.
#[derive(Debug)]
struct MetricSchema(Catalog);

#[async_trait]
impl SchemaProvider for MetricSchema {
    fn table_names(&self) -> Vec<String> {
        self.0
            .store
            .upgrade()
            .map_or_else(Vec::new, |store| store.metrics().into_iter().map(|metric| metric.name).collect())
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let metric = self.0.metric(name);
        Ok(metric.map(|metric| self.0.timed(Arc::new(MetricSource::new(metric.name, metric.tag_keys)))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.metric(name).is_some()
    }
}
