//! The store's background work: syncing the log each second, flushing and retention every few minutes, and compaction on a
//! thread of its own whenever one is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_model::{Clock, TimeMs};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Durability;
use crate::error::StoreError;
use crate::segment::compact::{CompactReport, Due};
use crate::segment::merge::Pace;
use crate::store::Store;

impl Store {
    /// Runs until `shutdown` is cancelled, then closes the store. What fails is logged and tried again.
    pub async fn maintain(self: Arc<Self>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let flush_every = Duration::from_secs(self.config.flush_every_s.max(1));
        let (mut last_flush, mut last_memory) = (Instant::now(), Instant::now());
        let uploads = tokio::spawn(self.clone().upload_until(shutdown.clone()));
        let mut compaction = Compaction::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = every_second.tick() => {}
            }
            if self.config.durability == Durability::Interval && !self.commit.stopped() {
                log_failure("sync", self.commit.wait_for_all(&self.wal).await);
            }
            if self.history.is_behind(clock.now()) {
                let (store, now) = (Arc::clone(&self), clock.now());
                let caught_up = tokio::task::spawn_blocking(move || store.history.catch_up(&store, now)).await;
                log_failure("history", caught_up.unwrap_or(Ok(())));
            }
            // Also after a failure only every `flush_every`, unless memory is what presses.
            let crowded = self.hot_samples() > self.config.max_hot_samples && last_flush.elapsed().as_secs() >= 5;
            if crowded {
                log_failure("flush", self.flush(clock.now()).await);
                last_flush = Instant::now();
            } else if last_flush.elapsed() >= flush_every {
                log_failure("flush", self.flush_aged(clock.now()).await);
                last_flush = Instant::now();
            }
            if last_memory.elapsed() >= MEMORY_EVERY {
                let store = Arc::clone(&self);
                let written = tokio::task::spawn_blocking(move || store.memory.write(store.dir.path())).await;
                log_failure("memory of rules", written.unwrap_or(Ok(())));
                last_memory = Instant::now();
            }
            compaction.begin_or_end(&self, clock.now()).await;
        }
        compaction.stop().await;
        log_failure(
            "upload",
            uploads.await.map_err(|error| StoreError::Interrupted { what: "uploading", why: error.to_string() }),
        );
        log_failure("close", self.close().await);
    }

    /// Makes everything durable; what is in memory is replayed from the log at the next start. The store can still be read
    /// and even written afterwards, but nobody syncs any more.
    pub async fn close(&self) -> Result<(), StoreError> {
        if !self.commit.stopped() {
            self.commit.wait_for_all(&self.wal).await?;
        }
        let store = self.shared();
        let write = tokio::task::spawn_blocking(move || {
            store.series_log.sync()?;
            store.memory.write(store.dir.path())?;
            store.facts.write_rest(store.dir.path())
        });
        write.await.map_err(|error| StoreError::Interrupted { what: "close", why: error.to_string() })?
    }
}

/// How often what rules remember is written.
const MEMORY_EVERY: Duration = Duration::from_secs(10);
/// Seconds from the end of one look for compactions to the next.
const LOOK_EVERY_S: u64 = 10;

/// The compaction that may be running.
#[derive(Default)]
struct Compaction {
    running: Option<JoinHandle<Result<CompactReport, StoreError>>>,
    stop: Arc<AtomicBool>,
    ended: Option<Instant>,
    failed: bool,
}

impl Compaction {
    async fn begin_or_end(&mut self, store: &Arc<Store>, now: TimeMs) {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end().await;
        }
        // What failed once most likely fails again, at the cost of all the work up to there.
        let wait_s = if self.failed { store.config.flush_every_s.max(LOOK_EVERY_S) } else { LOOK_EVERY_S };
        let rested = self.ended.is_none_or(|ended| ended.elapsed().as_secs() >= wait_s);
        if self.running.is_none() && rested {
            let (store, stop) = (store.clone(), self.stop.clone());
            self.running = Some(tokio::task::spawn_blocking(move || {
                store.compact_now(Due::Now(now), &Pace::new(store.config.compaction_share, &stop))
            }));
        }
    }

    async fn end(&mut self) {
        let Some(running) = self.running.take() else { return };
        let interrupted =
            |error: tokio::task::JoinError| StoreError::Interrupted { what: "compaction", why: error.to_string() };
        let outcome = running.await.map_err(interrupted).flatten();
        self.failed = outcome.is_err();
        if !self.stop.load(Ordering::Relaxed) {
            log_failure("compaction", outcome);
        }
        self.ended = Some(Instant::now());
    }

    /// Ends the compaction between two pieces of its work; nothing of it stays.
    async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.end().await;
    }
}

fn log_failure<T, E: std::fmt::Display>(what: &str, outcome: Result<T, E>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "{what} failed");
    }
}
