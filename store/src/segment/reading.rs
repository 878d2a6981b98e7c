//! Decoding rows of a [`SortedFile`](super::sorted_file::SortedFile): page by page where `pages` can read them, and with the
//! general reader of Parquet where it cannot.

use std::ops::Range;

use arrow::array::AsArray;
use arrow::datatypes::{TimestampMillisecondType, UInt32Type};
use parquet::errors::Result;

use super::group::scaled_name;
use super::page_cache::PageCache;
use super::pages::Pages;
use super::scaled;
use super::sorted_file::{BATCH_ROWS, Open, Run, Runs, TIME, common};

/// Rows of a question whose pages are worth keeping. Who reads more reads most of a metric, and once.
const KEPT_ROWS: usize = 256 * 1024;

/// A stretch of rows of one series, decoded.
pub(crate) struct Piece<'a> {
    pub series: u32,
    pub times: &'a [i64],
    numbers: &'a [Numbers],
    whole: &'a [i64],
    /// Where they lie among the numbers.
    at: usize,
}

/// Numbers of one column as they are stored.
enum Numbers {
    /// Doubles by their bits.
    Doubles(Vec<i64>),
    /// Integers, all with the same `10^scale`.
    Scaled(Vec<i64>, f64),
    Plain(Vec<f64>),
}

impl Piece<'_> {
    /// Puts the numbers of a column in rows `rows` of this piece into as many places. `number` is the column's place among
    /// those that [`SortedFile::read`](super::sorted_file::SortedFile::read) was asked for.
    pub(crate) fn numbers<'n>(&self, number: usize, rows: Range<usize>, into: impl Iterator<Item = &'n mut f64>) {
        let rows = self.at + rows.start..self.at + rows.end;
        match &self.numbers[number] {
            Numbers::Doubles(values) => {
                values[rows].iter().zip(into).for_each(|(bits, place)| *place = f64::from_bits(*bits as u64));
            }
            Numbers::Scaled(values, power) => {
                values[rows]
                    .iter()
                    .zip(into)
                    .for_each(|(&integer, place)| *place = scaled::from_scaled(integer, *power));
            }
            Numbers::Plain(values) => values[rows].iter().zip(into).for_each(|(value, place)| *place = *value),
        }
    }

    /// The whole number in a row of this piece.
    pub(crate) fn whole(&self, row: usize) -> u32 {
        self.whole.get(self.at + row).map_or(0, |number| *number as u32)
    }
}

/// One reading of some rows.
pub(super) struct Reading<'a> {
    pub(super) open: &'a Open,
    pub(super) cache: &'a PageCache,
    pub(super) runs: &'a Runs<'a>,
    pub(super) numbers: &'a [&'a str],
    pub(super) whole: Option<&'a str>,
}

impl Reading<'_> {
    pub(super) fn run(&self, each: &mut impl FnMut(&Piece<'_>)) -> Result<()> {
        let mut left = self.runs.runs.as_slice();
        let keep = left.iter().map(|run| run.rows.len()).sum::<usize>() <= KEPT_ROWS;
        for (number, place) in self.open.groups() {
            left = &left[left.partition_point(|run| run.rows.end <= place.start)..];
            let here = &left[..left.partition_point(|run| run.rows.start < place.end)];
            if here.is_empty() {
                continue;
            }
            if !self.by_page(number, &place, here, keep, each)? {
                self.by_batch(number, &place, here, each)?;
            }
        }
        Ok(())
    }

    /// Reads page by page; `false`, and nothing, when the general reader has to.
    fn by_page(
        &self,
        number: usize,
        place: &Range<usize>,
        runs: &[Run],
        keep: bool,
        each: &mut impl FnMut(&Piece<'_>),
    ) -> Result<bool> {
        let group = &self.open.groups[number];
        let pages = |name: &str| Some(Pages::new(self.open.column(number, name)?, self.cache, keep));
        let mut columns = Vec::with_capacity(self.numbers.len());
        for name in self.numbers {
            let (name, empty) = match (group.stored(name), group.power) {
                ((true, false), _) => (*name, Numbers::Doubles(Vec::new())),
                ((false, true), Some(power)) => (scaled_name(name), Numbers::Scaled(Vec::new(), power)),
                _ => return Ok(false),
            };
            let Some(pages) = pages(name) else { return Ok(false) };
            columns.push((pages, empty));
        }
        let (mut columns, mut numbers): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let even = self.runs.even_times();
        let (mut time, mut count) = (None, None);
        if even.is_none() {
            let Some(pages) = pages(TIME) else { return Ok(false) };
            time = Some(pages);
        }
        if let Some(name) = self.whole {
            let Some(pages) = pages(name) else { return Ok(false) };
            count = Some(pages);
        }
        let (mut times, mut whole) = (Vec::new(), Vec::new());
        for run in runs {
            let all = common(&run.rows, place);
            for start in all.clone().step_by(BATCH_ROWS) {
                let rows = start..all.end.min(start + BATCH_ROWS);
                let in_group = rows.start - place.start..rows.end - place.start;
                times.clear();
                if let Some((even, offset)) = even {
                    even.append((rows.start - offset) as u32..(rows.end - offset) as u32, &mut times);
                }
                if let Some(time) = &mut time {
                    time.read(in_group.clone(), &mut times)?;
                }
                for (pages, numbers) in columns.iter_mut().zip(&mut numbers) {
                    let (Numbers::Doubles(values) | Numbers::Scaled(values, _)) = numbers else { continue };
                    values.clear();
                    pages.read(in_group.clone(), values)?;
                }
                if let Some(count) = &mut count {
                    whole.clear();
                    count.read(in_group, &mut whole)?;
                }
                each(&Piece { series: run.series, times: &times, numbers: &numbers, whole: &whole, at: 0 });
            }
        }
        Ok(true)
    }

    /// Reads with the general reader.
    fn by_batch(
        &self,
        number: usize,
        place: &Range<usize>,
        here: &[Run],
        each: &mut impl FnMut(&Piece<'_>),
    ) -> Result<()> {
        let group = &self.open.groups[number];
        let mut columns = group.wanted(self.numbers);
        columns.push(TIME);
        columns.extend(self.whole);
        let rows = || here.iter().map(|run| (run.series, common(&run.rows, place)));
        let mut runs = rows();
        let mut run = (0, 0..0);
        for batch in self.open.reader((number, place.clone()), rows().map(|(_, rows)| rows), &columns)? {
            let batch = batch?;
            let Some(times) = batch.column_by_name(TIME) else { continue };
            let times = times.as_primitive::<TimestampMillisecondType>().values();
            let numbers: Vec<_> = self.numbers.iter().map(|name| Numbers::Plain(group.numbers(&batch, name))).collect();
            let whole = self.whole.and_then(|name| batch.column_by_name(name));
            let whole = whole.map_or(&[][..], |column| column.as_primitive::<UInt32Type>().values());
            let whole: Vec<i64> = whole.iter().map(|&number| i64::from(number)).collect();
            let mut at = 0;
            while at < batch.num_rows() {
                if run.1.is_empty() {
                    let Some(next) = runs.next() else { break };
                    run = next;
                }
                let rows = run.1.len().min(batch.num_rows() - at);
                each(&Piece { series: run.0, times: &times[at..at + rows], numbers: &numbers, whole: &whole, at });
                at += rows;
                run.1.start += rows;
            }
        }
        Ok(())
    }
}
