//! The operator that aggregates a table without showing its rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::{SortOptions, cast, take};
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

use super::grid::{Bins, Cell, Filling, Grid};
use super::groups::{groups_of, united};
use super::rolled::Rolled;
use super::visit::{Visit, Visitor};
use crate::error::StoreError;
use crate::query::guard::Stop;
use crate::query::run::Run;
use crate::segment::rollup::{Figures, RollupRow, Step};
use crate::tables::{Choice, Groups, Read, Reader, Selected, Slices, TimeRange, UTC, each_row, executed};

/// One column to group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The label expression at this place.
    Label(usize),
    /// Where the bin begins.
    Bin,
}

/// One aggregate of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
}

/// What is asked of the rows of a table.
#[derive(Debug)]
pub(super) struct Question {
    /// In the order of the output's columns.
    pub(super) keys: Vec<Key>,
    /// Over the table's label columns.
    pub(super) labels: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) bins: Bins,
    /// The output's columns after the keys.
    pub(super) functions: Vec<Function>,
}

impl Question {
    /// Whether the answer is the same in whichever order samples are added up: then roll-ups give it too, and labels that go
    /// together need not be told apart.
    fn is_any_order_right(&self) -> bool {
        let exact = [Function::Count, Function::Min, Function::Max];
        self.functions.iter().all(|function| exact.contains(function))
    }

    /// What has to be known of roll-ups: how many samples there are in any case, since a bin without any has no row.
    fn figures(&self) -> Figures {
        let figures = self.functions.iter().flat_map(|function| match function {
            Function::Min => &["min"][..],
            Function::Max => &["max"],
            // Bounds tell whether a sum is exact.
            Function::Sum | Function::Avg => &["sum", "min", "max"],
            Function::Count | Function::First | Function::Last => &[],
        });
        Figures::of(figures.copied().chain(["count"]))
    }

    /// Whether it is so as long as all sums are exact.
    fn is_right_when_exact(&self) -> bool {
        self.functions.iter().all(|function| !matches!(function, Function::First | Function::Last))
    }
}

/// Aggregates what a [`Reader`] would read.
#[derive(Clone, Debug)]
pub(crate) struct AggregateScan {
    reader: Arc<Reader>,
    question: Arc<Question>,
    schema: SchemaRef,
    /// Whether rows come in the order of their labels, then bins.
    in_order: bool,
}

/// An [`AggregateScan`] as an operator.
#[derive(Debug)]
pub(crate) struct AggregateScanExec {
    scan: AggregateScan,
    properties: Arc<PlanProperties>,
}

impl AggregateScanExec {
    /// `schema` has the keys, then the functions.
    pub(super) fn new(reader: Arc<Reader>, question: Question, schema: SchemaRef) -> Self {
        Self::of(AggregateScan { reader, question: Arc::new(question), schema, in_order: false })
    }

    /// The same with its rows in the order of their labels, as the keys name them, then of bins.
    pub(super) fn in_order(&self) -> Self {
        Self::of(AggregateScan { in_order: true, ..self.scan.clone() })
    }

    fn of(scan: AggregateScan) -> Self {
        let schema = Arc::clone(&scan.schema);
        let order: Vec<PhysicalSortExpr> = if scan.in_order { scan.order() } else { Vec::new() };
        let orders = (!order.is_empty()).then_some(order);
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, orders),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { scan, properties }
    }

    /// What it does, to be done without it.
    pub(crate) fn scan(&self) -> &AggregateScan {
        &self.scan
    }
}

impl AggregateScan {
    fn order(&self) -> Vec<PhysicalSortExpr> {
        let keys = self.question.keys.iter().zip(self.schema.fields()).enumerate();
        let column = |(at, (_, field)): (usize, (&Key, &FieldRef))| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
            PhysicalSortExpr::new(column, LABEL_ORDER)
        };
        let labels = keys.clone().filter(|(_, (key, _))| matches!(key, Key::Label(_)));
        let bin = keys.filter(|(_, (key, _))| **key == Key::Bin).take(1);
        labels.chain(bin).map(column).collect()
    }

    /// All rows of one run.
    ///
    /// # Errors
    /// When something cannot be read, or the run has to end.
    pub(crate) fn rows(&self, run: &Run, memory: MemoryReservation) -> Result<RecordBatch> {
        let Self { reader, question, schema, in_order } = self;
        let answer = Answer { range: reader.range(run)?, run, memory, reader, question, in_order: *in_order };
        answer.rows(schema)
    }
}

/// As SQL orders where it is not told otherwise.
const LABEL_ORDER: SortOptions = SortOptions { descending: false, nulls_first: false };

impl DisplayAs for AggregateScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question { keys, labels, bins, functions } = self.scan.question.as_ref();
        f.write_str("AggregateScanExec: ")?;
        self.scan.reader.describe(f)?;
        let key = |key: &Key| match (key, bins) {
            (Key::Label(at), _) => labels[*at].to_string(),
            (Key::Bin, Bins::Every(width)) => format!("time by {width} ms"),
            (Key::Bin, Bins::Whole) => "time".to_owned(),
        };
        let keys: Vec<String> = keys.iter().map(key).collect();
        let functions: Vec<String> = functions.iter().map(|function| format!("{function:?}").to_lowercase()).collect();
        write!(f, ", keys=[{}], aggregates=[{}]", keys.join(", "), functions.join(", "))?;
        if self.scan.in_order { f.write_str(", in order") } else { Ok(()) }
    }
}

impl ExecutionPlan for AggregateScanExec {
    fn name(&self) -> &str {
        "AggregateScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expr in &self.scan.question.labels {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let scan = self.scan.clone();
        let answer = async move {
            let batch_rows = context.session_config().batch_size();
            let run = Run::of(&context)?;
            let batch = scan.rows(&run, MemoryConsumer::new("aggregate").register(context.memory_pool()))?;
            let batches = (0..batch.num_rows()).step_by(batch_rows);
            let batches: Vec<_> =
                batches.map(|from| Ok(batch.slice(from, batch_rows.min(batch.num_rows() - from)))).collect();
            Ok::<_, DataFusionError>(futures::stream::iter(batches))
        };
        let rows = futures::TryStreamExt::try_flatten(futures::stream::once(answer));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// What ends a pass over samples.
pub(crate) enum Ended {
    Store(StoreError),
    Query(DataFusionError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Ended::Store(error)
    }
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        Ended::Query(stop.into())
    }
}

impl From<Ended> for DataFusionError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Store(error) => executed(error),
            Ended::Query(error) => error,
        }
    }
}

/// Which row of a grid each label has.
struct GridRows {
    /// Per label; `None` where rows are labels.
    rows: Option<Vec<u32>>,
    /// The label or group of each row; `None` where they are the same.
    names: Option<Vec<u32>>,
    count: usize,
}

impl GridRows {
    /// One for each chosen label of `part`, or for each of `groups` that has such a label; in their order.
    fn new(part: &Selected, groups: Option<&Groups>) -> Self {
        let labels = part.part.labels.count;
        let mut rows = vec![u32::MAX; labels];
        let names = match (&part.choice, groups) {
            (Choice::All, None) => return Self { rows: None, names: None, count: labels },
            (Choice::Some(chosen), None) => {
                (0u32..).zip(chosen.iter()).for_each(|(row, label)| rows[*label as usize] = row);
                chosen.to_vec()
            }
            (Choice::All, Some(groups)) => {
                return Self { rows: Some(groups.of.clone()), names: None, count: groups.count };
            }
            (Choice::Some(chosen), Some(groups)) => {
                let group = |label: &u32| groups.of[*label as usize];
                let mut names: Vec<u32> = chosen.iter().map(group).collect();
                names.sort_unstable();
                names.dedup();
                for label in chosen.iter() {
                    // Groups are counted in u32 as labels are.
                    rows[*label as usize] = names.partition_point(|name| *name < group(label)) as u32;
                }
                names
            }
        };
        Self { rows: Some(rows), count: names.len(), names: Some(names) }
    }
}

/// One execution.
struct Answer<'a> {
    run: &'a Run,
    reader: &'a Reader,
    question: &'a Question,
    range: TimeRange,
    memory: MemoryReservation,
    in_order: bool,
}

impl Answer<'_> {
    fn rows(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let (earliest, latest) = self.run.store.stored_times().unwrap_or((i64::MAX, i64::MIN));
        let range = self.range.intersect(TimeRange { from: earliest, to: latest });
        let parts = if range.from <= range.to { self.reader.selected(self.run)? } else { Vec::new() };
        let groups =
            parts.iter().map(|part| groups_of(&part.part.labels, self.reader.label_schema(), &self.question.labels));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        if let ([part], [own]) = (parts.as_slice(), groups.as_slice()) {
            let is_grouped = own.count < own.of.len();
            if is_grouped && self.question.is_any_order_right() {
                return self.batch(schema, own, self.filled(part, Some(own), range)?);
            }
            let filled = self.filled(part, None, range)?;
            let filled = if is_grouped {
                self.merged(range, own.count, |merge| {
                    filled.iter().for_each(|(label, bin, cell)| merge(own.of[*label as usize], *bin, cell));
                    Ok(())
                })?
            } else {
                filled
            };
            return self.batch(schema, own, filled);
        }
        let (all, own) = united(&groups)?;
        if let Some(filled) = self.apart(&parts, &groups, &own, range)? {
            return self.batch(schema, &all, filled);
        }
        let filled = self.merged(range, all.count, |merge| {
            for ((part, groups), own) in parts.iter().zip(&groups).zip(&own) {
                for (label, bin, cell) in self.filled(part, None, range)? {
                    merge(own[groups.of[label as usize] as usize], bin, &cell);
                }
            }
            Ok(())
        })?;
        self.batch(schema, &all, filled)
    }

    /// The cells of all parts by group and bin, sorted by them, when no group is in two parts and none has two labels, so
    /// that nothing has to be put together; otherwise `None`, without having read anything.
    fn apart(
        &self,
        parts: &[Selected],
        groups: &[Arc<Groups>],
        own: &[Vec<u32>],
        range: TimeRange,
    ) -> Result<Option<Vec<(u32, i64, Cell)>>> {
        let group = |part: usize, label: u32| own[part][groups[part].of[label as usize] as usize];
        let mut seen = std::collections::HashSet::new();
        for (number, part) in parts.iter().enumerate() {
            let Choice::Some(chosen) = &part.choice else { return Ok(None) };
            if !chosen.iter().all(|label| seen.insert(group(number, *label))) {
                return Ok(None);
            }
        }
        let mut filled = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let mut cells = self.filled(part, None, range)?;
            self.memory.try_grow(cells.len() * size_of::<(u32, i64, Cell)>())?;
            cells.iter_mut().for_each(|(label, ..)| *label = group(number, *label));
            if filled.is_empty() {
                // As a rule others are as long.
                cells.reserve(cells.len() * (parts.len() - 1 - number));
                filled = cells;
            } else {
                filled.append(&mut cells);
            }
        }
        // As a rule they are: metrics are listed in order.
        if !filled.is_sorted_by_key(|(group, bin, _)| (*group, *bin)) {
            filled.sort_unstable_by_key(|(group, bin, _)| (*group, *bin));
        }
        Ok(Some(filled))
    }

    /// The cells of a part by label and bin, sorted by them; with `groups` by group and bin.
    fn filled(&self, part: &Selected, groups: Option<&Groups>, range: TimeRange) -> Result<Vec<(u32, i64, Cell)>> {
        if groups.is_none()
            && let Some(filled) = self.newest(part, range)?
        {
            return Ok(filled);
        }
        let GridRows { rows, names, count } = GridRows::new(part, groups);
        let grid = Grid::new(count, self.question.bins, range);
        let held = grid.size();
        self.memory.try_grow(held)?;
        let mut filling = Filling::new(grid, rows.as_deref());
        let mut reading = 0;
        let mut check = |bytes: usize| -> std::result::Result<(), Ended> {
            let checked = self.check().and_then(|()| {
                self.memory.shrink(reading);
                reading = 0;
                self.memory.try_grow(bytes)?;
                reading = bytes;
                Ok(())
            });
            checked.map_err(Ended::Query)
        };
        let store = &self.run.store;
        match (&part.part.read, part.part.labels.members.first()) {
            (Read::Samples, Some(members)) => {
                let labels = part.part.labels.count;
                let visit = Visit { members, labels, series: part.series(0), range };
                let mut rolled = Vec::new();
                let sums = !self.question.is_any_order_right();
                let ranges = if !sums || self.question.is_right_when_exact() {
                    let steps: Vec<Step> = Step::within(self.question.bins).collect();
                    let wanted = Rolled { steps: &steps, figures: self.question.figures(), whole: sums };
                    store.rolled_up(&visit, &wanted, &mut rolled).map_err(executed)?
                } else {
                    vec![range]
                };
                if sums && !rolled.is_empty() {
                    filling.watch_sums();
                }
                let bytes = rolled.len() * size_of::<RollupRow>();
                self.memory.try_grow(bytes)?;
                store.visit(&visit, &ranges, &mut filling, &mut check)?;
                rolled.iter().for_each(|row| filling.rolled_up(members.rank.get(row.series), row));
                if !filling.is_exact() {
                    filling.begin_anew();
                    store.visit(&visit, &[range], &mut filling, &mut check)?;
                }
                self.memory.shrink(bytes);
            }
            _ => {
                let mut slices = Slices::new(range.from, range.to, store.stored_times());
                while let Some((from, to)) = slices.next() {
                    let blocks = part.read(store, from, to).map_err(executed)?;
                    let count = blocks.iter().map(|block| block.time.values().len()).sum::<usize>();
                    check(count * 24)?;
                    for block in &blocks {
                        each_row(block, |label, time, value| filling.row(label, time, value));
                    }
                    slices.had(count);
                }
            }
        }
        let mut filled = filling.grid.filled();
        if let Some(names) = names {
            filled.iter_mut().for_each(|(row, ..)| *row = names[*row as usize]);
        }
        self.memory.shrink(reading + held);
        Ok(filled)
    }

    /// As [`Answer::filled`], where nothing but the newest samples is asked for: they are known without reading any others.
    fn newest(&self, part: &Selected, range: TimeRange) -> Result<Option<Vec<(u32, i64, Cell)>>> {
        let Question { bins, functions, .. } = self.question;
        let only = *bins == Bins::Whole && functions.iter().all(|function| *function == Function::Last);
        let (true, Read::Samples, [members]) = (only, &part.part.read, part.part.labels.members.as_slice()) else {
            return Ok(None);
        };
        let ids = part.series(0).unwrap_or(&members.ids);
        let newest = self
            .run
            .store
            .newest_of(&members.metric, ids, range.from, range.to, || self.check().map_err(Ended::Query))?;
        let cells = newest.into_iter().filter_map(|(place, time, value)| {
            Some((members.rank.get(ids[place as usize])?, 0, Cell::of_last(time, value)))
        });
        let mut cells: Vec<_> = cells.collect();
        // Several series may have the same label.
        cells.sort_by_key(|(label, ..)| *label);
        cells.dedup_by(|other, kept| {
            let same = other.0 == kept.0;
            if same {
                kept.2.merge(&other.2);
            }
            same
        });
        Ok(Some(cells))
    }

    fn check(&self) -> Result<()> {
        Ok(self.run.deadline.check()?)
    }

    /// Cells put together by group and bin.
    fn merged(
        &self,
        range: TimeRange,
        groups: usize,
        fill: impl FnOnce(&mut dyn FnMut(u32, i64, &Cell)) -> Result<()>,
    ) -> Result<Vec<(u32, i64, Cell)>> {
        if range.from > range.to {
            return Ok(Vec::new());
        }
        let mut grid = Grid::new(groups, self.question.bins, range);
        self.memory.try_grow(grid.size())?;
        fill(&mut |group, bin, cell| grid.cell(group, bin).merge(cell))?;
        Ok(grid.filled())
    }

    fn batch(&self, schema: &SchemaRef, groups: &Groups, mut cells: Vec<(u32, i64, Cell)>) -> Result<RecordBatch> {
        let Question { keys, bins, functions, .. } = self.question;
        if keys.is_empty() && cells.is_empty() {
            cells.push((0, 0, Cell::EMPTY)); // without GROUP BY there is always one row
        }
        if cells.is_empty() {
            // Without a part there are no columns to take nothing from.
            return Ok(RecordBatch::new_empty(Arc::clone(schema)));
        }
        if self.in_order {
            let ranks = groups.ranks(LABEL_ORDER)?;
            let place = |(group, number, _): &(u32, i64, Cell)| (ranks.get(*group as usize).copied(), *number);
            if !cells.is_sorted_by_key(place) {
                cells.sort_unstable_by_key(place);
            }
        }
        let rows: UInt32Array = cells.iter().map(|(group, ..)| Some(*group)).collect();
        let key = |key: &Key| -> Result<ArrayRef> {
            Ok(match key {
                Key::Label(at) => take(&groups.columns[*at], &rows, None)?,
                Key::Bin => {
                    let times = cells.iter().map(|(_, number, _)| bins.start(*number));
                    Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone(UTC))
                }
            })
        };
        let double = |value: fn(&Cell) -> f64| -> ArrayRef {
            let values = cells.iter().map(|(.., cell)| (cell.count > 0).then(|| value(cell)));
            Arc::new(values.collect::<Float64Array>())
        };
        let function = |function: &Function| match function {
            Function::Count => Arc::new(cells.iter().map(|(.., cell)| Some(cell.count as i64)).collect::<Int64Array>()),
            Function::Sum => double(|cell| cell.sum),
            Function::Avg => double(|cell| cell.sum / cell.count as f64),
            Function::Min => double(|cell| cell.min),
            Function::Max => double(|cell| cell.max),
            Function::First => double(|cell| cell.first.1),
            Function::Last => double(|cell| cell.last.1),
        };
        let columns = keys.iter().map(key).chain(functions.iter().map(|of| Ok(function(of)))).zip(schema.fields());
        let columns = columns.map(|(column, field)| {
            let column = column?;
            if column.data_type() == field.data_type() { Ok(column) } else { Ok(cast(&column, field.data_type())?) }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(cells.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}
