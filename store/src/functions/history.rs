//! `history(half_life)`: one row per host, container and resource with what its usage was like, older samples counting less.

use std::sync::Arc;

use super::made::{Made, Making};
use super::roster::{Version, version, watch};
use super::span::span_ms;
use crate::history::Decayed;
use crate::tables::{Column, Kind, Subject, UTC, schema_of};
use arrow::array::{
    ArrayRef, Float64Builder, Int64Builder, RecordBatch, StringViewBuilder, TimestampMillisecondBuilder,
};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::Expr;

/// The shortest half-life. What is shorter is a question for `recent(window)` or `ewma`.
const SHORTEST_MS: i64 = 60_000;
const PERCENTILES: [(f64, &str); 5] =
    [(0.5, "usage_p50"), (0.9, "usage_p90"), (0.95, "usage_p95"), (0.98, "usage_p98"), (0.99, "usage_p99")];

/// Half-lives of which the last answer is kept.
const MAX_ANSWERED: usize = 4;

/// The last answer about a half-life: several rules of an instant ask the same.
pub(super) struct Answered {
    half_life_ms: i64,
    now: i64,
    version: Version,
    rows: RecordBatch,
}

/// The columns of `history(half_life)`.
pub(crate) fn history_columns() -> Vec<Column> {
    let text = |name: &str, doc: &str| Column::new(name, Kind::Text, doc);
    let double = |name: &str, doc: &str| Column::new(name, Kind::Double, doc);
    let mut columns = vec![
        text("host", "the host; empty where it is not known"),
        text("container", "the container's name"),
        text("app", "the container's app, if any"),
        text("resource", "cpu, memory, disk_read, disk_write, net_receive or net_send"),
        Column::new("samples", Kind::Integer, "measurements in all, whatever their age"),
        Column::new("first_seen", Kind::Time, "when the first of them was taken"),
        double("age", "seconds from the newest measurement to now()"),
        double("usage_avg", "mean, a measurement weighing 2^(-age / half_life); cores or bytes"),
    ];
    columns.extend(PERCENTILES.iter().map(|(p, name)| {
        let doc = format!("{:.0}th percentile with the same weights; at most 5 % too high", p * 100.0);
        double(name, &doc)
    }));
    columns.extend([
        double("usage_max", "peak, whatever its age"),
        double("usage_peak", "largest measurement after each has decayed to value * 2^(-age / half_life)"),
        double("confidence", "days of history, or measurements / 1440, whatever is less"),
    ]);
    columns
}

/// The table function.
#[derive(Debug)]
pub(crate) struct HistoryFunction;

impl TableFunctionImpl for HistoryFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(half_life, _)] = args.exprs() else {
            return plan_err!("history() takes one constant half-life: history(INTERVAL '24 hours') or history(86400)");
        };
        let half_life_ms = span_ms(half_life, "the half-life of history()")?;
        if half_life_ms < SHORTEST_MS {
            return plan_err!("the half-life of history() is a minute or more");
        }
        let make = Arc::new(move |making: &Making| {
            let (store, now) = (&making.run.store, making.run.now.0);
            let mut made = store.recents.histories(&making.run)?;
            let is_same = |known: &&Answered| (known.half_life_ms, known.now) == (half_life_ms, now);
            if let Some(known) = made.iter().find(is_same).filter(|known| known.version == version(store)) {
                return Ok(known.rows.clone());
            }
            // Before anything is read, so that what arrives meanwhile is noticed.
            let version = watch(store, now);
            let mut rows = Rows::new(half_life_ms, now);
            store.history.each(store, half_life_ms, now, making, |subject, decayed| rows.push(subject, decayed))?;
            let rows = rows.finish()?;
            made.retain(|known| known.half_life_ms != half_life_ms);
            if made.len() >= MAX_ANSWERED {
                made.remove(0);
            }
            made.push(Answered { half_life_ms, now, version, rows: rows.clone() });
            Ok(rows)
        });
        Ok(Arc::new(Made {
            operator: "HistoryExec",
            name: format!("half_life={half_life_ms} ms"),
            schema: schema_of(&history_columns()),
            make,
        }))
    }
}

/// The rows in columns.
struct Rows {
    half_life_ms: i64,
    now: i64,
    texts: [StringViewBuilder; 4],
    samples: Int64Builder,
    first_seen: TimestampMillisecondBuilder,
    doubles: Vec<Float64Builder>,
}

impl Rows {
    fn new(half_life_ms: i64, now: i64) -> Self {
        Self {
            half_life_ms,
            now,
            texts: std::array::from_fn(|_| StringViewBuilder::new()),
            samples: Int64Builder::new(),
            first_seen: TimestampMillisecondBuilder::new().with_timezone(UTC),
            doubles: (0..5 + PERCENTILES.len()).map(|_| Float64Builder::new()).collect(),
        }
    }

    fn push(&mut self, subject: &Subject, row: &Decayed) {
        let texts = [Some(&subject.host), Some(&subject.container), row.app.as_ref(), Some(&subject.resource)];
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_option(text));
        self.samples.append_value(i64::try_from(row.samples).unwrap_or(i64::MAX));
        self.first_seen.append_value(row.first);
        let percentiles = row.percentiles(PERCENTILES.map(|(p, _)| p)).map(Some);
        let doubles = [Some((self.now - row.last) as f64 / 1000.0), row.mean()].into_iter().chain(percentiles);
        let peaks = [row.max, row.peak(self.now, self.half_life_ms), row.confidence()];
        self.doubles
            .iter_mut()
            .zip(doubles.chain(peaks.map(Some)))
            .for_each(|(column, value)| column.append_option(value));
    }

    fn finish(mut self) -> Result<RecordBatch> {
        let texts = self.texts.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        let counted: [ArrayRef; 2] = [Arc::new(self.samples.finish()), Arc::new(self.first_seen.finish())];
        let doubles = self.doubles.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        let columns = texts.chain(counted).chain(doubles).collect();
        Ok(RecordBatch::try_new(schema_of(&history_columns()), columns)?)
    }
}
