//! The store's background work: syncing the log each second, flushing and retention every few minutes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_model::Clock;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Durability;
use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// Runs until `shutdown` is cancelled, then closes the store. What fails is logged and tried again.
    pub async fn maintain(self: Arc<Self>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let flush_every = Duration::from_secs(self.config.flush_every_s.max(1));
        let mut last_flush = Instant::now();
        let uploads = tokio::spawn(self.clone().upload_until(shutdown.clone()));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = every_second.tick() => {}
            }
            if self.config.durability == Durability::Interval && !self.commit.stopped() {
                log_failure("sync", self.commit.wait_for_all(&self.wal).await);
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
        }
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
            store.facts.write_rest(store.dir.path())
        });
        write.await.map_err(|error| StoreError::Interrupted { what: "close", why: error.to_string() })?
    }
}

fn log_failure<T>(what: &str, outcome: Result<T, StoreError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "{what} failed");
    }
}
