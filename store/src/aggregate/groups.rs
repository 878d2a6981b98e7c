//! Which labels go together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;

use crate::tables::{Groups, LabelTable, label_batch};

/// Groups the labels of `table`, whose columns `schema` names, by what `exprs` say of them. The answer is kept, so the
/// expressions must say the same whenever they are asked.
pub(super) fn groups_of(
    table: &LabelTable,
    schema: &SchemaRef,
    exprs: &[Arc<dyn PhysicalExpr>],
) -> Result<Arc<Groups>> {
    let key = exprs.to_vec();
    if let Some(known) = table.groups().lock().get(&key) {
        return Ok(known);
    }
    let batch = label_batch(schema, table)?;
    let columns =
        exprs.iter().map(|expr| expr.evaluate(&batch)?.into_array(table.count)).collect::<Result<Vec<_>>>()?;
    let groups = Arc::new(grouped(columns, table.count)?);
    table.groups().lock().keep(key, Arc::clone(&groups));
    Ok(groups)
}

/// The groups of several tables together, and for each table, which of them its own groups are.
pub(super) fn united(tables: &[Arc<Groups>]) -> Result<(Groups, Vec<Vec<u32>>)> {
    let width = tables.first().map_or(0, |groups| groups.columns.len());
    let column = |at: usize| -> Result<ArrayRef> {
        let parts: Vec<_> = tables.iter().map(|groups| groups.columns[at].as_ref()).collect();
        Ok(concat(&parts)?)
    };
    let columns = (0..width).map(column).collect::<Result<Vec<_>>>()?;
    let count = tables.iter().map(|groups| groups.count).sum();
    let groups = grouped(columns, count)?;
    let mut rest = groups.of.as_slice();
    let own = tables.iter().map(|table| {
        let (these, others) = rest.split_at(table.count);
        rest = others;
        these.to_vec()
    });
    let own = own.collect();
    Ok((groups, own))
}

/// Groups rows by their values in all columns, in the order in which they come first.
fn grouped(columns: Vec<ArrayRef>, rows: usize) -> Result<Groups> {
    if columns.is_empty() {
        return Ok(Groups { of: vec![0; rows], columns, count: 1 });
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let converter = RowConverter::new(fields)?;
    let keys = converter.convert_columns(&columns)?;
    let mut numbers: HashMap<OwnedRow, u32, ahash::RandomState> = HashMap::default();
    let mut first = Vec::new();
    let mut of = Vec::with_capacity(rows);
    for (row, key) in (0u32..).zip(keys.iter()) {
        // Labels are counted in u32, and there are no more groups than labels.
        let next = first.len() as u32;
        let number = *numbers.entry(key.owned()).or_insert_with(|| {
            first.push(row);
            next
        });
        of.push(number);
    }
    let count = first.len();
    if count < rows {
        let first = UInt32Array::from(first);
        let columns = columns.iter().map(|column| Ok(take(column, &first, None)?)).collect::<Result<Vec<_>>>()?;
        return Ok(Groups { of, columns, count });
    }
    Ok(Groups { of, columns, count })
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringViewArray};

    use super::*;

    fn groups(rows: &[(Option<&str>, &str)]) -> Groups {
        let a: StringViewArray = rows.iter().map(|(a, _)| *a).collect();
        let b: StringViewArray = rows.iter().map(|(_, b)| Some(*b)).collect();
        grouped(vec![Arc::new(a), Arc::new(b)], rows.len()).unwrap()
    }

    #[test]
    fn equal_rows_are_one_group_and_nulls_are_equal() {
        let groups = groups(&[(Some("x"), "1"), (None, "1"), (Some("x"), "2"), (None, "1"), (Some("x"), "1")]);
        assert_eq!((groups.of, groups.count), (vec![0, 1, 2, 1, 0], 3));
        assert_eq!(groups.columns[1].as_string_view().iter().flatten().collect::<Vec<_>>(), ["1", "1", "2"]);
    }

    #[test]
    fn groups_of_several_tables_are_united_by_their_values() {
        let (a, b) = (groups(&[(Some("x"), "1"), (None, "1")]), groups(&[(None, "1"), (Some("y"), "1")]));
        let (all, own) = united(&[Arc::new(a), Arc::new(b)]).unwrap();
        assert_eq!((all.count, own), (3, vec![vec![0, 1], vec![1, 2]]));
        let nothing = Groups { of: vec![0; 4], columns: Vec::new(), count: 1 };
        let (all, own) = united(&[Arc::new(nothing)]).unwrap();
        assert_eq!((all.count, own), (1, vec![vec![0]]));
    }
}
