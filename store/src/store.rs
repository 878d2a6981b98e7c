//! The store itself: its parts, its locks, and how it comes back from a data directory.
//!
//! Locks are taken in this order: compacting (one compaction at a time), catalog (one flush at a time), wal (one writer at a time), series log, index, data. None
//! of them is held across an await.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tidegate_model::TimeMs;
use tokio::sync::Semaphore;

use crate::catalog::{CATALOG, Catalog, SegmentKind, SegmentMeta};
use crate::config::StoreConfig;
use crate::dir::DataDir;
use crate::error::StoreError;
use crate::facts::FactBook;
use crate::functions::Recents;
use crate::history::History;
use crate::hot::{Data, Generation, Row};
use crate::memory::RuleMemory;
use crate::newest::{LookUps, Newest};
use crate::news::NewsBoard;
use crate::query::Plans;
use crate::query::session::QueryThreads;
use crate::remote::{Bucket, SegmentCache, UploadProgress};
use crate::segment::horizon::Horizons;
use crate::segment::page_cache::PageCache;
use crate::segment::{Segment, SegmentList};
use crate::tables::{KnownNames, LabelCache};
use crate::write::record::Record;
use crate::write::series::SeriesIndex;
use crate::write::series_log::SeriesLog;
use crate::write::wal::{self, GroupCommit, Wal};

/// The embedded time-series database. Only ever inside an [`Arc`]; dropping the last one releases the data directory.
pub struct Store {
    pub(crate) config: StoreConfig,
    pub(crate) index: RwLock<SeriesIndex>,
    pub(crate) data: RwLock<Data>,
    pub(crate) catalog: Mutex<Catalog>,
    pub(crate) compacting: Mutex<()>,
    /// What the retention hides; as the catalog has it.
    pub(crate) horizons: Arc<Horizons>,
    /// Of all segments.
    pub(crate) pages: Arc<PageCache>,
    /// The writer lock. Shared, since a sync in progress outlives whoever asked for it.
    pub(crate) wal: Arc<Mutex<Wal>>,
    pub(crate) commit: GroupCommit,
    pub(crate) series_log: SeriesLog,
    pub(crate) facts: FactBook,
    pub(crate) memory: RuleMemory,
    /// What queries know of series.
    pub(crate) labels: LabelCache,
    pub(crate) known_names: KnownNames,
    pub(crate) lookups: Mutex<LookUps>,
    pub(crate) recents: Recents,
    /// Where segments are besides the data directory, if anywhere.
    pub(crate) remote: Option<Arc<SegmentCache>>,
    /// Taken before the catalog.
    pub(crate) upload_progress: UploadProgress,
    pub(crate) history: History,
    pub(crate) news: NewsBoard,
    pub(crate) counters: Counters,
    /// Dropped before what queries read.
    pub(crate) interactive: QueryThreads,
    /// As `interactive`.
    pub(crate) rules: QueryThreads,
    pub(crate) plans: Plans,
    /// One permit for each interactive query that may run. Shared, since a query may outlive whoever asked for it.
    pub(crate) query_slots: Arc<Semaphore>,
    /// See [`Store::open_scratch`].
    pub(crate) scratch: bool,
    me: Weak<Store>,
    /// Last, so that the lock is released after everything else.
    pub(crate) dir: DataDir,
}

/// Counts since the start.
#[derive(Default)]
pub(crate) struct Counters {
    pub appended: AtomicU64,
    pub rejected: AtomicU64,
    pub queries: AtomicU64,
    pub plans: AtomicU64,
    pub compactions: AtomicU64,
    pub compacted_rows: AtomicU64,
    /// In ms UTC; 0 before the first.
    pub last_append: AtomicI64,
    /// As `last_append`.
    pub last_flush: AtomicI64,
}

/// How much there is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Series known.
    pub series: usize,
    /// Metrics known.
    pub metrics: usize,
    /// Samples in memory, duplicates included.
    pub hot_samples: usize,
    /// Segments on disk.
    pub segments: usize,
    /// Their size, roll-ups included.
    pub segment_bytes: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Samples stored since the start.
    pub appended_total: u64,
    /// Samples refused since the start.
    pub rejected_total: u64,
    /// Queries run since the start.
    pub queries_total: u64,
    /// Plans made for them since the start; other queries ran a plan that was kept.
    pub plans_total: u64,
    /// Compactions since the start.
    pub compactions_total: u64,
    /// Rows that they wrote.
    pub compacted_rows_total: u64,
    /// The last append since the start.
    pub last_append: Option<TimeMs>,
    /// The last flush that wrote something.
    pub last_flush: Option<TimeMs>,
}

impl Store {
    /// Opens a data directory, made when there is none, and replays its write-ahead log. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used: it is in use by another process, holds something else, was written by a later
    /// version, or is damaged in a part that nothing can stand in for.
    pub fn open(config: StoreConfig, now: TimeMs) -> Result<Arc<Store>, StoreError> {
        Self::open_as(config, now, false)
    }

    /// A store that goes with whoever opened it, as that of a backtest: samples, decisions and events are in memory only until
    /// they are flushed, and queries run where they are asked, on threads of whoever asks, which need [`crate::QUERY_STACK_BYTES`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_scratch(config: StoreConfig, now: TimeMs) -> Result<Arc<Store>, StoreError> {
        Self::open_as(config, now, true)
    }

    fn open_as(config: StoreConfig, now: TimeMs, scratch: bool) -> Result<Arc<Store>, StoreError> {
        config.check()?;
        let dir = DataDir::open(&config.dir)?;
        let mut catalog = Catalog::load(dir.path())?;
        if !dir.path().join(CATALOG).exists() {
            catalog.save(dir.path())?; // so that the directory can be told from a foreign one
        }
        let remote = open_remote(&config, &dir, &mut catalog)?;
        let horizons = Arc::new(Horizons::new(catalog.horizons.clone()));
        let pages = Arc::new(PageCache::new(config.page_cache_bytes));
        let open = |meta| Segment::new(&dir.segments(), meta, &horizons, &pages);
        let segments = open_segments(&dir.segments(), &catalog, open, remote.is_some())?;
        let in_segments = segments.0.iter().map(|segment| segment.meta.max_time.0).max().unwrap_or(i64::MIN);
        let mut index = SeriesIndex::default();
        index.reserve_below(catalog.next_series);
        let series_log = open_series(dir.path(), &mut index, &segments, catalog.series_bytes)?;
        let newest = Newest::new(in_segments);
        let mut replay = Replay { index, series_log, generations: Vec::new(), files: Vec::new(), newest };
        let mut next_wal = catalog.wal_floor;
        for (number, path) in wal::files_from(&dir.wal(), catalog.wal_floor)? {
            replay.file(number, &path)?;
            next_wal = number + 1;
        }
        replay.index.date_unknown(now.0, in_segments);
        let wal = Wal::begin(&dir.wal(), next_wal, replay.files)?;
        let facts = FactBook::load(dir.path())?;
        let memory = RuleMemory::load(dir.path());
        let counters = Counters::default();
        counters.last_flush.store(catalog.last_flush.map_or(0, |time| time.0), Ordering::Relaxed);
        let active = Generation::new(next_wal, replay.newest);
        let data = Data { closed: replay.generations, active, segments: Arc::new(segments) };
        Ok(Arc::new_cyclic(|me| Store {
            query_slots: Arc::new(Semaphore::new(config.max_concurrent_queries.clamp(1, Semaphore::MAX_PERMITS))),
            history: History::new(&config),
            config,
            index: RwLock::new(replay.index),
            data: RwLock::new(data),
            catalog: Mutex::new(catalog),
            compacting: Mutex::new(()),
            horizons,
            pages,
            wal: Arc::new(Mutex::new(wal)),
            commit: GroupCommit::default(),
            series_log: replay.series_log,
            facts,
            memory,
            labels: LabelCache::default(),
            known_names: KnownNames::default(),
            lookups: Mutex::default(),
            recents: Recents::default(),
            remote,
            upload_progress: UploadProgress::default(),
            news: NewsBoard::default(),
            counters,
            plans: Plans::default(),
            interactive: QueryThreads::new("tidegate-query"),
            rules: QueryThreads::new("tidegate-rules"),
            scratch,
            me: me.clone(),
            dir,
        }))
    }

    /// Whether it keeps nothing and answers on the threads of those who ask; see [`Store::open_scratch`].
    pub fn is_scratch(&self) -> bool {
        self.scratch
    }

    /// How it was set up.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Figures for status pages.
    pub fn stats(&self) -> StoreStats {
        let time = |at: &AtomicI64| Some(at.load(Ordering::Relaxed)).filter(|at| *at != 0).map(TimeMs);
        let (segments, segment_bytes) = {
            let data = self.data.read();
            (data.segments.0.len(), data.segments.0.iter().map(|segment| segment.meta.all_bytes()).sum())
        };
        let (series, metrics) = {
            let index = self.index.read();
            (index.len(), index.metrics().len())
        };
        StoreStats {
            series,
            metrics,
            hot_samples: self.hot_samples(),
            segments,
            segment_bytes,
            wal_bytes: self.wal.lock().total_bytes(),
            appended_total: self.counters.appended.load(Ordering::Relaxed),
            rejected_total: self.counters.rejected.load(Ordering::Relaxed),
            queries_total: self.counters.queries.load(Ordering::Relaxed),
            plans_total: self.counters.plans.load(Ordering::Relaxed),
            compactions_total: self.counters.compactions.load(Ordering::Relaxed),
            compacted_rows_total: self.counters.compacted_rows.load(Ordering::Relaxed),
            last_append: time(&self.counters.last_append),
            last_flush: time(&self.counters.last_flush),
        }
    }

    /// Drops what is in memory and older than `before`, without writing it anywhere; about a chunk's worth of it may stay. What
    /// else is known stays as it is, so that whoever follows what happens goes on. For a scratch store of which nobody asks
    /// about older times; any other keeps everything.
    pub fn forget_before(&self, before: TimeMs) {
        if !self.scratch {
            return;
        }
        let mut data = self.data.write();
        data.active.forget_before(before.0);
        data.closed.retain(|generation| generation.times().is_some_and(|(_, latest)| latest >= before.0));
    }

    pub(crate) fn hot_samples(&self) -> usize {
        self.data.read().generations().map(Generation::samples).sum()
    }

    /// The store as something that may outlive the borrow: for blocking threads and running queries. Nothing that the
    /// store itself owns may keep it, or the store would never be dropped and its directory stay locked.
    pub(crate) fn shared(&self) -> Arc<Store> {
        self.me.upgrade().expect("a store that is being borrowed is inside a living Arc: `open` makes no other")
    }
}

/// What the replay fills.
struct Replay {
    index: SeriesIndex,
    series_log: SeriesLog,
    generations: Vec<Arc<Generation>>,
    /// Log files that stay, with their sizes.
    files: Vec<(u64, u64)>,
    newest: Newest,
}

impl Replay {
    fn file(&mut self, number: u64, path: &Path) -> Result<(), StoreError> {
        let newest = std::mem::replace(&mut self.newest, Newest::new(i64::MIN));
        let mut generation = Generation::new(number, newest);
        let mut lost = 0usize;
        let bytes = wal::replay(path, |record| match record {
            Record::Series(series) => {
                for (id, key) in series {
                    let known = self.index.id(&key) == Some(id);
                    self.index.insert(id, key);
                    if !known {
                        self.series_log.add(self.index.key(id).map(|key| (id, key)));
                    }
                }
            }
            Record::Samples { arrived, columns } => {
                let rows = columns.series.iter().zip(&columns.times).zip(&columns.values);
                let known = rows.filter_map(|((&series, &time), &value)| {
                    let metric = self.index.touch(series, time);
                    lost += usize::from(metric.is_none());
                    Some((metric?, Row { series, time, value }))
                });
                generation.push(arrived, known);
            }
            Record::Decisions { arrived, rows } => generation.push_decisions(arrived, rows),
            Record::Events { arrived, rows } => generation.push_events(arrived, rows),
        })?;
        self.newest = generation.close();
        if lost > 0 {
            tracing::warn!(file = %path.display(), samples = lost, "samples without a series definition skipped");
        }
        if bytes == 0 {
            // A process that stored nothing left it.
            return fs::remove_file(path).map_err(StoreError::io("remove", path));
        }
        self.generations.push(Arc::new(generation));
        self.files.push((number, bytes));
        Ok(())
    }
}

/// The object store behind the directory. What another one has is uploaded anew, as far as it is here.
fn open_remote(
    config: &StoreConfig,
    dir: &DataDir,
    catalog: &mut Catalog,
) -> Result<Option<Arc<SegmentCache>>, StoreError> {
    let configured = config.object_store.as_ref().map(Bucket::new).transpose()?;
    if configured.as_ref().map(Bucket::url) != catalog.remote_url.as_deref() {
        let here = |meta: &SegmentMeta| meta.files().all(|file| dir.segments().join(file).exists());
        let elsewhere = catalog.segments.iter().filter(|meta| meta.remote && !here(meta)).count();
        if elsewhere > 0 {
            let url = catalog.remote_url.clone().unwrap_or_default();
            return Err(StoreError::RemoteOnly { segments: elsewhere, url });
        }
        if configured.is_some() {
            catalog.segments.iter_mut().for_each(|meta| meta.remote = false);
        }
    }
    let Some(bucket) = configured else { return Ok(None) };
    SegmentCache::attach(&dir.segments(), bucket, catalog).map(Some)
}

/// The segments that the catalog names; what it does not name is left over from a crash and removed.
fn open_segments(
    dir: &Path,
    catalog: &Catalog,
    open: impl Fn(SegmentMeta) -> Segment,
    has_remote: bool,
) -> Result<SegmentList, StoreError> {
    let mut there = HashSet::new();
    let named: HashSet<&str> = catalog.segments.iter().flat_map(SegmentMeta::files).collect();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let path = entry.map_err(StoreError::io("list", dir))?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if named.contains(name.as_str()) {
            there.insert(name);
        } else if name.ends_with(".parquet") {
            tracing::info!(file = %path.display(), "segment that no flush or compaction completed removed");
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    let found = |meta: &SegmentMeta| {
        // Roll-ups can be done without.
        let is_there = |file: &String| there.contains(file) || (meta.remote && has_remote);
        let mut meta = meta.clone();
        meta.rollups.retain(|rollup| is_there(&rollup.file));
        let segment = open(meta);
        // Going on without it is better for the hosts than not starting; its rows are lost either way.
        if !is_there(&segment.meta.file) {
            tracing::error!(file = %segment.path.display(), rows = segment.meta.rows, "segment is missing, its rows are lost");
            return None;
        }
        Some(Arc::new(segment))
    };
    Ok(SegmentList(catalog.segments.iter().filter_map(found).collect()))
}

/// Reads the series log, of which `durable` bytes must be there; what is missing in it is restored from the segments, which name their series too.
fn open_series(
    dir: &Path,
    index: &mut SeriesIndex,
    segments: &SegmentList,
    durable: u64,
) -> Result<SeriesLog, StoreError> {
    let (log, state) = SeriesLog::open(dir, index)?;
    // What was added since is in the write-ahead log too. An earlier version did not note how much must be there.
    let incomplete = state.intact_bytes < durable || (state.damaged && durable == 0);
    if incomplete {
        for segment in segments.overlapping(SegmentKind::Samples, i64::MIN, i64::MAX) {
            // One that cannot be read itself has no samples either whose series would be missed.
            if let Err(error) = segment.read_series(|id, key| index.insert(id, key)) {
                tracing::error!(%error, "its series cannot be restored from it");
            }
        }
    }
    if state.damaged || incomplete {
        log.rewrite(dir, || index.all())?;
    }
    Ok(log)
}
