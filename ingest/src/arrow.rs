//! Samples as an Arrow IPC stream, as an agent sends them.
//!
//! One row a sample: `metric` and `tags` are dictionaries of texts (`tags` a JSON object), `time` is in ms UTC, `value` a
//! double. The stream tells its own schema, so columns may be added, and any client that writes Arrow can make one.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, TimeUnit, TimestampMillisecondType};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use tidegate_model::{SampleBatch, SeriesKey, SeriesRef, TimeMs};

/// Tags are repeated with each row, so they must not be long.
const LONGEST_TAGS: usize = 16 << 10;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArrowDecodeError {
    /// It is damaged, or a column has another type than it can be cast from.
    #[error("not an Arrow IPC stream of samples: {0}")]
    Arrow(#[from] ArrowError),
    /// It is damaged in a way that Arrow's reader does not expect.
    #[error("not an Arrow IPC stream of samples: its lengths contradict each other")]
    Broken,
    /// A column of a type that holds no such values.
    #[error("the column {0} of an Arrow stream of samples cannot be {1}")]
    Type(&'static str, DataType),
    /// A column is not there.
    #[error("an Arrow stream of samples has the columns metric, tags, time and value; '{0}' is missing")]
    Missing(&'static str),
}

/// Writes the samples whose series are named by key.
///
/// # Errors
/// What Arrow refuses to write.
pub fn encode(batch: &SampleBatch) -> Result<Vec<u8>, ArrowError> {
    let (mut metrics, mut tags) = (Texts::default(), Texts::default());
    // By place in `batch.keys()`.
    let names: Vec<(i32, i32)> =
        batch.keys().iter().map(|key| (metrics.add(key.metric()), tags.add(&tags_of(key)))).collect();
    let (mut metric, mut tag, mut time, mut value) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, series) in batch.series().iter().enumerate() {
        let SeriesRef::Key(at) = series else { continue };
        let (metric_at, tags_at) = names[*at as usize];
        metric.push(metric_at);
        tag.push(tags_at);
        time.push(batch.times()[row]);
        value.push(batch.values()[row]);
    }
    let columns: [(&str, ArrayRef); 4] = [
        ("metric", metrics.column(metric)?),
        ("tags", tags.column(tag)?),
        ("time", Arc::new(TimestampMillisecondArray::from(time).with_timezone("UTC"))),
        ("value", Arc::new(Float64Array::from(value))),
    ];
    let rows = RecordBatch::try_from_iter(columns)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(&rows)?;
    writer.finish()?;
    writer.into_inner()
}

fn tags_of(key: &SeriesKey) -> String {
    let tags: BTreeMap<&str, &str> = key.tags().collect();
    serde_json::to_string(&tags).unwrap_or_default()
}

/// Distinct texts in the order of their first appearance.
#[derive(Default)]
struct Texts {
    texts: Vec<String>,
    index: hashbrown::HashMap<String, i32>,
}

impl Texts {
    fn add(&mut self, text: &str) -> i32 {
        if let Some(at) = self.index.get(text) {
            return *at;
        }
        let at = self.texts.len() as i32;
        self.texts.push(text.to_owned());
        self.index.insert(text.to_owned(), at);
        at
    }

    fn column(self, keys: Vec<i32>) -> Result<ArrayRef, ArrowError> {
        let keys = arrow::array::Int32Array::new(ScalarBuffer::from(keys), None);
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(StringArray::from(self.texts)))?))
    }
}

/// Reads samples. A row without a metric or a time, or with tags that are no JSON object of texts, is left out, and counted.
///
/// # Errors
/// The stream cannot be read.
pub fn decode(bytes: &[u8]) -> Result<(SampleBatch, usize), ArrowDecodeError> {
    // Arrow's reader panics where a buffer is said to begin behind the end of the message.
    catch_unwind(|| read(bytes)).unwrap_or(Err(ArrowDecodeError::Broken))
}

fn read(bytes: &[u8]) -> Result<(SampleBatch, usize), ArrowDecodeError> {
    let mut batch = SampleBatch::new();
    let mut refused = 0;
    // Unlike the reader of a stream it makes no room for what a message says that its length is.
    let (mut decoder, mut rest) = (StreamDecoder::new(), Buffer::from(bytes));
    while let Some(rows) = decoder.decode(&mut rest)? {
        refused += add_rows(&rows, &mut batch)?;
    }
    decoder.finish()?;
    Ok((batch, refused))
}

/// A column of one of the types that hold such values. Others would be cast, too, but some of them, such as nulls, need no
/// bytes for as many rows as a message claims to have.
fn column<'a>(rows: &'a RecordBatch, name: &'static str) -> Result<&'a ArrayRef, ArrowDecodeError> {
    let column = rows.column_by_name(name).ok_or(ArrowDecodeError::Missing(name))?;
    let of = match column.data_type() {
        DataType::Dictionary(keys, values) if keys.is_integer() => values,
        other => other,
    };
    let fits = match name {
        "metric" | "tags" => matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
        "time" => matches!(of, DataType::Int64 | DataType::Timestamp(..)),
        _ => of.is_floating() || of.is_integer(),
    };
    if fits { Ok(column) } else { Err(ArrowDecodeError::Type(name, column.data_type().clone())) }
}

fn add_rows(rows: &RecordBatch, batch: &mut SampleBatch) -> Result<usize, ArrowDecodeError> {
    let column = |name| column(rows, name);
    let texts = |name| -> Result<ArrayRef, ArrowDecodeError> {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        Ok(cast(column(name)?, &dictionary)?)
    };
    let (metric, tags) = (texts("metric")?, texts("tags")?);
    let (metric, tags) = (metric.as_dictionary::<Int32Type>(), tags.as_dictionary::<Int32Type>());
    let time = cast(column("time")?, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    let time = time.as_primitive::<TimestampMillisecondType>();
    let value = cast(column("value")?, &DataType::Float64)?;
    let value = value.as_primitive::<Float64Type>();

    let metric_texts = metric.values().as_string::<i32>();
    let tag_texts = tags.values().as_string::<i32>();
    let parsed: Vec<Option<BTreeMap<String, String>>> = tag_texts
        .iter()
        .map(|text| serde_json::from_str(text.filter(|text| text.len() <= LONGEST_TAGS)?).ok())
        .collect();
    let mut refused = 0;
    // Series of a stream mostly come once each, so a map of them would cost more than it saves.
    for row in 0..rows.num_rows() {
        let there = metric.is_valid(row) && tags.is_valid(row) && time.is_valid(row) && value.is_valid(row);
        let tags = there.then(|| parsed[tags.keys().value(row) as usize].as_ref()).flatten();
        let Some(tags) = tags else {
            refused += 1;
            continue;
        };
        let metric = metric_texts.value(metric.keys().value(row) as usize);
        let key = SeriesKey::from_parts(metric, tags.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        batch.push(key, TimeMs(time.value(row)), value.value(row));
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn samples_come_out_as_they_went_in(
            samples in prop::collection::vec(
                ("[a-z.]{1,8}", prop::collection::btree_map("[a-z]{1,4}", ".{0,6}", 0..4), any::<i64>(), any::<f64>()), 0..40
            )
        ) {
            let mut batch = SampleBatch::new();
            for (metric, tags, time, value) in &samples {
                batch.push(SeriesKey::new(metric.clone(), tags.clone()), TimeMs(*time), *value);
            }
            let (read, refused) = decode(&encode(&batch).unwrap()).unwrap();
            let rows = |batch: &SampleBatch| -> Vec<(SeriesKey, i64, u64)> {
                batch.rows().map(|(key, time, value)| (key.clone(), time.0, value.to_bits())).collect()
            };
            prop_assert_eq!((rows(&read), refused), (rows(&batch), 0));
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 1..200), at in 0_usize..600) {
            drop(decode(&bytes));
            let mut batch = SampleBatch::new();
            batch.push(SeriesKey::new("m", [("host".to_owned(), "h".to_owned())]), TimeMs(1), 2.0);
            let mut good = encode(&batch).unwrap();
            let at = at % good.len();
            good[at] ^= 0x55;
            drop(decode(&good));
        }
    }

    #[test]
    fn a_bad_row_costs_only_itself_and_plain_texts_will_do() {
        let columns: [(&str, ArrayRef); 4] = [
            ("metric", Arc::new(StringArray::from(vec![Some("m"), None, Some("m")]))),
            ("tags", Arc::new(StringArray::from(vec!["{\"a\":\"1\"}", "{}", "[]"]))),
            ("time", Arc::new(arrow::array::Int64Array::from(vec![1, 2, 3]))),
            ("value", Arc::new(arrow::array::Int64Array::from(vec![4, 5, 6]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).unwrap();
        writer.write(&rows).unwrap();
        let bytes = writer.into_inner().unwrap();
        let (batch, refused) = decode(&bytes).unwrap();
        let row = batch.rows().next().map(|(key, time, value)| (key.clone(), time, value)).unwrap();
        assert_eq!(row, (SeriesKey::new("m", [("a".to_owned(), "1".to_owned())]), TimeMs(1), 4.0));
        assert_eq!((batch.len(), refused), (1, 2));
    }
}
