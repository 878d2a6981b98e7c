//! Data directories of format 1: samples as doubles, no roll-ups, a catalog without checksum and order.

use arrow::array::{ArrayRef, DictionaryArray, Float64Array, StringArray, TimestampMillisecondArray, UInt32Array};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::*;
use crate::hot::Row;
use crate::segment::Segment;

/// Rows of a row group in that format.
const GROUP_ROWS: usize = 65_536;

/// Writes one metric's rows, sorted, as the writer of format 1 did.
fn write_segment(path: &Path, store: &Store, metric: &str, rows: &[Row]) {
    let text = |texts: Vec<String>| -> ArrayRef {
        let keys = UInt32Array::from_iter_values(0..texts.len() as u32);
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(texts))))
    };
    let tags = |row: &Row| {
        let key = store.series_key(row.series).unwrap();
        let tags = key.tags().map(|(tag, value)| (tag.to_owned(), value.into()));
        serde_json::Value::Object(tags.collect()).to_string()
    };
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.time)).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 5] = [
        ("metric", text(vec![metric.to_owned(); rows.len()])),
        ("tags", text(rows.iter().map(tags).collect())),
        ("series", Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.series)))),
        ("time", Arc::new(times)),
        ("value", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.value)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let (time, value) = (ColumnPath::from("time"), ColumnPath::from("value"));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_dictionary_enabled(time.clone(), false)
        .set_column_encoding(time, Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(value.clone(), false)
        .set_column_encoding(value, Encoding::BYTE_STREAM_SPLIT)
        .build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let bound =
        |of: fn(&i64, &i64) -> bool| rows.iter().map(|row| row.time).reduce(|a, b| if of(&a, &b) { a } else { b });
    let range = serde_json::json!([{
        "metric": metric, "offset": 0, "rows": rows.len(), "min_time": bound(|a, b| a < b), "max_time": bound(|a, b| a > b),
    }]);
    writer.append_key_value_metadata(KeyValue::new("tidegate.metrics".to_owned(), range.to_string()));
    writer.close().unwrap();
}

fn bits(store: &Store) -> Vec<(u32, i64, u64)> {
    let all = Wanted { metric: "cpu", series: None, from: 0, to: i64::MAX };
    store.scan_rows(&all).unwrap().iter().map(|row| (row.series, row.time, row.value.to_bits())).collect()
}

#[tokio::test]
async fn a_directory_of_format_1_is_read_continued_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let value = |host: i64, step: i64| match step % 5 {
        0 => -0.0,
        1 => 1.0 / 3.0,
        2 => f64::MAX,
        _ => (host * step) as f64 / 100.0,
    };
    // One row group and some.
    for (host, name) in (0..).zip(["a", "b", "c"]) {
        let rows: Vec<_> = (0..23_000).map(|step| (name, step * 1_000 - 60_000_000, value(host, step))).collect();
        assert_eq!(store.append(&batch(&rows), NOW).await.unwrap().rejected, vec![]);
    }
    store.flush(NOW).await.unwrap();
    let before = bits(&store);
    assert_eq!(before.len(), 69_000);

    // The same rows in the segment that format 1 would have.
    let meta = store.data.read().segments.0[0].meta.clone();
    let path = dir.path().join("segments").join(&meta.file);
    let rows = store.scan_rows(&Wanted { metric: "cpu", series: None, from: 0, to: i64::MAX }).unwrap();
    fs::remove_file(&path).unwrap();
    write_segment(&path, &store, "cpu", &rows);
    let (next_series, wal_floor) = (store.index.read().next_id(), store.catalog.lock().wal_floor);
    drop(store);
    let catalog = serde_json::json!({
        "format": 1, "next_segment": meta.number + 1, "wal_floor": wal_floor, "next_series": next_series, "last_flush": NOW,
        "segments": [{
            "number": meta.number, "kind": "samples", "file": meta.file, "min_time": meta.min_time,
            "max_time": meta.max_time, "rows": meta.rows, "bytes": fs::metadata(&path).unwrap().len(),
        }],
    });
    fs::write(dir.path().join("catalog.json"), serde_json::to_vec_pretty(&catalog).unwrap()).unwrap();

    let store = open(dir.path());
    assert_eq!(bits(&store), before);
    let b = before.iter().map(|row| row.0).find(|id| store.series_key(*id).unwrap().tag("host") == Some("b")).unwrap();
    let (from, to) = (NOW.0 - 45_000_500, NOW.0 - 44_000_000);
    let some = store.scan_rows(&Wanted { metric: "cpu", series: Some(&[b]), from, to }).unwrap();
    let expected: Vec<_> = before.iter().filter(|row| row.0 == b && (from..=to).contains(&row.1)).copied().collect();
    assert_eq!(some.iter().map(|row| (row.series, row.time, row.value.to_bits())).collect::<Vec<_>>(), expected);

    // What is written since counts, and a merge brings both together, in the present format.
    append_one(&store, "b", -45_000_000, 7.25).await;
    store.flush(NOW).await.unwrap();
    let mut newer = before.clone();
    let changed = newer.iter_mut().find(|row| row.0 == b && row.1 == NOW.0 - 45_000_000).unwrap();
    changed.2 = 7.25_f64.to_bits();
    assert_eq!(bits(&store), newer);
    store.compact().await.unwrap();
    assert_eq!(bits(&store), newer);
    assert!(store.data.read().segments.0.iter().map(Arc::as_ref).all(is_of_format_2));
    drop(store);
    assert_eq!(bits(&open(dir.path())), newer);
}

async fn append_one(store: &Store, host: &str, time: i64, value: f64) {
    assert_eq!(store.append(&batch(&[(host, time, value)]), NOW).await.unwrap().rejected, vec![]);
}

fn is_of_format_2(segment: &Segment) -> bool {
    segment.reader().unwrap().schema().field_with_name("scaled").is_ok()
}
