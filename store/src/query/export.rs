//! Answers as bytes: JSON, NDJSON, CSV, an Arrow stream, Parquet.
//!
//! In the texts, times are RFC 3339 in UTC with milliseconds, and numbers keep all their digits; what JSON has no number
//! for (NaN, the infinities) is null there.

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int64Array, StringArray,
    StringViewArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Datelike};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::cell::RefCell;
use std::sync::Arc;

use crate::query::QueryResult;
use crate::tables::rfc3339;

/// What a cell takes as text, roughly; makes room before the first one is written.
const CELL_BYTES: usize = 16;

/// Why an answer could not be written: a column has a type that the format has no place for.
#[derive(Debug, thiserror::Error)]
#[error("the answer cannot be written as {format}: {why}")]
pub struct ExportError {
    /// The format.
    pub format: &'static str,
    /// What does not fit.
    pub why: String,
}

fn fails<E: std::fmt::Display>(format: &'static str) -> impl Fn(E) -> ExportError {
    move |why| ExportError { format, why: why.to_string() }
}

/// `{"columns":[{"name","type"}],"rows":[[..],..],"truncated":..,"took_ms":..}`.
///
/// # Errors
/// When a column has a type that cannot be printed.
pub fn json(result: &QueryResult) -> Result<Vec<u8>, ExportError> {
    let mut out = b"{\"columns\":".to_vec();
    out.extend(json_columns(&result.schema));
    out.extend(b",\"rows\":");
    write_rows(&result.batches, &mut out)?;
    let took_ms = (result.took.as_secs_f64() * 1e6).round() / 1e3;
    out.extend(format!(",\"truncated\":{},\"took_ms\":{took_ms}}}", result.truncated).into_bytes());
    Ok(out)
}

/// `[{"name","type"},..]` with SQL's names of the types.
pub fn json_columns(schema: &Schema) -> Vec<u8> {
    let column = |field: &Arc<Field>| serde_json::json!({"name": field.name(), "type": sql_type(field.data_type())});
    serde_json::Value::Array(schema.fields().iter().map(column).collect()).to_string().into_bytes()
}

/// `[[..],..]`, one inner array a row.
///
/// # Errors
/// When a column has a type that cannot be printed.
pub fn json_rows(batches: &[RecordBatch]) -> Result<Vec<u8>, ExportError> {
    let mut out = Vec::new();
    write_rows(batches, &mut out)?;
    Ok(out)
}

fn write_rows(batches: &[RecordBatch], out: &mut Vec<u8>) -> Result<(), ExportError> {
    let cells: usize = batches.iter().map(|batch| batch.num_rows() * (batch.num_columns() + 1)).sum();
    out.reserve(cells * CELL_BYTES);
    out.push(b'[');
    let mut first = true;
    for batch in batches {
        let columns = cells_of(batch)?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if std::mem::take(&mut first) { b"[" } else { b",[" });
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                column.write(row, out).map_err(fails("JSON"))?;
            }
            out.push(b']');
        }
    }
    out.push(b']');
    Ok(())
}

/// One JSON object a line.
///
/// # Errors
/// When a column has a type that cannot be printed.
pub fn ndjson(batches: &[RecordBatch]) -> Result<Vec<u8>, ExportError> {
    let mut out = Vec::new();
    for batch in batches {
        let columns = cells_of(batch)?;
        let schema = batch.schema();
        let keys: Vec<String> =
            schema.fields().iter().map(|field| serde_json::Value::from(field.name().as_str()).to_string()).collect();
        for row in 0..batch.num_rows() {
            out.push(b'{');
            for (at, (key, column)) in keys.iter().zip(&columns).enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend(key.bytes());
                out.push(b':');
                column.write(row, &mut out).map_err(fails("NDJSON"))?;
            }
            out.extend(b"}\n");
        }
    }
    Ok(out)
}

/// Comma-separated values with a header line. Nulls are empty, lists and structures are JSON texts.
///
/// # Errors
/// When a column has a type that cannot be printed.
pub fn csv(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ExportError> {
    const TIME: &str = "%Y-%m-%dT%H:%M:%S%.3fZ";
    let mut writer = WriterBuilder::new()
        .with_header(true)
        .with_timestamp_format(TIME.to_owned())
        .with_timestamp_tz_format(TIME.to_owned())
        .build(Vec::new());
    // The writer writes the header with the first batch, so there has to be one.
    let empty = RecordBatch::new_empty(Arc::clone(schema));
    for batch in if batches.is_empty() { std::slice::from_ref(&empty) } else { batches } {
        writer.write(&flat(batch)?).map_err(fails("CSV"))?;
    }
    Ok(writer.into_inner())
}

/// An Arrow IPC stream.
///
/// # Errors
/// When a column has a type that Arrow IPC has no place for.
pub fn arrow_stream(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ExportError> {
    let written = || -> Result<Vec<u8>, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.finish()?;
        writer.into_inner()
    };
    written().map_err(fails("an Arrow stream"))
}

/// A Parquet file, compressed with zstd.
///
/// # Errors
/// When a column has a type that Parquet has no place for, such as an interval.
pub fn parquet(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ExportError> {
    let written = || -> Result<Vec<u8>, ParquetError> {
        let compression = Compression::ZSTD(ZstdLevel::try_new(3)?);
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties))?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.into_inner()
    };
    written().map_err(fails("Parquet"))
}

/// The name that SQL has for a type.
fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "integer".to_owned(),
        DataType::Int64 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            "bigint".to_owned()
        }
        DataType::Float16 | DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        DataType::List(field) | DataType::LargeList(field) => format!("{}[]", sql_type(field.data_type())),
        other => other.to_string().to_lowercase(),
    }
}

/// The columns of a batch with lists and structures as JSON texts.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ExportError> {
    let schema = batch.schema();
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !column.data_type().is_nested() {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let cell = Cell::new(column).map_err(fails("CSV"))?;
        let mut texts = Vec::with_capacity(column.len());
        for row in 0..column.len() {
            let mut text = Vec::new();
            cell.write(row, &mut text).map_err(fails("CSV"))?;
            texts.push(column.is_valid(row).then(|| String::from_utf8_lossy(&text).into_owned()));
        }
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(arrow::array::StringArray::from(texts)) as ArrayRef);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(fails("CSV"))
}

fn cells_of(batch: &RecordBatch) -> Result<Vec<Cell>, ExportError> {
    batch.columns().iter().map(Cell::new).collect::<Result<_, _>>().map_err(fails("JSON"))
}

/// A column that can print one row as JSON.
enum Cell {
    Null,
    Boolean(BooleanArray),
    /// As `i64`, which holds every smaller integer.
    Integer(Int64Array),
    Unsigned(UInt64Array),
    Double(Float64Array),
    /// Printed with the digits of `f32`, not with those that it gets as `f64`.
    Real(Float32Array),
    Text(StringArray, RefCell<Repeated>),
    View(StringViewArray, RefCell<Repeated>),
    /// As milliseconds, with what was found out about the day of the last one.
    Time(TimestampMillisecondArray, std::cell::Cell<Day>),
    /// Exact digits as Arrow prints them.
    Digits(ArrayRef),
    List(ArrayRef, Box<Cell>),
    Struct(ArrayRef, Vec<(String, Cell)>),
    /// Whatever else, as Arrow prints it.
    Other(ArrayRef),
}

impl Cell {
    fn new(column: &ArrayRef) -> Result<Self, ArrowError> {
        let to = |data_type: DataType| cast(column, &data_type);
        Ok(match column.data_type() {
            DataType::Null => Cell::Null,
            DataType::Boolean => Cell::Boolean(column.as_boolean().clone()),
            DataType::UInt64 => Cell::Unsigned(column.as_primitive().clone()),
            integer if integer.is_integer() => Cell::Integer(to(DataType::Int64)?.as_primitive().clone()),
            DataType::Float16 | DataType::Float32 => Cell::Real(to(DataType::Float32)?.as_primitive().clone()),
            DataType::Float64 => Cell::Double(column.as_primitive().clone()),
            DataType::Utf8View => Cell::View(column.as_string_view().clone(), RefCell::default()),
            DataType::Utf8 | DataType::LargeUtf8 => {
                Cell::Text(to(DataType::Utf8)?.as_string().clone(), RefCell::default())
            }
            DataType::Dictionary(_, values) => Cell::new(&to(values.as_ref().clone())?)?,
            DataType::Timestamp(..) => {
                let times = to(DataType::Timestamp(TimeUnit::Millisecond, None))?;
                Cell::Time(times.as_primitive().clone(), std::cell::Cell::new(Day::NONE))
            }
            decimal if decimal.is_decimal() => Cell::Digits(Arc::clone(column)),
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
                let list = to(DataType::LargeList(Arc::clone(field)))?;
                let inner = Cell::new(list.as_list::<i64>().values())?;
                Cell::List(list, Box::new(inner))
            }
            DataType::Struct(_) => {
                let columns = column.as_struct();
                let names = columns.column_names().into_iter().map(str::to_owned);
                let cells = columns.columns().iter().map(Cell::new).collect::<Result<Vec<_>, _>>()?;
                Cell::Struct(Arc::clone(column), names.zip(cells).collect())
            }
            _ => Cell::Other(Arc::clone(column)),
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Cell::Null => out.extend_from_slice(b"null"),
            Cell::Boolean(column) => {
                out.extend_from_slice(if column.value(row) { b"true" } else { b"false" });
            }
            Cell::Integer(column) => serialize(&column.value(row), out)?,
            Cell::Unsigned(column) => serialize(&column.value(row), out)?,
            // serde_json writes what is not finite as null.
            Cell::Double(column) => serialize(&column.value(row), out)?,
            Cell::Real(column) => serialize(&column.value(row), out)?,
            Cell::Text(column, repeated) => repeated.borrow_mut().write(column, row, out)?,
            Cell::View(column, repeated) => repeated.borrow_mut().write(column, row, out)?,
            Cell::Time(column, day) => {
                write_time(column.value(row), day, out);
            }
            Cell::Digits(column) => out.extend(printed(column, row)?.into_bytes()),
            Cell::List(column, inner) => {
                let offsets = column.as_list::<i64>().value_offsets();
                out.push(b'[');
                for at in offsets[row]..offsets[row + 1] {
                    if at > offsets[row] {
                        out.push(b',');
                    }
                    inner.write(usize::try_from(at).unwrap_or_default(), out)?;
                }
                out.push(b']');
            }
            Cell::Struct(_, fields) => {
                out.push(b'{');
                for (at, (name, cell)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    serialize(name, out)?;
                    out.push(b':');
                    cell.write(row, out)?;
                }
                out.push(b'}');
            }
            Cell::Other(column) => serialize(&printed(column, row)?, out)?,
        }
        Ok(())
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cell::Null => true,
            Cell::Boolean(column) => column.is_null(row),
            Cell::Integer(column) => column.is_null(row),
            Cell::Unsigned(column) => column.is_null(row),
            Cell::Double(column) => column.is_null(row),
            Cell::Real(column) => column.is_null(row),
            Cell::Text(column, _) => column.is_null(row),
            Cell::View(column, _) => column.is_null(row),
            Cell::Time(column, _) => column.is_null(row),
            Cell::Digits(column) | Cell::List(column, _) | Cell::Struct(column, _) | Cell::Other(column) => {
                column.is_null(row)
            }
        }
    }
}

/// A text that stands in one row after the other, as the labels of a series do, and how it is written.
#[derive(Default)]
struct Repeated {
    /// The last of these rows.
    row: usize,
    json: Vec<u8>,
}

impl Repeated {
    fn write<'a>(
        &mut self,
        column: impl ArrayAccessor<Item = &'a str>,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ArrowError> {
        let text = column.value(row);
        let before = row.checked_sub(1).filter(|before| column.is_valid(*before) && column.value(*before) == text);
        if before.is_none() {
            return serialize(text, out);
        }
        if before != Some(self.row) || self.json.is_empty() {
            self.json.clear();
            serialize(text, &mut self.json)?;
        }
        self.row = row;
        out.extend_from_slice(&self.json);
        Ok(())
    }
}

/// A day, by its number since 1970, and how it is written.
#[derive(Clone, Copy)]
struct Day {
    number: i64,
    text: [u8; 11],
}

impl Day {
    const NONE: Day = Day { number: i64::MIN, text: *b"0000-00-00T" };

    /// `None` where years have more or fewer than four digits.
    fn of(number: i64) -> Option<Self> {
        let date = DateTime::from_timestamp_millis(number.checked_mul(DAY_MS)?)?;
        let mut day = Day { number, ..Self::NONE };
        put(&mut day.text[0..4], u32::try_from(date.year()).ok().filter(|year| *year <= 9_999)?);
        put(&mut day.text[5..7], date.month());
        put(&mut day.text[8..10], date.day());
        Some(day)
    }
}

const DAY_MS: i64 = 86_400_000;

fn put(digits: &mut [u8], mut value: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// As [`rfc3339`], in quotes, digit by digit instead of by formatting. Most times are of the day of the one before.
fn write_time(ms: i64, last: &std::cell::Cell<Day>, out: &mut Vec<u8>) {
    let (number, mut rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS) as u32);
    let mut day = last.get();
    if day.number != number {
        let Some(found) = Day::of(number) else {
            out.push(b'"');
            out.extend_from_slice(rfc3339(ms).as_bytes());
            out.push(b'"');
            return;
        };
        day = found;
        last.set(day);
    }
    let mut text = *b"\"0000-00-00T00:00:00.000Z\"";
    text[1..12].copy_from_slice(&day.text);
    put(&mut text[21..24], rest % 1_000);
    rest /= 1_000;
    put(&mut text[18..20], rest % 60);
    rest /= 60;
    put(&mut text[15..17], rest % 60);
    put(&mut text[12..14], rest / 60);
    out.extend_from_slice(&text);
}

fn serialize<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    serde_json::to_writer(out, value).map_err(|error| ArrowError::JsonError(error.to_string()))
}

fn printed(column: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    ArrayFormatter::try_new(column, &FormatOptions::default())?.value(row).try_to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{ListArray, TimestampNanosecondArray};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn sample() -> QueryResult {
        let times = TimestampMillisecondArray::from(vec![Some(1_763_755_200_123), None]).with_timezone("UTC");
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("time", Arc::new(times)),
            ("text", Arc::new(StringArray::from(vec!["a,\"ö\"", "b"]))),
            ("double", Arc::new(Float64Array::from(vec![f64::NAN, 0.5]))),
            ("int", Arc::new(Int64Array::from(vec![i64::MIN, 9_007_199_254_740_993]))),
            ("uint", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("list", Arc::new(list)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        QueryResult {
            schema: batch.schema(),
            batches: vec![batch],
            truncated: false,
            took: Duration::from_micros(1_500),
        }
    }

    #[test]
    fn texts_are_written_alike_however_they_lie_in_memory() {
        let texts = vec![Some("ö\n"), Some("ö\n"), None, Some("a text that is too long to lie in a view"), None];
        let columns: [(&str, ArrayRef); 2] =
            [("a", Arc::new(StringArray::from(texts.clone()))), ("b", Arc::new(StringViewArray::from(texts.clone())))];
        let written = json_rows(&[RecordBatch::try_from_iter(columns).unwrap()]).unwrap();
        let expected: Vec<_> = texts.iter().map(|text| [*text, *text]).collect();
        assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&expected).unwrap());
    }

    #[test]
    fn json_keeps_every_digit_and_has_null_for_what_it_cannot_say() {
        let text = String::from_utf8(json(&sample()).unwrap()).unwrap();
        let rows =
            r#"[["2025-11-21T20:00:00.123Z","a,\"ö\"",null,-9223372036854775808,18446744073709551615,[1,null]],"#;
        assert!(text.contains(rows), "{text}");
        assert!(text.contains(r#"[null,"b",0.5,9007199254740993,0,null]"#), "{text}");
        assert!(text.contains(r#"{"name":"list","type":"bigint[]"}"#), "{text}");
        assert!(text.ends_with(r#""truncated":false,"took_ms":1.5}"#), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn ndjson_has_one_object_a_line() {
        let text = String::from_utf8(ndjson(&sample().batches).unwrap()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["text"], "b");
    }

    #[test]
    fn csv_has_a_header_also_without_rows() {
        let result = sample();
        let text = String::from_utf8(csv(&result.schema, &result.batches).unwrap()).unwrap();
        assert_eq!(
            text,
            "time,text,double,int,uint,list\n\
             2025-11-21T20:00:00.123Z,\"a,\"\"ö\"\"\",NaN,-9223372036854775808,18446744073709551615,\"[1,null]\"\n\
             ,b,0.5,9007199254740993,0,\n"
        );
        assert_eq!(csv(&result.schema, &[]).unwrap(), b"time,text,double,int,uint,list\n");
    }

    #[test]
    fn times_are_written_as_chrono_does() {
        let day_before = std::cell::Cell::new(Day::NONE);
        let day = DAY_MS;
        let edges = [0, -1, 951_782_400_000, 4_107_542_400_000, 253_402_300_799_999, 253_402_300_800_000, i64::MAX];
        // Every day of four centuries at some odd time of it, and the edges of what has four digits.
        let days = (0..146_097).map(|at| (at - 73_000) * day + at * 7_919 % day);
        for ms in days.chain(edges).chain([-62_167_219_200_000, -62_167_219_200_001, i64::MIN / 2]) {
            let mut out = Vec::new();
            write_time(ms, &day_before, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{}\"", rfc3339(ms)));
        }
    }

    #[test]
    fn texts_that_are_repeated_are_written_each_time() {
        let texts = [
            Some("a"),
            Some("a"),
            None,
            Some("a"),
            Some("\"b"),
            Some("\"b"),
            Some("\"b"),
            Some(""),
            Some(""),
            None,
            Some("\"b"),
        ];
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let batch = RecordBatch::try_from_iter([("t", column)]).unwrap();
        let expected: Vec<[Option<&str>; 1]> = texts.iter().map(|text| [*text]).collect();
        assert_eq!(
            json_rows(&[batch.clone(), batch.slice(1, 5)]).unwrap(),
            serde_json::to_vec(&[&expected[..], &expected[1..6]].concat()).unwrap()
        );
        let cell = Cell::new(batch.column(0)).unwrap();
        for row in [1, 6, 5, 1, 8, 6, 10] {
            let mut out = Vec::new();
            cell.write(row, &mut out).unwrap();
            assert_eq!(out, serde_json::to_vec(&texts[row]).unwrap(), "{row}");
        }
    }

    #[test]
    fn finer_times_are_printed_in_milliseconds() {
        let time: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_763_755_200_123_999_999]));
        let batch = RecordBatch::try_from_iter([("t", time)]).unwrap();
        assert_eq!(json_rows(&[batch]).unwrap(), br#"[["2025-11-21T20:00:00.123Z"]]"#);
    }

    #[test]
    fn binary_formats_give_back_what_went_in() {
        let result = sample();
        let bytes = arrow_stream(&result.schema, &result.batches).unwrap();
        let read = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(read.schema(), result.schema);
        assert_eq!(read.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
        let bytes = parquet(&result.schema, &result.batches).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
        assert_eq!(batches[0].column_by_name("int").unwrap(), result.batches[0].column_by_name("int").unwrap());
    }
}
