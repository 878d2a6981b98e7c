//! Decisions and events on disk.
//!
//! A decision is kept whole as JSON, next to the columns that people filter by; an event is all columns.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tidegate_model::{ContainerKey, Decision, Event, TimeMs};

use crate::catalog::{SegmentKind, SegmentMeta};
use crate::error::StoreError;
use crate::fault;
use crate::hot::Generation;
use crate::segment::{Segment, file_name};
use crate::write::wal::sync_dir;

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 1_024;

impl Generation {
    /// The decisions with `from <= time <= to`, in arrival order.
    pub(crate) fn decisions_between(&self, from: i64, to: i64) -> Vec<Arc<Decision>> {
        self.decisions().iter().filter(|row| (from..=to).contains(&row.time.0)).cloned().collect()
    }

    /// The events with `from <= time <= to`, in arrival order.
    pub(crate) fn events_between(&self, from: i64, to: i64) -> Vec<Arc<Event>> {
        self.events().iter().filter(|row| (from..=to).contains(&row.time.0)).cloned().collect()
    }
}

/// Writes decisions to one segment; `None` when there are none.
pub(crate) fn write_decisions(dir: &Path, number: u64, rows: &[&Decision]) -> Result<Option<SegmentMeta>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let schema = decision_schema();
    write_file(dir, number, SegmentKind::Decisions, schema.clone(), |writer| {
        for part in rows.chunks(BATCH_ROWS) {
            let json = part
                .iter()
                .map(serde_json::to_string)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| parquet::errors::ParquetError::External(error.into()))?;
            let columns: Vec<ArrayRef> = vec![
                times(part.iter().map(|row| row.time)),
                texts(part.iter().map(|row| row.id.as_str())),
                texts(part.iter().map(|row| row.rule.as_str())),
                Arc::new(UInt32Array::from_iter_values(part.iter().map(|row| row.version))),
                texts(part.iter().map(|row| row.container.host.as_str())),
                texts(part.iter().map(|row| row.container.name.as_str())),
                texts(part.iter().map(|row| row.resource.as_str())),
                Arc::new(StringArray::from_iter_values(part.iter().map(|row| row.mode.to_string()))),
                texts(part.iter().map(|row| row.outcome.status.as_str())),
                texts(json.iter().map(String::as_str)),
            ];
            writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
        }
        Ok(time_range(rows.iter().map(|row| row.time)))
    })
}

/// Writes events to one segment; `None` when there are none.
pub(crate) fn write_events(dir: &Path, number: u64, rows: &[&Event]) -> Result<Option<SegmentMeta>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let schema = event_schema();
    write_file(dir, number, SegmentKind::Events, schema.clone(), |writer| {
        for part in rows.chunks(BATCH_ROWS) {
            let columns: Vec<ArrayRef> = vec![
                times(part.iter().map(|row| row.time)),
                texts(part.iter().map(|row| row.rule.as_str())),
                texts(part.iter().map(|row| row.container.host.as_str())),
                texts(part.iter().map(|row| row.container.name.as_str())),
                texts(part.iter().map(|row| row.resource.as_str())),
                texts(part.iter().map(|row| row.name.as_str())),
                Arc::new(Float64Array::from_iter_values(part.iter().map(|row| row.value))),
            ];
            writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
        }
        Ok(time_range(rows.iter().map(|row| row.time)))
    })
}

impl Segment {
    /// Appends the decisions with `from <= time <= to`, in arrival order.
    pub(crate) fn read_decisions(&self, from: i64, to: i64, rows: &mut Vec<Decision>) -> Result<(), StoreError> {
        self.decoded(|| self.decode_decisions(from, to, rows))
    }

    fn decode_decisions(&self, from: i64, to: i64, rows: &mut Vec<Decision>) -> Result<(), StoreError> {
        for batch in self.reader()?.build().map_err(|error| self.unreadable(error))? {
            let batch = batch.map_err(|error| self.unreadable(error))?;
            let times = batch.column(0).as_primitive::<TimestampMillisecondType>();
            let json = batch.column(9).as_string::<i32>();
            for row in (0..batch.num_rows()).filter(|&row| (from..=to).contains(&times.value(row))) {
                rows.push(serde_json::from_str(json.value(row)).map_err(|error| self.unreadable(error))?);
            }
        }
        Ok(())
    }

    /// Appends the events with `from <= time <= to`, in arrival order.
    pub(crate) fn read_events(&self, from: i64, to: i64, rows: &mut Vec<Event>) -> Result<(), StoreError> {
        self.decoded(|| self.decode_events(from, to, rows))
    }

    fn decode_events(&self, from: i64, to: i64, rows: &mut Vec<Event>) -> Result<(), StoreError> {
        for batch in self.reader()?.build().map_err(|error| self.unreadable(error))? {
            let batch = batch.map_err(|error| self.unreadable(error))?;
            let times = batch.column(0).as_primitive::<TimestampMillisecondType>();
            let values = batch.column(6).as_primitive::<Float64Type>();
            let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row);
            for row in (0..batch.num_rows()).filter(|&row| (from..=to).contains(&times.value(row))) {
                rows.push(Event {
                    time: TimeMs(times.value(row)),
                    rule: text(1, row).to_owned(),
                    container: ContainerKey { host: text(2, row).to_owned(), name: text(3, row).to_owned() },
                    resource: text(4, row).parse().map_err(|error| self.unreadable(error))?,
                    name: text(5, row).to_owned(),
                    value: values.value(row),
                });
            }
        }
        Ok(())
    }
}

fn decision_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let version = Field::new("version", DataType::UInt32, false);
    let mut fields = vec![time_field(), text("id"), text("rule"), version];
    fields.extend(["host", "container", "resource", "mode", "outcome", "decision"].map(text));
    Arc::new(Schema::new(fields))
}

fn event_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let mut fields = vec![time_field()];
    fields.extend(["rule", "host", "container", "resource", "name"].map(text));
    fields.push(Field::new("value", DataType::Float64, false));
    Arc::new(Schema::new(fields))
}

fn time_field() -> Field {
    Field::new("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)
}

fn times(times: impl Iterator<Item = TimeMs>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(times.map(|time| time.0)).with_timezone("UTC"))
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn time_range(times: impl Iterator<Item = TimeMs> + Clone) -> Option<(i64, i64)> {
    Some((times.clone().min()?.0, times.max()?.0))
}

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by(concat!("tidegate ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

/// Writes one segment file durably. `fill` returns the earliest and the latest time; without rows no file stays.
fn write_file(
    dir: &Path,
    number: u64,
    kind: SegmentKind,
    schema: SchemaRef,
    fill: impl FnOnce(&mut ArrowWriter<File>) -> Result<Option<(i64, i64)>, parquet::errors::ParquetError>,
) -> Result<Option<SegmentMeta>, StoreError> {
    let file_name = file_name(number, kind);
    let path = dir.join(&file_name);
    let unwritable = |error: &dyn std::fmt::Display| {
        let _ = fault::at(&path).and_then(|()| fs::remove_file(&path)); // the catalog does not name it, so what stays is removed at the next start
        StoreError::Segment { action: "written", path: path.clone(), message: error.to_string() }
    };
    // Never truncates: a file of that name could be one that the catalog on disk names.
    let create = || fault::at(&path).and_then(|()| File::create_new(&path));
    let file = create().map_err(StoreError::io("create", &path))?;
    let synced = file.try_clone().map_err(|error| unwritable(&error))?;
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties())).map_err(|error| unwritable(&error))?;
    let times = fill(&mut writer).map_err(|error| unwritable(&error))?;
    fault::at(&path).map_err(|error| unwritable(&error))?;
    let metadata = writer.close().map_err(|error| unwritable(&error))?;
    let Some((min_time, max_time)) = times else {
        let _ = fs::remove_file(&path);
        return Ok(None);
    };
    fault::at_sync(&path).and_then(|()| synced.sync_all()).map_err(|error| unwritable(&error))?;
    sync_dir(dir)?;
    let bytes = synced.metadata().map_err(|error| unwritable(&error))?.len();
    let rows = metadata.file_metadata().num_rows() as u64;
    Ok(Some(SegmentMeta::new(number, kind, file_name, (min_time, max_time), rows, bytes).summed(dir)?))
}
