//! Joins of a few rows by names, without hashing where that is possible: rules join what happened lately with what is known of
//! the same containers otherwise, and both come sorted by host, container and resource.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, StringViewArray, UInt32Array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::{JoinSide, JoinType, NullEquality, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

use crate::query::ready::ready;

/// Pairs of rows that are joined at once. Who has more has them from the operator, whose memory and time are bounded.
const MAX_PAIRS: usize = 128 * 1024;
/// A text of this many bytes or fewer is in its view.
const INLINE: u32 = 12;

/// A join of two inputs by texts that are equal.
pub(crate) struct Join {
    /// By which expressions, of the left and the right input.
    on: Vec<[Arc<dyn PhysicalExpr>; 2]>,
    /// Whether left rows without a match stay.
    keeps_left: bool,
    left: SchemaRef,
    /// Where each column of the answer comes from.
    columns: Vec<(JoinSide, usize)>,
    schema: SchemaRef,
    filter: Option<Filter>,
}

/// What pairs have to fulfil beside equal texts.
struct Filter {
    holds: Arc<dyn PhysicalExpr>,
    /// Where each of its columns comes from.
    columns: Vec<(JoinSide, usize)>,
    schema: SchemaRef,
}

impl Join {
    /// `None` where it is a join of another kind.
    pub(super) fn of(join: &HashJoinExec) -> Option<Self> {
        let keeps_left = match join.join_type() {
            JoinType::Inner => false,
            JoinType::Left => true,
            _ => return None,
        };
        let (left, right) = (join.left().schema(), join.right().schema());
        let is_text = |expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef| {
            expr.data_type(schema).is_ok_and(|kind| matches!(kind, DataType::Utf8 | DataType::Utf8View))
        };
        let by_texts = join.on().iter().all(|(a, b)| is_text(a, &left) && is_text(b, &right));
        // Left rows that stay would have to be told from those that fulfil the filter nowhere.
        let plain = (join.filter().is_none() || !keeps_left)
            && join.fetch().is_none()
            && !join.null_aware
            && join.null_equality() == NullEquality::NullEqualsNothing
            && join.properties().partitioning.partition_count() == 1;
        if !by_texts || !plain {
            return None;
        }
        let place = |at: usize| match at.checked_sub(left.fields().len()) {
            None => (JoinSide::Left, at),
            Some(at) => (JoinSide::Right, at),
        };
        let all = 0..left.fields().len() + right.fields().len();
        let columns = match &join.projection {
            Some(places) => places.iter().map(|at| place(*at)).collect(),
            None => all.map(place).collect(),
        };
        let on = join.on().iter().map(|(a, b)| [Arc::clone(a), Arc::clone(b)]).collect();
        let filter = join.filter().map(|filter| Filter {
            holds: ready(filter.expression(), filter.schema()),
            columns: filter.column_indices().iter().map(|column| (column.side, column.index)).collect(),
            schema: Arc::clone(filter.schema()),
        });
        Some(Self { on, keeps_left, left, columns, schema: join.schema(), filter })
    }

    /// The rows in the order in which the operator gives them: those that match in the order of the right input, then, where
    /// they stay, the other left ones. `None` when there are more than [`MAX_PAIRS`].
    pub(super) fn rows(&self, left: &[RecordBatch], right: Vec<RecordBatch>) -> Result<Option<Vec<RecordBatch>>> {
        let left = match left {
            [one] => one.clone(),
            several => concat_batches(&self.left, several)?,
        };
        let found = Found::new(self.keys(0, &left)?);
        let mut matched = vec![false; left.num_rows()];
        let mut joined = Vec::with_capacity(right.len() + 1);
        let mut pairs = 0;
        for right in &right {
            let (mut of_left, mut of_right) =
                (Vec::with_capacity(right.num_rows()), Vec::with_capacity(right.num_rows()));
            // Rows are counted in u32.
            let is_whole = found.each_match(&self.keys(1, right)?, |left, right| {
                matched[left] = true;
                of_left.push(left as u32);
                of_right.push(right as u32);
                pairs += 1;
                pairs <= MAX_PAIRS
            });
            if !is_whole {
                return Ok(None);
            }
            if let Some(filter) = self.filter.as_ref().filter(|_| !of_left.is_empty()) {
                (of_left, of_right) = filter.fulfilled(&left, right, of_left, of_right)?;
            }
            if !of_left.is_empty() {
                let pairs = (UInt32Array::from(of_left), Some((right, UInt32Array::from(of_right))));
                joined.push(batch(&self.columns, &self.schema, &left, pairs)?);
            }
        }
        if self.keeps_left {
            let others: Vec<u32> = (0..).zip(&matched).filter(|(_, matched)| !**matched).map(|(row, _)| row).collect();
            if !others.is_empty() {
                joined.push(batch(&self.columns, &self.schema, &left, (UInt32Array::from(others), None))?);
            }
        }
        Ok(Some(joined))
    }

    fn keys(&self, side: usize, batch: &RecordBatch) -> Result<Keys> {
        let column = |on: &[Arc<dyn PhysicalExpr>; 2]| on[side].evaluate(batch)?.into_array(batch.num_rows());
        Ok(Keys { columns: self.on.iter().map(column).collect::<Result<_>>()?, rows: batch.num_rows() })
    }
}

impl Filter {
    /// The pairs that fulfil it.
    fn fulfilled(
        &self,
        left: &RecordBatch,
        right: &RecordBatch,
        of_left: Vec<u32>,
        of_right: Vec<u32>,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        let (of_left, of_right) = (UInt32Array::from(of_left), UInt32Array::from(of_right));
        let pairs = (of_left.clone(), Some((right, of_right.clone())));
        let pairs = batch(&self.columns, &self.schema, left, pairs)?;
        let holds = self.holds.evaluate(&pairs)?.into_array(pairs.num_rows())?;
        let holds = as_boolean_array(&holds)?;
        let pairs = of_left.values().iter().zip(of_right.values()).zip(holds);
        Ok(pairs.filter(|(_, holds)| *holds == Some(true)).map(|((left, right), _)| (*left, *right)).unzip())
    }
}

/// Some columns of some rows of the left input with some of the right one, or with nothing.
fn batch(
    columns: &[(JoinSide, usize)],
    schema: &SchemaRef,
    left: &RecordBatch,
    (of_left, right): (UInt32Array, Option<(&RecordBatch, UInt32Array)>),
) -> Result<RecordBatch> {
    let rows = of_left.len();
    let columns = columns.iter().zip(schema.fields()).map(|((side, at), field)| {
        Ok(match (side, &right) {
            (JoinSide::Left, _) => take(left.column(*at), &of_left, None)?,
            (_, Some((right, rows))) => take(right.column(*at), rows, None)?,
            (_, None) => arrow::array::new_null_array(field.data_type(), rows),
        })
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_>>()?, &options)?)
}

/// The columns that rows are joined by.
struct Keys {
    columns: Vec<ArrayRef>,
    rows: usize,
}

/// A column of texts.
enum Texts<'a> {
    Plain(&'a StringArray),
    Views(&'a StringViewArray),
}

impl<'a> Texts<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        match column.as_string_opt::<i32>() {
            Some(plain) => Self::Plain(plain),
            None => Self::Views(column.as_string_view()),
        }
    }

    /// `None` where there is none.
    fn at(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Plain(column) => column.is_valid(row).then(|| column.value(row)),
            Self::Views(column) => column.is_valid(row).then(|| column.value(row)),
        }
    }

    /// Whether two rows have the same short text, which views tell without looking at texts; false where they do not tell.
    fn is_same_short(&self, row: usize, other: &Self, other_row: usize) -> bool {
        let (Self::Views(a), Self::Views(b)) = (self, other) else { return false };
        let view = a.views()[row];
        // The length comes first.
        view == b.views()[other_row] && view as u32 <= INLINE && a.is_valid(row) && b.is_valid(other_row)
    }
}

impl Keys {
    fn texts(&self) -> Vec<Texts<'_>> {
        self.columns.iter().map(Texts::of).collect()
    }
}

/// The rows of the left input, by their keys.
struct Found {
    keys: Keys,
    /// Nothing where the rows are sorted by their keys, each of which is there once; the rows of each key otherwise.
    rows: Option<HashMap<Vec<String>, Vec<usize>, ahash::RandomState>>,
}

impl Found {
    fn new(keys: Keys) -> Self {
        let texts = keys.texts();
        let is_less = |row: usize| order(&texts, row, &texts, row + 1) == Some(Ordering::Less);
        let sorted = match keys.rows {
            0 => true,
            1 => whole(&texts, 0).is_some(),
            rows => (0..rows - 1).all(is_less),
        };
        let rows = (!sorted).then(|| {
            let mut rows: HashMap<_, Vec<usize>, _> = HashMap::default();
            for row in 0..keys.rows {
                if let Some(key) = whole(&texts, row) {
                    rows.entry(key).or_default().push(row);
                }
            }
            rows
        });
        Self { rows, keys }
    }

    /// Calls `each` with all pairs of rows, in the order of the right ones, until it says no; whether it never did.
    fn each_match(&self, right: &Keys, mut each: impl FnMut(usize, usize) -> bool) -> bool {
        let (texts, of_right) = (self.keys.texts(), right.texts());
        let mut next = 0;
        for row in 0..right.rows {
            if let Some(rows) = &self.rows {
                let known = whole(&of_right, row).and_then(|key| rows.get(&key));
                if !known.into_iter().flatten().all(|left| each(*left, row)) {
                    return false;
                }
                continue;
            }
            // As a rule the next one on this side is the next one on the other, too.
            let likely = next < self.keys.rows && order(&texts, next, &of_right, row) == Some(Ordering::Equal);
            let found = if likely { Some(next) } else { search(&texts, self.keys.rows, &of_right, row) };
            if let Some(left) = found {
                if !each(left, row) {
                    return false;
                }
                next = left + 1;
            }
        }
        true
    }
}

/// How two rows' keys compare; `None` where a part of one is missing, so that it is equal to nothing.
fn order(a: &[Texts<'_>], row_a: usize, b: &[Texts<'_>], row_b: usize) -> Option<Ordering> {
    let mut ordering = Ordering::Equal;
    for (a, b) in a.iter().zip(b) {
        // Hosts and resources are the same from row to row.
        if a.is_same_short(row_a, b, row_b) {
            continue;
        }
        let part = a.at(row_a)?.cmp(b.at(row_b)?);
        ordering = ordering.then(part);
    }
    Some(ordering)
}

/// A row's key; `None` where a part of it is missing.
fn whole(texts: &[Texts<'_>], row: usize) -> Option<Vec<String>> {
    texts.iter().map(|column| column.at(row).map(str::to_owned)).collect()
}

/// The row among the first `rows`, which are sorted, that has the key of another row.
fn search(sorted: &[Texts<'_>], rows: usize, of: &[Texts<'_>], row: usize) -> Option<usize> {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low + (high - low) / 2;
        match order(sorted, middle, of, row)? {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{Column, binary, lit};
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::joins::PartitionMode;
    use datafusion::physical_plan::joins::utils::{ColumnIndex, JoinFilter};
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    type Key = (Option<&'static str>, Option<&'static str>);

    /// The rows of one input: two texts, and the number of the row.
    fn input(views: bool, keys: &[Key]) -> RecordBatch {
        let texts = |texts: Vec<Option<&str>>| -> ArrayRef {
            match views {
                true => Arc::new(StringViewArray::from(texts)),
                false => Arc::new(StringArray::from(texts)),
            }
        };
        let kind = if views { DataType::Utf8View } else { DataType::Utf8 };
        let number = Field::new("number", DataType::Int64, false);
        let schema =
            Schema::new(vec![Field::new("host", kind.clone(), true), Field::new("container", kind, true), number]);
        let (hosts, containers) = keys.iter().copied().unzip();
        let numbers: Int64Array = (0..keys.len() as i64).collect();
        let columns = vec![texts(hosts), texts(containers), Arc::new(numbers) as ArrayRef];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn operator(rows: &RecordBatch) -> Arc<dyn ExecutionPlan> {
        MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None).unwrap()
    }

    fn table(batches: &[RecordBatch]) -> Vec<Vec<String>> {
        let batches = batches.iter().filter(|batch| batch.num_rows() > 0).cloned().collect::<Vec<_>>();
        let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        let rows =
            text.lines().filter(|line| line.contains('|')).map(|line| line.split('|').map(str::to_owned).collect());
        rows.collect()
    }

    /// Left and right rows whose numbers differ by more than one.
    fn apart() -> JoinFilter {
        let schema = Schema::new(["a", "b"].map(|name| Field::new(name, DataType::Int64, false)).to_vec());
        let column = |name: &str, at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
        let less = binary(column("a", 0), Operator::Plus, lit(1_i64), &schema).unwrap();
        let apart = binary(less, Operator::Lt, column("b", 1), &schema).unwrap();
        let columns = [JoinSide::Left, JoinSide::Right].map(|side| ColumnIndex { index: 2, side }).to_vec();
        JoinFilter::new(apart, columns, Arc::new(schema))
    }

    fn any_keys() -> impl Strategy<Value = Vec<Key>> {
        let name = |names: &[Option<&'static str>]| prop::sample::select(names.to_vec());
        let key = (name(&[Some("a"), Some("b"), None]), name(&[Some(""), Some("c1"), Some("c2"), Some("c3"), None]));
        let one_each = prop::collection::btree_set(key.clone(), 0..9).prop_map(|keys| {
            let whole = |(host, container): &Key| host.is_some() && container.is_some();
            keys.into_iter().filter(whole).collect::<Vec<_>>()
        });
        prop_oneof![prop::collection::vec(key, 0..9), one_each]
    }

    proptest! {
        #[test]
        fn a_join_gives_the_rows_of_its_operator_in_its_order(
            left in any_keys(), right in any_keys(), views in any::<bool>(), keeps_left in any::<bool>(), projected in any::<bool>(),
            filtered in any::<bool>(),
        ) {
            let (left, right) = (input(views, &left), input(views, &right));
            let column = |at| Arc::new(Column::new(["host", "container"][at], at)) as Arc<dyn PhysicalExpr>;
            let on = (0..2).map(|at| (column(at), column(at))).collect();
            let join_type = if keeps_left { JoinType::Left } else { JoinType::Inner };
            let operator = HashJoinExec::try_new(
                operator(&left),
                operator(&right),
                on,
                (filtered && !keeps_left).then(apart),
                &join_type,
                projected.then(|| vec![5, 0, 2]),
                PartitionMode::CollectLeft,
                NullEquality::NullEqualsNothing,
                false,
            ).unwrap();
            let join = Join::of(&operator).unwrap();
            let found = join.rows(&[left], vec![right]).unwrap().unwrap();
            prop_assert!(found.iter().all(|batch| batch.schema() == operator.schema()));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let wanted = runtime.block_on(collect(Arc::new(operator), SessionContext::new().task_ctx())).unwrap();
            prop_assert_eq!(table(&found), table(&wanted));
        }
    }

    #[test]
    fn everything_joined_with_everything_is_left_to_the_operator() {
        let pairs = |rows: usize| {
            let all = input(true, &vec![(Some("a"), Some("c")); rows]);
            let column = Arc::new(Column::new("host", 0)) as Arc<dyn PhysicalExpr>;
            let (on, mode) = (vec![(Arc::clone(&column), column)], PartitionMode::CollectLeft);
            let (left, right) = (operator(&all), operator(&all));
            let null = NullEquality::NullEqualsNothing;
            let operator =
                HashJoinExec::try_new(left, right, on, None, &JoinType::Inner, None, mode, null, false).unwrap();
            let joined = Join::of(&operator).unwrap().rows(std::slice::from_ref(&all), vec![all.clone()]).unwrap();
            joined.map(|batches| batches.iter().map(RecordBatch::num_rows).sum::<usize>())
        };
        assert_eq!(pairs(300), Some(90_000));
        assert_eq!(pairs(400), None);
    }
}
