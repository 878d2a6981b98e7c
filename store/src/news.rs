//! Telling who waits for samples that some have arrived.

use parking_lot::Mutex;
use tidegate_model::metrics;
use tokio::sync::watch;

use crate::store::Store;

/// Counts batches of samples, and knows the last one of each metric while somebody wants to know.
#[derive(Default)]
pub(crate) struct NewsBoard {
    batches: watch::Sender<u64>,
    /// By metric number.
    last: Mutex<Vec<u64>>,
}

impl NewsBoard {
    /// Notes a batch of samples of `metrics` that is visible now.
    pub(crate) fn note(&self, metrics: &[u32]) {
        if self.batches.receiver_count() == 0 {
            return;
        }
        let number = *self.batches.borrow() + 1;
        {
            let mut last = self.last.lock();
            for &metric in metrics {
                let at = metric as usize;
                if at >= last.len() {
                    last.resize(at + 1, 0);
                }
                last[at] = number;
            }
        }
        self.batches.send_replace(number);
    }
}

/// Waits for samples.
pub struct News {
    batches: watch::Receiver<u64>,
    seen: u64,
}

impl News {
    /// Waits until a batch arrived that was not told yet. Returns what [`Store::arrived_since`] is asked with. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> u64 {
        let seen = self.seen;
        let newest = self.batches.wait_for(|number| *number > seen).await.ok().map(|number| *number);
        match newest {
            Some(newest) => self.seen = newest,
            // The store is gone with whatever could arrive.
            None => std::future::pending().await,
        }
        seen
    }
}

impl Store {
    /// To be told of samples from now on.
    pub fn news(&self) -> News {
        let batches = self.news.batches.subscribe();
        let seen = *batches.borrow();
        News { batches, seen }
    }

    /// Whether samples of one of these metrics arrived after a batch that [`News::next`] returned.
    pub fn arrived_since<'a>(&self, batch: u64, metrics: impl IntoIterator<Item = &'a str>) -> bool {
        let index = self.index.read();
        let last = self.news.last.lock();
        let arrived = |name: &str| index.metric_id(name).and_then(|metric| last.get(metric as usize));
        metrics.into_iter().any(|name| arrived(name).is_some_and(|last| *last > batch))
    }

    /// As [`Store::arrived_since`] for whatever tells what containers use.
    pub fn usage_arrived_since(&self, batch: u64) -> bool {
        let own = [metrics::USAGE, metrics::LIMIT, metrics::THROTTLED, metrics::PRESSURE_SOME, metrics::OOM_KILLS];
        let pushed = self.config.usage_maps.iter().flat_map(|map| map.metrics.iter().map(String::as_str));
        self.arrived_since(batch, own.into_iter().chain(pushed))
    }
}
