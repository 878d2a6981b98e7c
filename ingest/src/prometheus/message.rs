//! The two messages of remote write. Both end up as a series' labels, in version 1's bytes, and its samples.

use tidegate_model::{SeriesKey, SeriesRef, TimeMs};

use super::Decoded;
use super::wire::{Reader, Value, WireError, put_bytes};
use crate::protocol::Protocol;
use crate::spellings::{Known, Spelling, Walk};

/// The value with which Prometheus says that a series has ended (`model/value/value.go`: `StaleNaN`).
const STALE: u64 = 0x7ff0_0000_0000_0002;
/// The label that is the metric's name.
const NAME: &str = "__name__";
/// Tag byte of a label in version 1's `TimeSeries`.
const LABEL: u8 = 0x0a;

/// `WriteRequest { timeseries = 1; metadata = 3 }`
pub(super) fn read_v1(body: &[u8], known: &Known) -> Result<Decoded, WireError> {
    let mut series = SeriesReader::new(body, known);
    let mut request = Reader::new(body);
    while let Some((number, value)) = request.field()? {
        if let (1, Value::Bytes(message)) = (number, value) {
            series.read_v1(message)?;
        }
    }
    Ok(series.decoded)
}

/// `Request { symbols = 4; timeseries = 5 }`
pub(super) fn read_v2(body: &[u8], known: &Known) -> Result<Decoded, WireError> {
    let mut symbols: Vec<&[u8]> = Vec::new();
    let mut request = Reader::new(body);
    while let Some((number, value)) = request.field()? {
        if let (4, Value::Bytes(symbol)) = (number, value) {
            symbols.push(symbol.bytes());
        }
    }
    let mut series = SeriesReader::new(body, known);
    let mut request = Reader::new(body);
    while let Some((number, value)) = request.field()? {
        if let (5, Value::Bytes(message)) = (number, value) {
            series.read_v2(message, &symbols)?;
        }
    }
    Ok(series.decoded)
}

struct SeriesReader<'k> {
    walk: Walk<'k>,
    decoded: Decoded,
    /// The number of series so far.
    count: u32,
    /// Kept for its room.
    labels: Vec<u8>,
}

impl<'k> SeriesReader<'k> {
    fn new(body: &[u8], known: &'k Known) -> Self {
        let walk = known.walk(Protocol::Prometheus);
        Self { walk, decoded: Decoded::new(body.len()), count: 0, labels: Vec::new() }
    }

    /// `TimeSeries { labels = 1; samples = 2; exemplars = 3; histograms = 4 }`
    fn read_v1(&mut self, message: Reader<'_>) -> Result<(), WireError> {
        let text = message.bytes();
        if let Some(spelling) = self.walk.expected()
            && let Some(rest) = text.strip_prefix(spelling.parts[0])
            && rest.first() != Some(&LABEL)
            && !has_label(message.behind(spelling.parts[0].len()))?
        {
            return self.read_known(spelling, message);
        }
        let mut rest = message;
        while rest.bytes().first() == Some(&LABEL) {
            rest.field()?;
        }
        let labels = &text[..text.len() - rest.bytes().len()];
        if has_label(rest)? {
            let mut spelt = labels.to_vec();
            let mut all = rest;
            while let Some((number, value)) = all.field()? {
                if let (1, Value::Bytes(label)) = (number, value) {
                    put_bytes(&mut spelt, 1, label.bytes());
                }
            }
            return self.read_new(&spelt, message.at, rest);
        }
        match self.walk.find([labels, b"", b""]) {
            Some(spelling) => self.read_known(spelling, message),
            None => self.read_new(labels, message.at, rest),
        }
    }

    /// `TimeSeries { labels_refs = 1, packed; samples = 2; histograms = 3; exemplars = 4; metadata = 5 }`
    fn read_v2(&mut self, message: Reader<'_>, symbols: &[&[u8]]) -> Result<(), WireError> {
        let mut labels = std::mem::take(&mut self.labels);
        labels.clear();
        let mut refs = Vec::new();
        let mut fields = message;
        while let Some((number, value)) = fields.field()? {
            match (number, value) {
                (1, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        refs.push(packed.varint()?);
                    }
                }
                (1, Value::Varint(single)) => refs.push(single),
                _ => {}
            }
        }
        let symbol = |at: &u64| usize::try_from(*at).ok().and_then(|at| symbols.get(at)).copied();
        let mut label = Vec::new();
        let (pairs, odd) = refs.as_chunks::<2>();
        for [name, value] in pairs {
            let (Some(name), Some(value)) = (symbol(name), symbol(value)) else {
                return message.error("label refers to a symbol that is not there, in the series");
            };
            label.clear();
            put_bytes(&mut label, 1, name);
            put_bytes(&mut label, 2, value);
            put_bytes(&mut labels, 1, &label);
        }
        if !odd.is_empty() {
            return message.error("label without a value in the series");
        }
        let read = match self.walk.find([&labels, b"", b""]) {
            Some(spelling) => {
                self.walk.step(spelling);
                self.read_samples(SeriesRef::Id(spelling.id), &labels, message)
            }
            None => self.read_new(&labels, message.at, message),
        };
        self.labels = labels;
        read
    }

    fn read_known(&mut self, spelling: Spelling<'k>, message: Reader<'_>) -> Result<(), WireError> {
        self.walk.step(spelling);
        let [labels, ..] = spelling.parts;
        self.read_samples(SeriesRef::Id(spelling.id), labels, message.behind(labels.len()))
    }

    fn read_new(&mut self, labels: &[u8], at: usize, message: Reader<'_>) -> Result<(), WireError> {
        match read_key(labels).map_err(|error| WireError { at: at + error.at, ..error })? {
            Ok(key) => {
                let at = self.decoded.batch.add_key(key);
                self.decoded.learnt.note([labels, b"", b""], 0, at);
                self.read_samples(SeriesRef::Key(at), labels, message)
            }
            Err(reason) => {
                let count = self.count;
                self.decoded.note(count, || reason);
                self.count += 1;
                Ok(())
            }
        }
    }

    /// Reads the samples of a message, whose other fields have the same numbers in both versions as far as they matter.
    fn read_samples(&mut self, series: SeriesRef, labels: &[u8], mut message: Reader<'_>) -> Result<(), WireError> {
        while let Some((number, value)) = message.field()? {
            match (number, value) {
                (2, Value::Bytes(sample)) => self.read_sample(series, labels, sample)?,
                (3 | 4, Value::Bytes(_)) => self.decoded.skipped += 1,
                _ => {}
            }
        }
        self.count += 1;
        Ok(())
    }

    /// `Sample { double value = 1; int64 timestamp = 2 }`
    fn read_sample(&mut self, series: SeriesRef, labels: &[u8], mut sample: Reader<'_>) -> Result<(), WireError> {
        let (mut value, mut time) = (0u64, 0u64);
        while let Some((number, content)) = sample.field()? {
            match (number, content) {
                (1, Value::Fixed64(bits)) => value = bits,
                (2, Value::Varint(ms)) => time = ms,
                (1 | 2, _) => return sample.error("sample with a field of the wrong type"),
                _ => {}
            }
        }
        let time = TimeMs(time as i64); // a negative number is sent as its two's complement
        let number = f64::from_bits(value);
        if value == STALE {
            self.decoded.skipped += 1;
        } else if number.is_finite() {
            self.decoded.batch.push_row(series, time, number);
            self.decoded.series.push(self.count);
        } else {
            let kind = if number.is_nan() { "not a number" } else { "infinite" };
            self.decoded.note(self.count, || format!("{}: value at time {time} is {kind}", spoken(labels)));
        }
        Ok(())
    }
}

/// Whether there are labels among these fields: they may stand behind others as well, though no client is known that does so.
fn has_label(mut fields: Reader<'_>) -> Result<bool, WireError> {
    let mut found = false;
    while let Some((number, value)) = fields.field()? {
        found |= matches!((number, value), (1, Value::Bytes(_)));
    }
    Ok(found)
}

/// A label's name and its value.
type Label<'a> = (&'a str, &'a str);

/// Reads labels, as version 1 spells them, as a key: what is wrong with the message, or with the series.
fn read_key(labels: &[u8]) -> Result<Result<SeriesKey, String>, WireError> {
    let labels = match read_labels(labels)? {
        Ok(labels) => labels,
        Err(reason) => return Ok(Err(reason)),
    };
    let Some((_, metric)) = labels.iter().find(|label| label.0 == NAME) else {
        return Ok(Err(format!("no label {NAME} among {}", shown(&labels))));
    };
    let mut names: Vec<&str> = labels.iter().map(|label| label.0).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Ok(Err(format!("label '{}' is given twice", pair[0])));
    }
    let tags = labels.iter().copied().filter(|label| label.0 != NAME);
    Ok(Ok(SeriesKey::from_parts(metric, tags)))
}

/// The labels that have a value.
fn read_labels(labels: &[u8]) -> Result<Result<Vec<Label<'_>>, String>, WireError> {
    let mut found = Vec::new();
    let mut fields = Reader::new(labels);
    while let Some((_, content)) = fields.field()? {
        let Value::Bytes(mut label) = content else { return fields.error("label of the wrong type") };
        let (mut name, mut value): (&[u8], &[u8]) = (b"", b"");
        while let Some((number, content)) = label.field()? {
            match (number, content) {
                (1, Value::Bytes(bytes)) => name = bytes.bytes(),
                (2, Value::Bytes(bytes)) => value = bytes.bytes(),
                (1 | 2, _) => return label.error("label with a field of the wrong type"),
                _ => {}
            }
        }
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Ok(Err(format!("label '{}' is not valid UTF-8", String::from_utf8_lossy(name))));
        };
        if name.is_empty() {
            return Ok(Err("label without a name".to_owned()));
        }
        if !value.is_empty() {
            found.push((name, value));
        }
    }
    Ok(Ok(found))
}

/// `up{job="node"}`, of labels that may be anything.
fn spoken(labels: &[u8]) -> String {
    match read_labels(labels) {
        Ok(Ok(labels)) => shown(&labels),
        _ => "a series".to_owned(),
    }
}

fn shown(labels: &[Label<'_>]) -> String {
    let metric = labels.iter().find(|label| label.0 == NAME).map_or("", |label| label.1);
    let tags = labels.iter().filter(|label| label.0 != NAME);
    let tags: Vec<String> = tags.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{metric}{{{}}}", tags.join(", "))
}

#[cfg(test)]
pub(super) fn put_sample(out: &mut Vec<u8>, value: f64, time: i64) {
    let mut sample = vec![0x09];
    sample.extend_from_slice(&value.to_bits().to_le_bytes());
    sample.push(0x10);
    super::wire::put_varint(&mut sample, time as u64);
    put_bytes(out, 2, &sample);
}
