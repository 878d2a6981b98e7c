//! Records of the write-ahead log and the series log: how they are framed, and what is in them.
//!
//! A frame is a 16-byte header and a payload, all numbers little-endian:
//! `marker u32 | payload length u32 | crc32 of the payload u32 | crc32 of the 12 bytes before u32 | payload`.
//! The header has a checksum of its own so that a damaged payload costs only itself: its length can still be trusted. When
//! the header is damaged, the reader looks for the next one.

use tidegate_model::{Decision, Event, SeriesKey};

const MARKER: [u8; 4] = *b"TGW1";
/// Size of a frame's header.
pub(crate) const HEADER: usize = 16;
/// Samples in one record at most, so that no length comes near u32's end.
pub(crate) const MAX_RECORD_SAMPLES: usize = 1 << 20;

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
const DECISIONS: u8 = 3;
const EVENTS: u8 = 4;
/// Series again, compressed: many that come together have most of their tags in common.
const PACKED_SERIES: u8 = 5;

/// Below this many bytes series are not compressed.
const PACKED_FROM: usize = 512;
/// Bytes of series after which another frame begins, before compression.
const SERIES_FRAME: usize = 8 << 20;
/// Room that a frame of compressed series may ask for: twice the longest key is far below it.
const MAX_UNPACKED: usize = 256 << 20;
const PACKED_LEVEL: i32 = 3;

/// Samples that arrived together, in columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SampleColumns {
    pub series: Vec<u32>,
    /// In ms UTC.
    pub times: Vec<i64>,
    pub values: Vec<f64>,
}

/// What one frame holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// Definitions of series ids.
    Series(Vec<(u32, SeriesKey)>),
    /// Samples and when they arrived, in ms UTC.
    Samples { arrived: i64, columns: SampleColumns },
    /// Decisions and when they arrived.
    Decisions { arrived: i64, rows: Vec<Decision> },
    /// Events and when they arrived.
    Events { arrived: i64, rows: Vec<Event> },
}

/// Appends frames with series definitions to `out`.
pub(crate) fn put_series<'a>(out: &mut Vec<u8>, series: impl ExactSizeIterator<Item = (u32, &'a SeriesKey)>) {
    let (mut body, mut count) = (Vec::new(), 0);
    let mut left = series.len();
    for (id, key) in series {
        put_u32(&mut body, id);
        put_text(&mut body, key.metric());
        put_u32(&mut body, key.tags().len() as u32);
        for (tag, value) in key.tags() {
            put_text(&mut body, tag);
            put_text(&mut body, value);
        }
        (count, left) = (count + 1, left - 1);
        if left == 0 || body.len() >= SERIES_FRAME {
            put_series_frame(out, count, &body);
            body.clear();
            count = 0;
        }
    }
}

fn put_series_frame(out: &mut Vec<u8>, count: u32, body: &[u8]) {
    let packed = (PACKED_FROM..=MAX_UNPACKED).contains(&body.len()).then(|| zstd::bulk::compress(body, PACKED_LEVEL));
    frame(out, |out| match packed {
        Some(Ok(packed)) => {
            out.push(PACKED_SERIES);
            put_u32(out, count);
            put_u32(out, body.len() as u32);
            out.extend_from_slice(&packed);
        }
        // Whatever kept it from being compressed, it can be written as it is.
        _ => {
            out.push(SERIES);
            put_u32(out, count);
            out.extend_from_slice(body);
        }
    });
}

/// Appends frames with samples, given in columns of the same length, to `out`.
pub(crate) fn put_samples(out: &mut Vec<u8>, arrived: i64, series: &[u32], times: &[i64], values: &[f64]) {
    let series = series.chunks(MAX_RECORD_SAMPLES);
    let columns = series.zip(times.chunks(MAX_RECORD_SAMPLES)).zip(values.chunks(MAX_RECORD_SAMPLES));
    for ((series, times), values) in columns {
        frame(out, |out| {
            out.push(SAMPLES);
            out.extend_from_slice(&arrived.to_le_bytes());
            put_u32(out, series.len() as u32);
            put_column(out, series, |id| id.to_le_bytes());
            put_column(out, times, |time| time.to_le_bytes());
            put_column(out, values, |value| value.to_le_bytes());
        });
    }
}

/// Appends numbers of `N` bytes each. Reserved first and then filled, which the compiler turns into a plain copy.
fn put_column<T: Copy, const N: usize>(out: &mut Vec<u8>, column: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + column.len() * N, 0);
    let (cells, _) = out[start..].as_chunks_mut::<N>();
    cells.iter_mut().zip(column).for_each(|(cell, &number)| *cell = bytes(number));
}

/// Appends a frame with decisions, given as a JSON array, to `out`.
pub(crate) fn put_decisions(out: &mut Vec<u8>, arrived: i64, json: &[u8]) {
    put_json(out, DECISIONS, arrived, json);
}

/// Appends a frame with events, given as a JSON array, to `out`.
pub(crate) fn put_events(out: &mut Vec<u8>, arrived: i64, json: &[u8]) {
    put_json(out, EVENTS, arrived, json);
}

fn put_json(out: &mut Vec<u8>, kind: u8, arrived: i64, json: &[u8]) {
    frame(out, |out| {
        out.push(kind);
        out.extend_from_slice(&arrived.to_le_bytes());
        out.extend_from_slice(json);
    });
}

fn frame(out: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    write_payload(out);
    let payload = start + HEADER;
    let length = (out.len() - payload) as u32;
    let payload_sum = crc32fast::hash(&out[payload..]);
    out[start..start + 4].copy_from_slice(&MARKER);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&payload_sum.to_le_bytes());
    let header_sum = crc32fast::hash(&out[start..start + 12]);
    out[start + 12..start + 16].copy_from_slice(&header_sum.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}

/// Bytes that are no intact record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where in the file they begin.
    pub offset: usize,
    /// How many there are.
    pub bytes: usize,
    /// Whether they reach to the end of the file: a write that a crash cut off.
    pub tail: bool,
}

/// Reads all records of a file; what is damaged costs only itself.
pub(crate) fn read_all(bytes: &[u8], mut each: impl FnMut(Record)) -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (length, record) = match header(bytes, at) {
            Some((length, sum)) if at + HEADER + length <= bytes.len() => {
                let payload = &bytes[at + HEADER..at + HEADER + length];
                let intact = crc32fast::hash(payload) == sum;
                (HEADER + length, intact.then(|| decode(payload)).flatten())
            }
            // A good header without its whole payload, or no header at all: go on at the next good header.
            _ => (next_header(bytes, at + 1) - at, None),
        };
        match record {
            Some(record) => each(record),
            None => damages.push(Damage { offset: at, bytes: length, tail: at + length == bytes.len() }),
        }
        at += length;
    }
    damages
}

/// Payload length and checksum of the header at `at`, if there is an intact one.
fn header(bytes: &[u8], at: usize) -> Option<(usize, u32)> {
    let header = bytes.get(at..at + HEADER)?;
    let intact = header[..4] == MARKER && crc32fast::hash(&header[..12]) == read_u32(&header[12..]);
    intact.then(|| (read_u32(&header[4..]) as usize, read_u32(&header[8..])))
}

fn next_header(bytes: &[u8], from: usize) -> usize {
    (from..bytes.len()).find(|&at| bytes[at] == MARKER[0] && header(bytes, at).is_some()).unwrap_or(bytes.len())
}

/// Reads the first four of `bytes`, which the callers have made sure exist.
fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn decode(payload: &[u8]) -> Option<Record> {
    let (&kind, rest) = payload.split_first()?;
    let mut reader = Reader(rest);
    match kind {
        SERIES => {
            let count = reader.u32()?;
            Some(Record::Series(reader.all_series(count)?))
        }
        PACKED_SERIES => {
            let (count, length) = (reader.u32()?, reader.u32()? as usize);
            let body = (length <= MAX_UNPACKED).then(|| zstd::bulk::decompress(reader.0, length).ok()).flatten()?;
            Some(Record::Series(Reader(&body).all_series(count)?))
        }
        SAMPLES => {
            let arrived = reader.i64()?;
            let count = reader.u32()? as usize;
            let series = reader.take(count.checked_mul(4)?)?.as_chunks::<4>().0;
            let times = reader.take(count.checked_mul(8)?)?.as_chunks::<8>().0;
            let values = reader.take(count.checked_mul(8)?)?.as_chunks::<8>().0;
            let columns = SampleColumns {
                series: series.iter().map(|b| u32::from_le_bytes(*b)).collect(),
                times: times.iter().map(|b| i64::from_le_bytes(*b)).collect(),
                values: values.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            };
            Some(Record::Samples { arrived, columns })
        }
        DECISIONS => Some(Record::Decisions { arrived: reader.i64()?, rows: serde_json::from_slice(reader.0).ok()? }),
        EVENTS => Some(Record::Events { arrived: reader.i64()?, rows: serde_json::from_slice(reader.0).ok()? }),
        _ => None,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(read_u32)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take(8)?.try_into().ok().map(i64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn all_series(&mut self, count: u32) -> Option<Vec<(u32, SeriesKey)>> {
        (0..count).map(|_| self.series()).collect()
    }

    fn series(&mut self) -> Option<(u32, SeriesKey)> {
        let id = self.u32()?;
        let metric = self.text()?;
        let tags = self.u32()?;
        let tags = (0..tags).map(|_| Some((self.text()?, self.text()?))).collect::<Option<Vec<_>>>()?;
        Some((id, SeriesKey::from_parts(metric, tags)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: u32) -> SampleColumns {
        SampleColumns {
            series: (0..n).collect(),
            times: (0..n).map(|i| 1_000 + i64::from(i)).collect(),
            values: (0..n).map(|i| f64::from(i) / 3.0).collect(),
        }
    }

    fn put(out: &mut Vec<u8>, arrived: i64, columns: &SampleColumns) {
        put_samples(out, arrived, &columns.series, &columns.times, &columns.values);
    }

    /// Three records and where each begins.
    fn three() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let key = SeriesKey::new("cpu", [("host".to_owned(), "a".to_owned())]);
        let mut starts = vec![0];
        put_series(&mut bytes, [(7, &key)].into_iter());
        starts.push(bytes.len());
        put(&mut bytes, 5, &samples(3));
        starts.push(bytes.len());
        put(&mut bytes, 6, &samples(4));
        (bytes, starts)
    }

    fn read(bytes: &[u8]) -> (Vec<Record>, Vec<Damage>) {
        let mut records = Vec::new();
        let damages = read_all(bytes, |record| records.push(record));
        (records, damages)
    }

    #[test]
    fn records_come_back_as_they_were() {
        let (bytes, _) = three();
        let (records, damages) = read(&bytes);
        assert_eq!(damages, []);
        let Record::Series(series) = &records[0] else { panic!("{records:?}") };
        assert_eq!((series[0].0, series[0].1.tag("host")), (7, Some("a")));
        assert_eq!(records[2], Record::Samples { arrived: 6, columns: samples(4) });
    }

    #[test]
    fn many_series_take_little_room_and_come_back() {
        let key = |at: u32| {
            let tags = [("container", format!("web-{}", at / 10)), ("host", "a-host-with-a-long-name".to_owned())];
            SeriesKey::new(format!("metric_{}", at % 10), tags.map(|(tag, value)| (tag.to_owned(), value)))
        };
        // More than one frame holds.
        let keys: Vec<SeriesKey> = (0..150_000).map(key).collect();
        let mut bytes = Vec::new();
        put_series(&mut bytes, keys.iter().enumerate().map(|(at, key)| (at as u32, key)));
        assert!(bytes.len() < keys.len() * 12, "{} bytes", bytes.len());
        let (records, damages) = read(&bytes);
        assert_eq!((damages.len(), records.len() > 1), (0, true));
        let series = records.into_iter().flat_map(|record| match record {
            Record::Series(series) => series,
            other => panic!("{other:?}"),
        });
        assert!(series.eq(keys.into_iter().enumerate().map(|(at, key)| (at as u32, key))));
    }

    #[test]
    fn cutting_the_last_record_anywhere_costs_only_the_last_record() {
        let (bytes, starts) = three();
        for end in starts[2]..bytes.len() {
            let (records, damages) = read(&bytes[..end]);
            assert_eq!(records.len(), 2, "cut at {end}");
            let expected = Damage { offset: starts[2], bytes: end - starts[2], tail: true };
            assert_eq!(damages, if end == starts[2] { vec![] } else { vec![expected] });
        }
    }

    #[test]
    fn any_damaged_byte_costs_only_its_own_record() {
        let (bytes, starts) = three();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            let (records, damages) = read(&damaged);
            let hit = starts.iter().rposition(|&start| start <= at).unwrap();
            assert_eq!(records.len(), 2, "byte {at}");
            assert_eq!(damages.len(), 1, "byte {at}");
            assert_eq!(damages[0].offset, starts[hit], "byte {at}");
        }
    }
}
