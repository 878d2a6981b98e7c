//! Bytes that are not what was written, in any file: opening goes on without the damaged part or says what to do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::keep::rule;
use super::*;
use crate::{FindingStatus, check};

/// What is done to a file.
#[derive(Clone, Debug)]
enum Harm {
    /// Bits of some bytes, given as shares of the file's length.
    Flip(Vec<(f64, u8)>),
    /// All bytes from here on are gone.
    Cut(f64),
    /// A block is full of zeros, as after a power cut.
    Zero(f64),
    /// Something else stands behind the end.
    Append(Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => prop::collection::vec((0.0..1.0, 1u8..=255), 1..4).prop_map(Harm::Flip),
        2 => (0.0..1.0).prop_map(Harm::Cut),
        1 => (0.0..1.0).prop_map(Harm::Zero),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Harm::Append),
    ]
}

fn do_harm(bytes: &mut Vec<u8>, harm: &Harm) {
    let place = |share: f64| ((bytes.len() as f64 * share) as usize).min(bytes.len().saturating_sub(1));
    match harm {
        Harm::Flip(places) => {
            let places: Vec<_> = places.iter().map(|(share, bits)| (place(*share), bits)).collect();
            places.into_iter().for_each(|(at, bits)| bytes[at] ^= bits);
        }
        Harm::Cut(share) => bytes.truncate(place(*share)),
        Harm::Zero(share) => {
            let (at, end) = (place(*share), bytes.len());
            bytes[at..end.min(at + 512)].fill(0);
        }
        Harm::Append(more) => bytes.extend(more),
    }
}

/// A store in which every kind of file holds something, closed. Gives what is in it.
async fn template(dir: &Path) -> Vec<(String, i64, f64)> {
    let store = open(dir);
    for round in 0..3i64 {
        for step in 0..40 {
            let time = round * 1_000 + step;
            let host = format!("h{}", step % 5);
            store.append(&batch(&[(&host, time, time as f64 / 7.0)]), NOW).await.unwrap();
        }
        store.append_decisions(&[decision(&format!("d{round}"), round, 1.0)]).await.unwrap();
        store.append_events(&[event(&format!("e{round}"), round)]).await.unwrap();
        if round < 2 {
            store.flush(NOW).await.unwrap();
        }
    }
    store.put_rules(vec![rule("r", 1), rule("s", 2)]).unwrap();
    store.close().await.unwrap();
    everything(&store)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_tree(&path, &target) } else { fs::copy(&path, target).map(drop).unwrap() }
    }
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let (dirs, mut found): (Vec<_>, Vec<_>) = files(dir).into_iter().partition(|path| path.is_dir());
    found.retain(|path| !path.ends_with("LOCK"));
    dirs.iter().for_each(|dir| found.extend(all_files(dir)));
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn damage_costs_only_itself_or_is_refused_by_name_and_never_panics(
        file in any::<prop::sample::Index>(),
        harm in harm(),
    ) {
        thread_local! {
            static TEMPLATE: (tempfile::TempDir, Vec<(String, i64, f64)>) = {
                let dir = tempfile::tempdir().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let rows = runtime.block_on(template(dir.path()));
                (dir, rows)
            };
        }
        TEMPLATE.with(|(template, rows)| {
            let dir = tempfile::tempdir().unwrap();
            copy_tree(template.path(), dir.path());
            let all = all_files(dir.path());
            let path = &all[file.index(all.len())];
            let good = fs::read(path).unwrap();
            let mut bad = good.clone();
            do_harm(&mut bad, &harm);
            if bad == good {
                return;
            }
            fs::write(path, &bad).unwrap();
            let name = path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
            let what = format!("{name}: {harm:?}");

            // The check names the file; only the end of a log may look like what a crash leaves.
            let report = check(dir.path(), |_, _, _| {}).unwrap();
            let named = report.findings.iter().filter(|f| f.file == name && f.status != FindingStatus::Ok);
            let bad_status = |f: &&crate::Finding| f.status == FindingStatus::Damaged
                || (f.status == FindingStatus::Torn && (name.ends_with(".wal") || name == "series.log"));
            let emptied = bad.is_empty() && (name.ends_with(".wal") || name == "series.log");
            // A log cut between two records is a shorter log, and a seal's own name is not sealed.
            let between = name.ends_with(".wal") || name == "series.log";
            // Without the first line of its seal a file counts as one that never had any.
            let unsealed = name.ends_with(".json") && bad.get(..14) != good.get(..14);
            let found = named.filter(bad_status).count() > 0;
            assert!(found || emptied || unsealed || (between && matches!(harm, Harm::Cut(_))), "{what}: {report:?}");

            if unsealed && !found {
                return;
            }
            let opened = catch_unwind(AssertUnwindSafe(|| Store::open(config(dir.path()), NOW)));
            let opened = opened.unwrap_or_else(|_| panic!("opening panicked: {what}"));
            let store = match opened {
                Ok(store) => store,
                Err(error) => {
                    let text = error.to_string();
                    let file = Path::new(&name).file_name().unwrap().to_string_lossy().into_owned();
                    assert!(text.contains(&file) && text.contains("restore"), "{what}: {text}");
                    assert!(name.ends_with(".json"), "{what}: {text}");
                    return;
                }
            };
            let in_segment = name.starts_with("segments/");
            let read = catch_unwind(AssertUnwindSafe(|| {
                let mut found = Vec::new();
                let wanted = Wanted { metric: "cpu", series: None, from: i64::MIN, to: i64::MAX };
                match store.scan(&wanted) {
                    Ok(chunks) => for chunk in chunks {
                        for at in 0..chunk.times.len() {
                            let key = store.series_key(chunk.series.value(at));
                            let host = key.and_then(|key| key.tag("host").map(str::to_owned)).unwrap_or_default();
                            found.push((host, chunk.times.value(at) - NOW.0, chunk.values.value(at)));
                        }
                    },
                    Err(error) => {
                        let text = error.to_string();
                        assert!(in_segment && text.contains(name.trim_start_matches("segments/")), "{what}: {text}");
                        assert!(text.contains("tidegate check"), "{text}");
                    }
                }
                let decisions = store.scan_decisions(0, i64::MAX).map_or(0, |rows| rows.len());
                let events = store.scan_events(0, i64::MAX).map_or(0, |rows| rows.len());
                (found, decisions, events)
            }));
            let Ok((found, decisions, events)) = read else { panic!("reading panicked: {what}") };
            assert!(decisions <= 3 && events <= 3, "{what}");
            if !in_segment {
                // Every record has a checksum: what is there is right, and the segments' part is there.
                assert!(found.iter().all(|row| rows.contains(row)), "{what}");
                assert!(found.len() >= 80, "{what}: {} rows", found.len());
            }
        });
    }
}
