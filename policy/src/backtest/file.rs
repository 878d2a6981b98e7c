//! A trace from a file: CSV (also gzip) or Parquet, one row a container and time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegate_actuator::simulated::Member;
use tidegate_model::{Bounds, Limit, Resource, TimeMs};

use super::trace::{Trace, Traced, Wanted};
use crate::error::{PolicyError, PolicyErrorKind};

/// Times below this are seconds, others milliseconds: as seconds it is the year 5138, as milliseconds March 1973.
const SECONDS_BELOW: f64 = 1e11;

/// A column of a file and what its numbers are multiplied with to give cores or bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name in the file.
    pub name: String,
    /// The factor.
    pub factor: f64,
}

impl FromStr for Column {
    type Err = String;

    /// `NAME`, `NAME*FACTOR` or `NAME/DIVISOR`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
            _ => Err(format!("'{text}' is no number above 0; expected COLUMN, COLUMN*FACTOR or COLUMN/DIVISOR")),
        };
        let (name, factor) = match (text.rsplit_once('*'), text.rsplit_once('/')) {
            (Some((name, factor)), _) => (name, number(factor)?),
            (None, Some((name, divisor))) => (name, 1.0 / number(divisor)?),
            (None, None) => (text, 1.0),
        };
        match name.trim() {
            "" => Err("a column has a name; expected COLUMN, COLUMN*FACTOR or COLUMN/DIVISOR".to_owned()),
            name => Ok(Self { name: name.to_owned(), factor }),
        }
    }
}

/// Which columns of a file are what. Those that are not there are left out, but for the time and one of CPU and memory.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceColumns {
    /// Time: seconds or milliseconds since 1970.
    pub time: String,
    /// Container; a file without it is about one.
    pub container: String,
    /// App.
    pub app: String,
    /// CPU demand.
    pub cpu: Column,
    /// Memory demand.
    pub memory: Column,
    /// The CPU limit in the beginning; the highest demand where there is none.
    pub cpu_limit: Column,
    /// The memory limit in the beginning.
    pub memory_limit: Column,
}

/// Columns that are called so in every file, in cores and bytes: what the operator allows, and the part of the memory that
/// cannot be reclaimed, which is all of it where there is no such column.
const FIXED: [&str; 5] = ["cpu_min", "cpu_max", "memory_min", "memory_max", "memory_anon"];

impl Default for TraceColumns {
    fn default() -> Self {
        let column = |name: &str| Column { name: name.to_owned(), factor: 1.0 };
        Self {
            time: "time".to_owned(),
            container: "container".to_owned(),
            app: "app".to_owned(),
            cpu: column("cpu"),
            memory: column("memory"),
            cpu_limit: column("cpu_limit"),
            memory_limit: column("memory_limit"),
        }
    }
}

impl Trace {
    /// Reads a file: `.parquet`, otherwise CSV with a header line, `.gz` of it. A row that does not fit is left out and
    /// told of in [`Trace::problems`].
    ///
    /// # Errors
    /// The file cannot be read, or lacks a column that it must have.
    pub fn of_file(path: &Path, columns: &TraceColumns) -> Result<Self, PolicyError> {
        let failed = |what: String| PolicyError::new(PolicyErrorKind::Option, format!("{}: {what}", path.display()));
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let mut rows = Rows { columns, containers: BTreeMap::new(), read: 0, left_out: 0, first_bad: None };
        if name.ends_with(".parquet") {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
            for batch in reader.map_err(|error| failed(error.to_string()))? {
                rows.batch(&batch.map_err(|error| failed(error.to_string()))?).map_err(&failed)?;
            }
        } else {
            let file: Box<dyn Read> = match name.ends_with(".gz") {
                true => Box::new(flate2::read::MultiGzDecoder::new(file)),
                false => Box::new(file),
            };
            rows.csv(BufReader::new(file)).map_err(&failed)?;
        }
        let mut trace = Trace { problems: rows.problems(), ..Trace::default() };
        for (name, (app, samples)) in rows.named() {
            trace.containers.push(samples.traced(app, name, &mut trace.problems));
        }
        match trace.span() {
            Some(_) => Ok(trace),
            None => Err(failed("no row has a time and a demand".to_owned())),
        }
    }
}

/// One row: time in ms, demands and limits in cores and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    time: i64,
    cpu: Option<f64>,
    memory: Option<f64>,
    cpu_limit: Option<f64>,
    memory_limit: Option<f64>,
    /// See [`FIXED`].
    fixed: [Option<f64>; 5],
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn traced(mut self, app: Option<String>, container: String, problems: &mut Vec<String>) -> Traced {
        // Files are sorted as their makers like.
        self.0.sort_by_key(|sample| sample.time);
        // Some write 0 for a limit that is none.
        let first = |limit: fn(&Sample) -> Option<f64>| {
            self.0.iter().filter_map(limit).find(|limit| *limit > 0.0).map_or(Limit::Unlimited, Limit::At)
        };
        let fixed = |column: usize| self.0.iter().find_map(|sample| sample.fixed[column]);
        let bounds = [(Resource::Cpu, 0), (Resource::Memory, 2)].into_iter().filter_map(|(resource, column)| {
            let (min, max) = (fixed(column), fixed(column + 1));
            let bounds = Bounds { min: min.unwrap_or(0.0), max: max.unwrap_or(1e300) };
            let stated = min.is_some() || max.is_some();
            (stated && bounds.min <= bounds.max).then_some((resource, bounds))
        });
        let member = Member {
            host: "trace".to_owned(),
            name: container,
            app,
            user: None,
            labels: BTreeMap::new(),
            bounds: bounds.collect(),
            cpu: first(|sample| sample.cpu_limit),
            memory: first(|sample| sample.memory_limit),
        };
        let mut traced = Traced { member, cpu: Wanted::default(), memory: Wanted::default() };
        let mut left_out = 0;
        for sample in &self.0 {
            let [.., anon] = sample.fixed;
            let values = [(&mut traced.cpu, sample.cpu, None), (&mut traced.memory, sample.memory, anon)];
            for (wanted, value, anon) in values {
                left_out += usize::from(value.is_some_and(|value| !wanted.push(TimeMs(sample.time), value, anon)));
            }
        }
        if left_out > 0 {
            problems.push(format!(
                "{}: {left_out} values are negative or of a time that there was already, and left out",
                traced.member.name
            ));
        }
        traced.limit_at_peak();
        traced
    }
}

struct Rows<'a> {
    columns: &'a TraceColumns,
    /// By app and container.
    containers: BTreeMap<(Option<String>, String), Samples>,
    read: u64,
    left_out: u64,
    /// The first row that was left out, and why.
    first_bad: Option<(u64, String)>,
}

/// Where the columns of a file are.
struct Places {
    time: usize,
    container: Option<usize>,
    app: Option<usize>,
    /// CPU, memory, CPU limit, memory limit, and those of [`FIXED`].
    numbers: [Option<(usize, f64)>; 9],
}

impl Rows<'_> {
    /// The containers by a name that is theirs alone: where the same name is in several apps, the app stands before it.
    fn named(self) -> BTreeMap<String, (Option<String>, Samples)> {
        let mut apps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (app, container) in self.containers.keys() {
            apps.entry(container.clone()).or_default().extend(app.clone());
        }
        let mut named: BTreeMap<String, (Option<String>, Samples)> = BTreeMap::new();
        for ((app, container), samples) in self.containers {
            let several = apps.get(&container).is_some_and(|apps| apps.len() > 1);
            let name = match &app {
                Some(app) if several => format!("{app}/{container}"),
                _ => container,
            };
            let (known, all) = named.entry(name).or_default();
            *known = known.take().or(app);
            all.0.extend(samples.0);
        }
        named
    }

    fn places(&self, names: &[String]) -> Result<Places, String> {
        let find = |name: &str| names.iter().position(|known| known == name);
        let number = |column: &Column| Some((find(&column.name)?, column.factor));
        let wanted = self.columns;
        let there = || format!("the file has {}", names.join(", "));
        let time = find(&wanted.time).ok_or_else(|| format!("there is no column '{}'; {}", wanted.time, there()))?;
        let [cpu, memory, cpu_limit, memory_limit] =
            [&wanted.cpu, &wanted.memory, &wanted.cpu_limit, &wanted.memory_limit].map(number);
        let [a, b, c, d, e] = FIXED.map(|name| Some((find(name)?, 1.0)));
        let numbers = [cpu, memory, cpu_limit, memory_limit, a, b, c, d, e];
        if numbers[0].is_none() && numbers[1].is_none() {
            let (cpu, memory) = (&wanted.cpu.name, &wanted.memory.name);
            return Err(format!("there is neither a column '{cpu}' nor a column '{memory}'; {}", there()));
        }
        Ok(Places { time, container: find(&wanted.container), app: find(&wanted.app), numbers })
    }

    fn csv(&mut self, reader: impl Read) -> Result<(), String> {
        let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
        let names: Vec<String> =
            csv.headers().map_err(|e| e.to_string())?.iter().map(|n| n.trim().to_owned()).collect();
        let places = self.places(&names)?;
        let mut record = csv::StringRecord::new();
        while csv.read_record(&mut record).map_err(|error| error.to_string())? {
            self.row(&places, |column| record.get(column).filter(|text| !text.trim().is_empty()));
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let places = self.places(&names)?;
        let mut texts: HashMap<usize, StringArray> = HashMap::new();
        let numbers = places.numbers.iter().flatten().map(|(column, _)| *column);
        for column in numbers.chain([places.time]).chain(places.container).chain(places.app) {
            texts.insert(column, as_text(batch.column(column))?);
        }
        for row in 0..batch.num_rows() {
            self.row(&places, |column| {
                texts.get(&column).filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row))
            });
        }
        Ok(())
    }

    fn row<'t>(&mut self, places: &Places, text: impl Fn(usize) -> Option<&'t str>) {
        self.read += 1;
        let sample = || {
            let time = text(places.time).ok_or_else(|| "its time is missing".to_owned())?;
            let time = milliseconds(time).ok_or_else(|| format!("its time is '{time}'"))?;
            let mut values = [None; 9];
            for (value, place) in values.iter_mut().zip(places.numbers) {
                let Some((column, factor)) = place else { continue };
                let Some(text) = text(column) else { continue };
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                *value = Some(number.ok_or_else(|| format!("'{text}' is no number"))? * factor);
            }
            let [cpu, memory, cpu_limit, memory_limit, fixed @ ..] = values;
            Ok(Sample { time, cpu, memory, cpu_limit, memory_limit, fixed })
        };
        let app = places.app.and_then(&text).map(str::to_owned);
        let container = places.container.and_then(&text).unwrap_or("trace").to_owned();
        match sample() {
            Ok(sample) => self.containers.entry((app, container)).or_default().0.push(sample),
            Err(why) => {
                self.left_out += 1;
                self.first_bad.get_or_insert((self.read, why));
            }
        }
    }

    fn problems(&self) -> Vec<String> {
        let bad = self.first_bad.iter();
        bad.map(|(row, why)| format!("{} of {} rows are left out; of row {row}, {why}", self.left_out, self.read))
            .collect()
    }
}

/// Seconds or milliseconds since 1970, or seconds from nothing in particular.
fn milliseconds(text: &str) -> Option<i64> {
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() < 1e15)?;
    Some(if number.abs() < SECONDS_BELOW { (number * 1e3).round() as i64 } else { number.round() as i64 })
}

fn as_text(column: &ArrayRef) -> Result<StringArray, String> {
    let column = match column.data_type() {
        DataType::Timestamp(_, _) => {
            let milliseconds = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
            let column = cast(column, &milliseconds).map_err(|error| error.to_string())?;
            cast(&column, &DataType::Int64).map_err(|error| error.to_string())?
        }
        _ => column.clone(),
    };
    let text = cast(&column, &DataType::Utf8).map_err(|error| error.to_string())?;
    Ok(text.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, columns: &TraceColumns) -> Result<Trace, PolicyError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Trace::of_file(&path, columns)
    }

    #[test]
    fn a_table_becomes_containers_with_limits_at_their_peaks() {
        let text = "time,container,app,cpu,memory,memory_limit\n\
                    1700000060,b,shop,2.5,100,\n1700000000,b,shop,1.5,200,400\n1700000000,a,,0.5,,\n";
        let trace = read("t.csv", text, &TraceColumns::default()).unwrap();
        let names: Vec<_> =
            trace.containers.iter().map(|c| (c.member.app.as_deref(), c.member.name.as_str())).collect();
        assert_eq!(names, [(None, "a"), (Some("shop"), "b")]);
        let b = &trace.containers[1];
        assert_eq!((b.member.cpu, b.member.memory), (Limit::At(2.5), Limit::At(400.0)));
        assert_eq!((b.cpu.len(), b.memory.len(), trace.containers[0].memory.len()), (2, 2, 0));
        assert_eq!(trace.span(), Some((TimeMs(1_700_000_000_000), TimeMs(1_700_000_060_000))));
        assert_eq!(trace.problems, Vec::<String>::new());
    }

    #[test]
    fn columns_are_found_under_other_names_and_in_other_units() {
        let columns = TraceColumns {
            time: "unix_s".to_owned(),
            cpu: "millicores/1000".parse().unwrap(),
            memory: "mib*1048576".parse().unwrap(),
            ..TraceColumns::default()
        };
        let trace = read("t.csv", "unix_s,millicores,mib\n10,1500,2\n", &columns).unwrap();
        assert_eq!(trace.containers[0].cpu.peak(), Some(1.5));
        assert_eq!(trace.containers[0].memory.peak(), Some(2_097_152.0));
        for text in ["", "a*", "a*x", "a/0", "*2"] {
            assert!(text.parse::<Column>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bad_row_is_told_of_and_its_neighbours_count() {
        let text = "time,cpu\n1,1\nsoon,1\n3,much\n4,-1\n5,2\n";
        let trace = read("t.csv", text, &TraceColumns::default()).unwrap();
        assert_eq!(trace.containers[0].cpu.len(), 2);
        assert_eq!(trace.problems[0], "2 of 5 rows are left out; of row 2, its time is 'soon'");
        assert!(trace.problems[1].starts_with("trace: 1 values are negative"), "{:?}", trace.problems);
        let missing = read("t.csv", "when,cpu\n1,1\n", &TraceColumns::default()).unwrap_err();
        assert!(missing.message.ends_with("there is no column 'time'; the file has when, cpu"), "{missing}");
        let empty = read("t.csv", "time,cpu\n", &TraceColumns::default()).unwrap_err();
        assert!(empty.message.ends_with("no row has a time and a demand"), "{empty}");
    }

    #[test]
    fn the_same_name_in_two_apps_is_two_containers_and_no_limit_is_none() {
        let text = "time,app,container,cpu,cpu_limit\n1,a,main,1,0\n1,b,main,2,0\n1,a,web,3,0\n2,,web,4,0\n";
        let trace = read("t.csv", text, &TraceColumns::default()).unwrap();
        let names: Vec<_> =
            trace.containers.iter().map(|c| (c.member.name.as_str(), c.cpu.len(), c.member.cpu)).collect();
        assert_eq!(names, [("a/main", 1, Limit::At(1.0)), ("b/main", 1, Limit::At(2.0)), ("web", 2, Limit::At(4.0))]);
    }

    #[test]
    fn seconds_and_milliseconds_are_told_apart() {
        assert_eq!(milliseconds("1700000000"), Some(1_700_000_000_000));
        assert_eq!(milliseconds("1700000000123"), Some(1_700_000_000_123));
        assert_eq!((milliseconds("0.5"), milliseconds("x"), milliseconds("inf")), (Some(500), None, None));
    }
}
