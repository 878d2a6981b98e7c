//! What is not accepted, and how it is said.

use tidegate_model::SeriesRef;

use super::*;
use crate::StoreError;

#[tokio::test]
async fn refused_samples_say_by_how_much_and_their_neighbours_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { max_series: 2, ..config(dir.path()) }, NOW).unwrap();
    let hour = 3_600_000;
    let rows = [
        ("a", 0, 1.0),
        ("a", 3 * hour + 1_500, 1.0),
        ("a", -8 * 24 * hour, 1.0),
        ("a", 1, f64::NAN),
        ("a", 1, f64::NEG_INFINITY),
        ("b", 1, 2.0),
        ("c", 1, 2.0),
        ("a", 2, 3.0),
    ];
    let report = store.append(&batch(&rows), NOW).await.unwrap();
    assert_eq!(report.accepted, 3);
    let reasons: Vec<_> = report.rejected.iter().map(|r| (r.row, r.reason.as_str())).collect();
    assert_eq!(reasons.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3, 4, 6]);
    assert!(reasons[0].1.contains("is 3h 1s ahead of this server's clock, at most 5m is"), "{}", reasons[0].1);
    assert!(reasons[1].1.contains("is 8days old, at most 7days is accepted"), "{}", reasons[1].1);
    assert_eq!(reasons[2].1, "value is not a number");
    assert_eq!(reasons[3].1, "value is infinite");
    assert_eq!(reasons[4].1, "new series cpu{host=c} is beyond the limit of 2 series (store.max_series)");
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("a", 2, 3.0), ("b", 1, 2.0)]));
    assert_eq!((store.stats().appended_total, store.stats().rejected_total), (3, 5));
    // A series whose samples were all refused does not exist.
    assert_eq!(store.series_of("cpu", i64::MIN).len(), 2);
}

#[tokio::test]
async fn a_flood_of_refused_samples_does_not_become_a_flood_of_texts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { max_series: 1, ..config(dir.path()) }, NOW).unwrap();
    let mut flood = batch(&[("a", 0, 1.0)]);
    (0..50_000).for_each(|n| flood.push(key("cpu", &n.to_string()), NOW, 1.0));
    flood.push(key("cpu", "a"), TimeMs(NOW.0 + 1), 2.0);
    let report = store.append(&flood, NOW).await.unwrap();
    assert_eq!((report.accepted, report.rejected.len(), report.refused()), (2, crate::MAX_REASONS, 50_000));
    assert!(report.refused_rows().eq(1..=50_000));
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("a", 1, 2.0)]));
    assert_eq!((store.stats().series, store.stats().rejected_total), (1, 50_000));
}

#[tokio::test]
async fn a_series_may_be_named_by_its_id_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = batch(&[("a", 0, 1.0), ("b", 0, f64::NAN)]);
    let report = store.append(&first, NOW).await.unwrap();
    assert_eq!(report.ids.len(), 2);
    let (Some(id), None) = (report.ids[0], report.ids[1]) else { panic!("{:?}", report.ids) };
    let mut by_id = SampleBatch::new();
    by_id.push_row(SeriesRef::Id(id), TimeMs(NOW.0 + 1), 2.0);
    by_id.push(key("cpu", "c"), TimeMs(NOW.0 + 1), 3.0);
    assert_eq!(store.append(&by_id, NOW).await.unwrap().accepted, 2);
    assert_eq!(everything(&store), expected(&[("a", 0, 1.0), ("a", 1, 2.0), ("c", 1, 3.0)]));
    let mut unknown = batch(&[("d", 0, 1.0)]);
    unknown.push_row(SeriesRef::Id(77), NOW, 1.0);
    let error = store.append(&unknown, NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownSeries { id: 77 }), "{error}");
    assert_eq!(everything(&store).len(), 3, "nothing of such a batch is stored");
    drop(store);
    assert_eq!(everything(&open(dir.path())), expected(&[("a", 0, 1.0), ("a", 1, 2.0), ("c", 1, 3.0)]));
}

#[tokio::test]
async fn a_decision_that_json_cannot_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows = [decision("1", 0, 1.0), decision("2", 0, f64::NAN)];
    let error = store.append_decisions(&rows).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unstorable { what, .. } if what.contains("'2'")), "{error}");
    assert_eq!(store.scan_decisions(0, i64::MAX).unwrap(), []);
}

#[tokio::test]
async fn a_later_format_and_a_damaged_catalog_are_refused_by_path() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("catalog.json");
    fs::write(&path, r#"{"format": 99, "galaxies": []}"#).unwrap();
    let error = Store::open(config(dir.path()), NOW).err().unwrap().to_string();
    assert!(error.contains("catalog.json has format 99"), "{error}");
    fs::write(&path, "{").unwrap();
    let error = Store::open(config(dir.path()), NOW).err().unwrap().to_string();
    assert!(error.contains("catalog.json is damaged"), "{error}");
}
