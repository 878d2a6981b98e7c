//! Pushed metrics that rules read by name: played again as they were, since what a limit would have changed in them is not
//! known.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::Array;
use tidegate_model::{SampleBatch, SeriesKey, TimeMs};
use tidegate_store::{OnLimit, QueryOptions, Store};

use super::trace::Trace;
use crate::error::{PolicyError, PolicyErrorKind};
use crate::parse::{self, Statement};
use crate::proposal::{numbers, text_at, texts, times};
use crate::reads::Reads;

/// Most samples of pushed metrics in one backtest; each takes 16 bytes.
const MOST_SAMPLES: usize = 20_000_000;
const TIMEOUT: Duration = Duration::from_secs(120);

/// The samples of one series, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// Metric and tags.
    pub key: SeriesKey,
    /// Times in ms UTC, ascending, with what was pushed.
    pub samples: Vec<(i64, f64)>,
}

/// The names of the metrics that the rules of a text read; none of a text that holds no rules.
pub fn pushed_metrics(rules: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for statement in parse::parse(rules).unwrap_or_default() {
        if let Statement::Create { query, .. } = statement {
            names.extend(Reads::of(&query.value).metrics);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

impl Trace {
    /// Adds what was pushed of `metrics` after `from` and up to `to`.
    ///
    /// # Errors
    /// The samples cannot be read, or are too many.
    pub async fn add_pushed(
        &mut self,
        store: &Store,
        metrics: &[String],
        from: TimeMs,
        to: TimeMs,
    ) -> Result<(), PolicyError> {
        let options = QueryOptions {
            timeout: TIMEOUT,
            max_rows: MOST_SAMPLES,
            on_limit: OnLimit::Fail,
            ..store.default_query_options(to)
        };
        let span = to.since(from).as_millis();
        for metric in metrics {
            let sql = format!(
                "SELECT time, tags, value FROM samples WHERE metric = '{}' \
                 AND time > now() - INTERVAL '{span} milliseconds' ORDER BY time",
                metric.replace('\'', "''")
            );
            let answer = store.query(&sql, &options).await.map_err(|error| {
                let message = format!("the samples of {metric} cannot be read: {}", error.message);
                PolicyError::new(PolicyErrorKind::Query, message).help("take a shorter span")
            })?;
            let mut series: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
            for batch in &answer.batches {
                let (Some(times), Some(tags), Some(values)) =
                    (times(batch, "time"), texts(batch, "tags"), numbers(batch, "value"))
                else {
                    continue;
                };
                for row in (0..batch.num_rows()).filter(|row| times.is_valid(*row) && values.is_valid(*row)) {
                    let tags = text_at(&tags, row).unwrap_or("{}");
                    match series.get_mut(tags) {
                        Some(samples) => samples.push((times.value(row), values.value(row))),
                        None => {
                            series.insert(tags.to_owned(), vec![(times.value(row), values.value(row))]);
                        }
                    }
                }
            }
            self.pushed.extend(series.into_iter().map(|(tags, samples)| {
                let tags: BTreeMap<String, String> = serde_json::from_str(&tags).unwrap_or_default();
                Pushed { key: SeriesKey::new(metric.as_str(), tags), samples }
            }));
        }
        Ok(())
    }

    /// The first sample of each pushed series: with them in a store, rules over the metrics can be checked. Each comes with
    /// the time at which it can be stored.
    pub(crate) fn first_pushed(&self) -> (SampleBatch, TimeMs) {
        let (mut batch, mut latest) = (SampleBatch::new(), i64::MIN);
        for Pushed { key, samples } in &self.pushed {
            if let Some((time, value)) = samples.first() {
                batch.push(key.clone(), TimeMs(*time), *value);
                latest = latest.max(*time);
            }
        }
        (batch, TimeMs(latest))
    }

    /// What was pushed after `from` and up to `to`.
    pub(crate) fn pushed_between(&self, from: TimeMs, to: TimeMs) -> SampleBatch {
        let mut batch = SampleBatch::new();
        for Pushed { key, samples } in &self.pushed {
            let start = samples.partition_point(|(time, _)| *time <= from.0);
            for (time, value) in samples[start..].iter().take_while(|(time, _)| *time <= to.0) {
                batch.push(key.clone(), TimeMs(*time), *value);
            }
        }
        batch
    }
}
