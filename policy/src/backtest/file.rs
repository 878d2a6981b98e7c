//! A trace from a file: CSV (also gzip) or Parquet, one row a container and time.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::collected::{Collected, FIXED, Fixed, Sample};
use super::trace::Trace;
use crate::error::{PolicyError, PolicyErrorKind};

/// Times below this are seconds, others milliseconds: as seconds it is the year 5138, as milliseconds March 1973.
const SECONDS_BELOW: f64 = 1e11;
/// Bytes that a thread reads at once, about.
const PIECE_BYTES: usize = 4 << 20;
const MOST_THREADS: usize = 8;

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
///
/// Further ones are called the same in every file, in cores and bytes: `cpu_min`, `cpu_max`, `memory_min`, `memory_max`, what
/// the operator allows, and `memory_anon`, the part of the memory that cannot be reclaimed, which is all of it where there is
/// no such column.
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
        let rows = if name.ends_with(".parquet") {
            parquet(file, columns)
        } else if name.ends_with(".gz") {
            csv(flate2::read::MultiGzDecoder::new(file), columns)
        } else {
            csv(file, columns)
        };
        let rows = rows.map_err(&failed)?;
        let mut trace = Trace { problems: rows.problems(), ..Trace::default() };
        for (traced, problem) in rows.traced() {
            trace.containers.push(traced);
            trace.problems.extend(problem);
        }
        match trace.span() {
            Some(_) => Ok(trace),
            None => Err(failed("no row has a time and a demand".to_owned())),
        }
    }
}

/// Where the columns of a file are.
struct Places {
    time: usize,
    container: Option<usize>,
    app: Option<usize>,
    /// Each with its factor.
    cpu: Option<(usize, f64)>,
    memory: Option<(usize, f64)>,
    anon: Option<(usize, f64)>,
    fixed: [(Fixed, Option<(usize, f64)>); FIXED],
}

impl Places {
    fn of(wanted: &TraceColumns, names: &[String]) -> Result<Self, String> {
        let find = |name: &str| names.iter().position(|known| known == name);
        let number = |column: &Column| Some((find(&column.name)?, column.factor));
        let named = |name: &str| Some((find(name)?, 1.0));
        let there = || format!("the file has {}", names.join(", "));
        let time = find(&wanted.time).ok_or_else(|| format!("there is no column '{}'; {}", wanted.time, there()))?;
        let (cpu, memory) = (number(&wanted.cpu), number(&wanted.memory));
        if cpu.is_none() && memory.is_none() {
            let (cpu, memory) = (&wanted.cpu.name, &wanted.memory.name);
            return Err(format!("there is neither a column '{cpu}' nor a column '{memory}'; {}", there()));
        }
        let fixed = [
            (Fixed::CpuLimit, number(&wanted.cpu_limit)),
            (Fixed::MemoryLimit, number(&wanted.memory_limit)),
            (Fixed::CpuMin, named("cpu_min")),
            (Fixed::CpuMax, named("cpu_max")),
            (Fixed::MemoryMin, named("memory_min")),
            (Fixed::MemoryMax, named("memory_max")),
        ];
        let (container, app, anon) = (find(&wanted.container), find(&wanted.app), named("memory_anon"));
        Ok(Self { time, container, app, cpu, memory, anon, fixed })
    }

    /// All columns that are there.
    fn all(&self) -> impl Iterator<Item = usize> {
        let fixed = self.fixed.iter().filter_map(|(_, place)| *place);
        let numbers = [self.cpu, self.memory, self.anon].into_iter().flatten().chain(fixed).map(|(column, _)| column);
        numbers.chain([self.time]).chain(self.container).chain(self.app)
    }

    /// Takes a row; `text` gives what stands in a column, if anything does.
    fn row<'t>(&self, rows: &mut Collected, text: impl Fn(usize) -> Option<&'t str>) {
        rows.count();
        let number = |place: Option<(usize, f64)>| {
            let Some((column, factor)) = place else { return Ok(f64::NAN) };
            let Some(text) = text(column) else { return Ok(f64::NAN) };
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            number.map(|number| number * factor).ok_or_else(|| format!("'{text}' is no number"))
        };
        let sample = || {
            let time = text(self.time).ok_or_else(|| "its time is missing".to_owned())?;
            let time = milliseconds(time).ok_or_else(|| format!("its time is '{time}'"))?;
            let sample =
                Sample { time, cpu: number(self.cpu)?, memory: number(self.memory)?, anon: number(self.anon)? };
            let mut fixed = [f64::NAN; FIXED];
            for (value, (_, place)) in fixed.iter_mut().zip(self.fixed) {
                *value = number(place)?;
            }
            Ok((sample, fixed))
        };
        match sample() {
            Ok((sample, fixed)) => {
                let of = rows.of(self.app.and_then(&text), self.container.and_then(&text).unwrap_or("trace"));
                of.push(sample);
                for ((what, _), value) in self.fixed.iter().zip(fixed).filter(|(_, value)| !value.is_nan()) {
                    of.fix(*what, sample.time, value);
                }
            }
            Err(why) => rows.leave_out(why),
        }
    }
}

/// Reads CSV with a header line: block by block, and the blocks in pieces on several threads, since the files are large.
fn csv(file: impl Read, columns: &TraceColumns) -> Result<Collected, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    csv_in_pieces(file, columns, threads, PIECE_BYTES)
}

fn csv_in_pieces(
    mut file: impl Read,
    columns: &TraceColumns,
    threads: usize,
    piece_bytes: usize,
) -> Result<Collected, String> {
    let told = |error: std::io::Error| error.to_string();
    let block_bytes = threads * piece_bytes;
    let mut block = Vec::new();
    let mut more = read_block(&mut file, &mut block, block_bytes).map_err(told)?;
    let (names, begun) = header(&block)?;
    block.drain(..begun);
    let places = &Places::of(columns, &names)?;
    let mut rows = Collected::default();
    loop {
        // A line may go on within quotes.
        if block.contains(&b'"') {
            rows.extend(piece(block.as_slice().chain(file), places)?);
            return Ok(rows);
        }
        let end =
            if more { block.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { block.len() };
        let pieces = pieces(&block[..end], threads);
        std::thread::scope(|scope| {
            let reading: Vec<_> = pieces.into_iter().map(|part| scope.spawn(move || piece(part, places))).collect();
            reading.into_iter().try_for_each(|part| {
                rows.extend(part.join().map_err(|_| "it cannot be read".to_owned())??);
                Ok::<_, String>(())
            })
        })?;
        if !more {
            return Ok(rows);
        }
        block.drain(..end);
        more = read_block(&mut file, &mut block, block_bytes).map_err(told)?;
    }
}

/// The names of the columns, and where the line behind them begins.
fn header(block: &[u8]) -> Result<(Vec<String>, usize), String> {
    let mut reader = csv_reader(block, true);
    let names = reader.headers().map_err(|error| error.to_string())?;
    let names = names.iter().map(|name| name.trim().to_owned()).collect();
    Ok((names, usize::try_from(reader.position().byte()).unwrap_or(usize::MAX).min(block.len())))
}

/// Reads on; false at the end of the file.
fn read_block(file: &mut impl Read, block: &mut Vec<u8>, bytes: usize) -> std::io::Result<bool> {
    Ok(file.take(bytes as u64).read_to_end(block)? == bytes)
}

/// `lines` in as many parts, or less, each of whole lines.
fn pieces(lines: &[u8], count: usize) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::with_capacity(count), lines);
    for left in (1..=count).rev() {
        let at = rest.len() / left;
        let end = rest[at..].iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| at + end + 1);
        let (piece, others) = rest.split_at(end);
        pieces.push(piece);
        rest = others;
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn csv_reader<R: Read>(file: R, header: bool) -> csv::Reader<R> {
    csv::ReaderBuilder::new().flexible(true).has_headers(header).buffer_capacity(1 << 16).from_reader(file)
}

/// Reads rows that are whole.
fn piece(lines: impl Read, places: &Places) -> Result<Collected, String> {
    let (mut rows, mut record) = (Collected::default(), csv::ByteRecord::new());
    let mut reader = csv_reader(lines, false);
    while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
        // What is no text is nothing that a row could say.
        let text = |column| std::str::from_utf8(record.get(column)?).ok().filter(|text| !text.trim().is_empty());
        places.row(&mut rows, text);
    }
    Ok(rows)
}

fn parquet(file: File, columns: &TraceColumns) -> Result<Collected, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    let mut rows = Collected::default();
    for batch in reader.map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let places = Places::of(columns, &names)?;
        let mut texts: HashMap<usize, StringArray> = HashMap::new();
        for column in places.all() {
            texts.insert(column, as_text(batch.column(column))?);
        }
        for row in 0..batch.num_rows() {
            places.row(&mut rows, |column| {
                texts.get(&column).filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row))
            });
        }
    }
    Ok(rows)
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
    use proptest::prelude::*;
    use tidegate_model::{Limit, TimeMs};

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

    fn any_line() -> impl Strategy<Value = String> {
        let cell = prop::sample::select(vec!["", "1", "2.5", " 3 ", "x", "-1", "1e400"]);
        let name = prop::sample::select(vec!["", "a", "b", "c", "\"d\"", "\"e,\ne\"", "f\"", "ä"]);
        let app = prop::sample::select(vec!["", "x", "y"]);
        let end = prop::sample::select(vec!["\n", "\r\n", "\n\n"]);
        let row = (0_i64..20, name, app, [cell.clone(), cell.clone(), cell], end).prop_map(
            |(time, name, app, [cpu, limit, min], end)| format!("{time},{name},{app},{cpu},{limit},{min}{end}"),
        );
        prop_oneof![12 => row, 1 => Just("soon\n".to_owned())]
    }

    proptest! {
        #[test]
        fn a_file_that_is_read_in_pieces_says_what_it_says_as_a_whole(
            lines in prop::collection::vec(any_line(), 0..40), quotes in any::<bool>(), last in any::<bool>(),
            threads in 1_usize..4, piece_bytes in 60_usize..200,
        ) {
            let mut text: String = lines.concat();
            if !quotes {
                text = text.replace('"', "");
            }
            let mut text = text.as_str();
            if last {
                text = text.trim_end();
            }
            let columns = TraceColumns::default();
            let names = "time,container,app,cpu,cpu_limit,cpu_min\n";
            let places = Places::of(&columns, &names.trim().split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap();
            let whole = piece(text.as_bytes(), &places).unwrap();
            let file = format!("{names}{text}");
            let parts = csv_in_pieces(file.as_bytes(), &columns, threads, piece_bytes).unwrap();
            prop_assert_eq!(parts.problems(), whole.problems());
            prop_assert_eq!(parts.traced(), whole.traced());
        }
    }

    #[test]
    fn seconds_and_milliseconds_are_told_apart() {
        assert_eq!(milliseconds("1700000000"), Some(1_700_000_000_000));
        assert_eq!(milliseconds("1700000000123"), Some(1_700_000_000_123));
        assert_eq!((milliseconds("0.5"), milliseconds("x"), milliseconds("inf")), (Some(500), None, None));
    }
}
