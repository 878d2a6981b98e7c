//! Request bodies: the same samples in each wire format.

use crate::fleet::{Container, Group, METRICS};

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON array of data points.
    OpenTsdb,
    /// One line a container, its metrics as fields of the measurement `fleet`, times in ns.
    Lines,
    /// Prometheus remote write 1.0: protobuf in a Snappy block.
    RemoteWrite,
}

impl Format {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "opentsdb" => Self::OpenTsdb,
            "lines" => Self::Lines,
            "remote-write" => Self::RemoteWrite,
            _ => return None,
        })
    }

    /// The headers that the format needs.
    pub fn headers(self) -> &'static str {
        match self {
            Self::OpenTsdb => "Content-Type: application/json\r\n",
            Self::Lines => "Content-Type: text/plain; charset=utf-8\r\n",
            Self::RemoteWrite => {
                "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                 X-Prometheus-Remote-Write-Version: 0.1.0\r\n"
            }
        }
    }

    /// The group's samples as a body; all are of the time `at` in ms.
    pub fn body(self, group: &Group, at: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(group.points() * 132);
        match self {
            Self::OpenTsdb => opentsdb(group, at, &mut out),
            Self::Lines => group.containers.iter().for_each(|container| line(container, at, &mut out)),
            Self::RemoteWrite => {
                group.containers.iter().for_each(|container| series(container, at, &mut out));
                return compressed(&out);
            }
        }
        out.shrink_to_fit();
        out
    }
}

fn opentsdb(group: &Group, at: i64, out: &mut Vec<u8>) {
    // The protocol takes seconds, and milliseconds when there are more than ten digits.
    let at = if at % 1_000 == 0 { at / 1_000 } else { at };
    out.push(b'[');
    for container in &group.containers {
        let tags = &container.tags;
        for ((metric, decimals), value) in METRICS.iter().zip(container.values) {
            if out.len() > 1 {
                out.push(b',');
            }
            put(out, &["{\"metric\":\"", metric, "\",\"timestamp\":"]);
            put_whole(out, at);
            put(out, &[",\"value\":"]);
            put_decimal(out, value, *decimals);
            put(out, &[",\"tags\":{\"host\":\"", &tags.host, "\",\"container\":\"", &tags.container]);
            put(out, &["\",\"app\":\"", &tags.app, "\"}}"]);
        }
    }
    out.push(b']');
}

fn line(container: &Container, at: i64, out: &mut Vec<u8>) {
    let tags = &container.tags;
    put(out, &["fleet,app=", &tags.app, ",container=", &tags.container, ",host=", &tags.host]);
    for (number, ((metric, decimals), value)) in METRICS.iter().zip(container.values).enumerate() {
        put(out, &[if number == 0 { " " } else { "," }, metric, "="]);
        put_decimal(out, value, *decimals);
    }
    out.push(b' ');
    put_whole(out, at);
    put(out, &["000000\n"]);
}

/// `WriteRequest.timeseries` of each metric: labels sorted by name, one sample.
fn series(container: &Container, at: i64, out: &mut Vec<u8>) {
    let tags = &container.tags;
    let mut message = Vec::with_capacity(160);
    for ((metric, decimals), value) in METRICS.iter().zip(container.values) {
        message.clear();
        let labels =
            [("__name__", *metric), ("app", &*tags.app), ("container", &*tags.container), ("host", &*tags.host)];
        for (name, value) in labels {
            put_field(&mut message, 1, |label| {
                put_field(label, 1, |text| text.extend(name.as_bytes()));
                put_field(label, 2, |text| text.extend(value.as_bytes()));
            });
        }
        put_field(&mut message, 2, |sample| {
            sample.push(1 << 3 | 1);
            sample.extend((value as f64 / 10f64.powi(*decimals as i32)).to_le_bytes());
            sample.push(2 << 3);
            put_varint(sample, at as u64);
        });
        put_field(out, 1, |series| series.extend(&message));
    }
}

/// A length-delimited protobuf field.
fn put_field(out: &mut Vec<u8>, number: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::with_capacity(64);
    fill(&mut content);
    out.push(number << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend(content);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn compressed(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).expect("a body of 1,000 points is far below Snappy's 4 GiB")
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend(text.as_bytes()));
}

fn put_whole(out: &mut Vec<u8>, value: i64) {
    put(out, &[&value.to_string()]);
}

/// `value` in units of the last of `decimals` decimals.
fn put_decimal(out: &mut Vec<u8>, value: i64, decimals: u32) {
    let unit = 10i64.pow(decimals);
    put_whole(out, value / unit);
    if decimals > 0 {
        out.push(b'.');
        let digits = (value % unit).to_string();
        out.extend(std::iter::repeat_n(b'0', decimals as usize - digits.len()));
        put(out, &[&digits]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fleet;

    /// Value texts in the order of the body.
    fn between<'a>(body: &'a str, before: &str, ends: &[char]) -> Vec<&'a str> {
        body.split(before).skip(1).filter_map(|rest| rest.split(ends).next()).collect()
    }

    #[test]
    fn every_format_carries_the_same_values() {
        let mut group = fleet(1, 3).remove(0);
        group.step();
        let at = 1_800_000_000_000;
        let json = String::from_utf8(Format::OpenTsdb.body(&group, at)).unwrap();
        let lines = String::from_utf8(Format::Lines.body(&group, at)).unwrap();
        let in_json: Vec<f64> = between(&json, "\"value\":", &[',']).iter().map(|v| v.parse().unwrap()).collect();
        let fields = lines.lines().flat_map(|line| line.split(' ').nth(1).unwrap().split(','));
        let in_lines: Vec<f64> = fields.map(|field| field.split_once('=').unwrap().1.parse().unwrap()).collect();
        assert_eq!(in_json.len(), 200);
        assert_eq!(in_json, in_lines);
        // In the protobuf a value stands behind the tag of a sample's first field, and its length is always 16 or 17.
        let raw = snap::raw::Decoder::new().decompress_vec(&Format::RemoteWrite.body(&group, at)).unwrap();
        let samples = raw.windows(11).filter(|w| w[0] == 0x12 && w[2] == 0x09 && w[1] == 16);
        let in_protobuf: Vec<f64> = samples.map(|w| f64::from_le_bytes(w[3..11].try_into().unwrap())).collect();
        assert_eq!(in_json, in_protobuf);
    }

    #[test]
    fn decimals_are_padded() {
        let mut out = Vec::new();
        for (value, decimals) in [(5, 2), (1_205, 2), (0, 2), (7, 0)] {
            put_decimal(&mut out, value, decimals);
            out.push(b' ');
        }
        assert_eq!(out, b"0.05 12.05 0.00 7 ");
    }

    #[test]
    fn times_are_seconds_where_they_can_be() {
        let group = fleet(1, 3).remove(0);
        let body = |at| String::from_utf8(Format::OpenTsdb.body(&group, at)).unwrap();
        assert!(body(1_800_000_000_000).contains("\"timestamp\":1800000000,"));
        assert!(body(1_800_000_000_050).contains("\"timestamp\":1800000000050,"));
    }
}
