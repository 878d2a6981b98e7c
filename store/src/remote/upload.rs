//! Rounds of uploads: new segments, then the catalog that names them, then what is no longer needed goes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{OWNER, SegmentCache};
use crate::catalog::{CATALOG, Catalog, SegmentMeta};
use crate::dir::{FACTS, SEGMENTS, SERIES};
use crate::error::StoreError;
use crate::keep::checksum;
use crate::segment::{Segment, SegmentList};
use crate::store::Store;
use crate::write::record;

/// From the end of one round to the next.
const EVERY: Duration = Duration::from_secs(10);
/// After failures the wait doubles up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a round of uploads did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadReport {
    /// Segments that the object store has now and had not before.
    pub uploaded: usize,
    /// Whether its catalog was replaced.
    pub catalog: bool,
    /// Objects that nothing names any more and that are gone.
    pub deleted: usize,
    /// Segments removed from the data directory, since only so much may stay there.
    pub dropped: usize,
}

/// What one round leaves for the next.
#[derive(Default)]
pub(crate) struct Progress {
    /// The files in the bucket; listed in the first round.
    objects: Option<HashSet<String>>,
    /// Checksum of each small object as it was last put.
    put: HashMap<&'static str, u32>,
}

/// Whose prefix it is.
#[derive(Serialize, Deserialize)]
struct Owner {
    store: String,
}

impl Store {
    /// Uploads every few seconds until `shutdown`; returns at once when there is no object store.
    pub(crate) async fn upload_until(self: Arc<Self>, shutdown: CancellationToken) {
        if self.remote.is_none() {
            return;
        }
        let mut wait = EVERY;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let (store, stop) = (self.clone(), shutdown.clone());
            let round = tokio::task::spawn_blocking(move || store.upload_round(&|| stop.is_cancelled())).await;
            wait = match round {
                Ok(Ok(report)) => {
                    if report != UploadReport::default() {
                        tracing::debug!(?report, "uploaded");
                    }
                    EVERY
                }
                Ok(Err(error)) => {
                    let wait = (wait * 2).min(LONGEST_WAIT);
                    tracing::error!(%error, next_try_s = wait.as_secs(), "segments stay on this machine alone for now");
                    wait
                }
                Err(error) => {
                    tracing::error!(%error, "uploading broke down");
                    LONGEST_WAIT
                }
            };
        }
    }

    /// Uploads everything that is new. Blocks.
    ///
    /// # Errors
    /// The object store cannot be reached or belongs to another store; the next round goes on where this one stopped.
    pub async fn upload(&self) -> Result<UploadReport, StoreError> {
        let store = self.shared();
        let round = tokio::task::spawn_blocking(move || store.upload_round(&|| false));
        round.await.map_err(|error| StoreError::Interrupted { what: "uploading", why: error.to_string() })?
    }

    fn upload_round(&self, stop: &dyn Fn() -> bool) -> Result<UploadReport, StoreError> {
        let Some(cache) = &self.remote else { return Ok(UploadReport::default()) };
        // Held throughout: one round at a time.
        let mut progress = self.upload_progress.lock();
        let mut report = UploadReport::default();
        let mut objects = match progress.objects.take() {
            Some(objects) => objects,
            None => {
                self.claim(cache)?;
                cache.bucket.list(SEGMENTS)?.into_iter().collect()
            }
        };
        let outcome = self.upload_new(cache, &mut objects, stop, &mut report).and_then(|()| {
            self.upload_catalog(cache, &mut progress, &mut objects, &mut report)?;
            report.dropped = self.drop_local(cache)?;
            Ok(())
        });
        progress.objects = Some(objects);
        outcome.map(|()| report)
    }

    /// Makes sure that nobody else's segments lie below the prefix.
    fn claim(&self, cache: &SegmentCache) -> Result<(), StoreError> {
        let id = {
            let mut catalog = self.catalog.lock();
            if catalog.store_id.is_none() || catalog.remote_url.as_deref() != Some(cache.bucket.url()) {
                let mut next = catalog.clone();
                // The standard library's map keys are the random numbers at hand.
                next.store_id
                    .get_or_insert_with(|| format!("{:016x}", RandomState::new().hash_one(std::process::id())));
                next.remote_url = Some(cache.bucket.url().to_owned());
                next.save(self.dir.path())?;
                *catalog = next;
            }
            catalog.store_id.clone().unwrap_or_default()
        };
        let url = || cache.bucket.url().to_owned();
        let garbled =
            |error: serde_json::Error| StoreError::ObjectStoreSetting { url: url(), why: format!("{OWNER}: {error}") };
        match cache.bucket.get(OWNER)? {
            None => {
                let owner = serde_json::to_vec(&Owner { store: id }).map_err(garbled)?;
                cache.bucket.put(OWNER, owner)
            }
            Some(bytes) => {
                let owner: Owner = serde_json::from_slice(&bytes).map_err(garbled)?;
                if owner.store == id {
                    return Ok(());
                }
                let why = format!("it belongs to another store ({}): choose another prefix", owner.store);
                Err(StoreError::ObjectStoreSetting { url: url(), why })
            }
        }
    }

    fn upload_new(
        &self,
        cache: &SegmentCache,
        objects: &mut HashSet<String>,
        stop: &dyn Fn() -> bool,
        report: &mut UploadReport,
    ) -> Result<(), StoreError> {
        // Held as segments, so that retention and compaction leave the files until they were sent.
        let segments = self.data.read().segments.clone();
        let new: HashSet<String> =
            self.catalog.lock().segments.iter().filter(|meta| !meta.remote).map(|meta| meta.file.clone()).collect();
        for segment in segments.0.iter().filter(|segment| new.contains(&segment.meta.file)) {
            if stop() {
                return Ok(());
            }
            let mut sums = HashMap::new();
            for (file, wanted) in segment.meta.sums() {
                let path = self.dir.segments().join(file);
                let (crc32, _) = checksum(&path)?;
                if let Some(wanted) = wanted.filter(|wanted| *wanted != crc32) {
                    let message = format!("its checksum is {crc32:08x} instead of {wanted:08x}");
                    return Err(StoreError::SegmentDamaged { path, message });
                }
                cache.bucket.put_file(&format!("{SEGMENTS}/{file}"), &path)?;
                objects.insert(file.to_owned());
                sums.insert(file.to_owned(), crc32);
            }
            self.note_remote(cache, &segment.meta, sums)?;
            report.uploaded += 1;
        }
        Ok(())
    }

    /// Notes in the catalog that the object store has a segment, unless it was removed meanwhile.
    fn note_remote(
        &self,
        cache: &SegmentCache,
        meta: &SegmentMeta,
        sums: HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        sums.iter().for_each(|(file, crc32)| cache.note_stored(file, *crc32));
        let mut catalog = self.catalog.lock();
        let mut next = catalog.clone();
        let Some(named) = next.segments.iter_mut().find(|named| named.file == meta.file) else { return Ok(()) };
        named.remote = true;
        // What an earlier version wrote has none.
        named.crc32 = sums.get(&named.file).copied().or(named.crc32);
        for rollup in &mut named.rollups {
            rollup.crc32 = sums.get(&rollup.file).copied().or(rollup.crc32);
        }
        next.save(self.dir.path())?;
        *catalog = next;
        Ok(())
    }

    fn upload_catalog(
        &self,
        cache: &SegmentCache,
        progress: &mut Progress,
        objects: &mut HashSet<String>,
        report: &mut UploadReport,
    ) -> Result<(), StoreError> {
        let (catalog, series, facts) = {
            let catalog = self.catalog.lock();
            let mut remote = Catalog::clone(&catalog);
            remote.segments.retain(|meta| meta.remote);
            remote.next_series = self.index.read().next_id();
            let known = self.index.read().all();
            let mut series = Vec::new();
            record::put_series(&mut series, known.iter().map(|(id, key)| (*id, key.as_ref())));
            (remote, series, self.facts.to_json()?)
        };
        let named: HashSet<String> = catalog.segments.iter().flat_map(|meta| meta.files().map(str::to_owned)).collect();
        // The catalog last: it is what makes the others count.
        for (name, bytes) in [(SERIES, series), (FACTS, facts), (CATALOG, catalog.to_json()?)] {
            let sum = crc32fast::hash(&bytes);
            if progress.put.get(name) != Some(&sum) {
                cache.bucket.put(name, bytes)?;
                progress.put.insert(name, sum);
                report.catalog |= name == CATALOG;
            }
        }
        // Not before the catalog there has stopped naming them.
        let gone: Vec<String> = objects.difference(&named).cloned().collect();
        for file in gone {
            cache.bucket.delete(&format!("{SEGMENTS}/{file}"))?;
            objects.remove(&file);
            report.deleted += 1;
        }
        Ok(())
    }

    /// Removes segments that the object store has from the directory, the oldest first, until the rest fits. Gives how many.
    fn drop_local(&self, cache: &SegmentCache) -> Result<usize, StoreError> {
        let Some(most) = self.config.local_cache_bytes else { return Ok(0) };
        let dir = self.dir.segments();
        let local_bytes = |meta: &SegmentMeta| -> u64 {
            meta.files().filter_map(|file| Some(fs::metadata(dir.join(file)).ok()?.len())).sum()
        };
        // Held: no compaction may begin to read what is about to go, and none that is named may go for good meanwhile.
        let catalog = self.catalog.lock();
        let mut here: Vec<(u64, &SegmentMeta)> =
            catalog.segments.iter().map(|meta| (local_bytes(meta), meta)).filter(|(bytes, _)| *bytes > 0).collect();
        let mut total: u64 = here.iter().map(|(bytes, _)| bytes).sum();
        // What was just fetched is being read; among the others the oldest is asked for least.
        let recently = |meta: &SegmentMeta| {
            cache.fetched_at(&meta.file).is_some_and(|at| Instant::now().duration_since(at) < LONGEST_WAIT)
        };
        here.sort_by_key(|(_, meta)| (recently(meta), meta.max_time));
        let mut dropped = HashSet::new();
        for (bytes, meta) in here.iter().filter(|(_, meta)| meta.remote) {
            if total <= most {
                break;
            }
            dropped.insert(meta.file.as_str());
            total -= bytes;
        }
        if dropped.is_empty() {
            return Ok(0);
        }
        // Readers that have a file open keep it; the segments are made anew so that nobody else does.
        let mut data = self.data.write();
        let renew = |segment: &Arc<Segment>| match dropped.contains(segment.meta.file.as_str()) {
            true => Arc::new(Segment::new(&dir, segment.meta.clone(), &self.horizons, &self.pages)),
            false => segment.clone(),
        };
        data.segments = Arc::new(SegmentList(data.segments.0.iter().map(renew).collect()));
        drop(data);
        for (_, meta) in here.iter().filter(|(_, meta)| dropped.contains(meta.file.as_str())) {
            for file in meta.files() {
                let path = dir.join(file);
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(file = %path.display(), %error, "uploaded segment stays in the data directory");
                }
            }
        }
        Ok(dropped.len())
    }
}

/// What rounds of uploads share.
pub(crate) type UploadProgress = Mutex<Progress>;
