use proptest::prelude::*;
use tidegate_model::{SeriesKey, SeriesRef};

use super::message::put_sample;
use super::wire::{put_bytes, put_varint};
use super::*;
use crate::spellings::Spellings;

/// Labels and samples of a series.
type Borrowed<'a> = (Vec<(&'a str, &'a str)>, &'a [(f64, i64)]);

type Labels<'a> = &'a [(&'a str, &'a str)];
type Samples<'a> = &'a [(f64, i64)];

fn labels(out: &mut Vec<u8>, labels: Labels<'_>) {
    for (name, value) in labels {
        let mut label = Vec::new();
        put_bytes(&mut label, 1, name.as_bytes());
        put_bytes(&mut label, 2, value.as_bytes());
        put_bytes(out, 1, &label);
    }
}

fn series(out: &mut Vec<u8>, named: Labels<'_>, samples: Samples<'_>) {
    let mut message = Vec::new();
    labels(&mut message, named);
    samples.iter().for_each(|&(value, time)| put_sample(&mut message, value, time));
    put_bytes(out, 1, &message);
}

/// The same as version 2's message.
fn v2(all: &[(Labels<'_>, Samples<'_>)]) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut messages = Vec::new();
    for (named, samples) in all {
        let mut refs = Vec::new();
        for text in named.iter().flat_map(|(name, value)| [name, value]) {
            let at = symbols.iter().position(|symbol| symbol == text).unwrap_or_else(|| {
                symbols.push((*text).to_owned());
                symbols.len() - 1
            });
            put_varint(&mut refs, at as u64);
        }
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &refs);
        samples.iter().for_each(|&(value, time)| put_sample(&mut message, value, time));
        put_bytes(&mut messages, 5, &message);
    }
    let mut body = Vec::new();
    symbols.iter().for_each(|symbol| put_bytes(&mut body, 4, symbol.as_bytes()));
    body.extend(messages);
    body
}

fn v1(all: &[(Labels<'_>, Samples<'_>)]) -> Vec<u8> {
    let mut body = Vec::new();
    all.iter().for_each(|(named, samples)| series(&mut body, named, samples));
    body
}

fn id_of(key: &SeriesKey) -> u32 {
    format!("{key:?}").bytes().fold(7u32, |sum, byte| sum.wrapping_mul(16_777_619) ^ u32::from(byte))
}

fn learn(spellings: &Spellings, decoded: &Decoded) {
    let ids: Vec<_> = decoded.batch.keys().iter().map(|key| Some(id_of(key))).collect();
    spellings.learn(&decoded.learnt, &ids);
}

type Row = (u32, i64, u64, u32);

fn rows(decoded: &Decoded) -> Vec<Row> {
    let batch = &decoded.batch;
    let id = |series: SeriesRef| match series {
        SeriesRef::Key(at) => id_of(&batch.keys()[at as usize]),
        SeriesRef::Id(id) => id,
    };
    (0..batch.len())
        .map(|row| (id(batch.series()[row]), batch.times()[row], batch.values()[row].to_bits(), decoded.series[row]))
        .collect()
}

/// Everything that counts of an outcome.
type Outcome = Result<(Vec<Row>, Vec<String>, usize, usize), WireError>;

fn outcome(decoded: &Result<Decoded, WireError>) -> Outcome {
    decoded.as_ref().map(|d| (rows(d), d.errors.clone(), d.failed, d.skipped)).map_err(|error| *error)
}

/// Decodes with nothing known, and again with all that this has taught: both must agree.
fn decode(body: &[u8], version: Version) -> Result<Decoded, WireError> {
    let spellings = Spellings::for_series(100);
    let first = super::decode(body, version, &spellings.read());
    for _ in 0..2 {
        if let Ok(first) = &first {
            learn(&spellings, first);
        }
        assert_eq!(outcome(&first), outcome(&super::decode(body, version, &spellings.read())));
    }
    first
}

const UP: Labels<'_> = &[("__name__", "up"), ("instance", "a:9100"), ("job", "node")];

#[test]
fn a_name_is_the_metric_and_other_labels_are_tags() {
    let all: &[(Labels<'_>, Samples<'_>)] =
        &[(UP, &[(1.0, 1_795_291_200_123), (0.0, 0)]), (&[("z", ""), ("__name__", "load")], &[(-2.5, -1)])];
    for (version, body) in [(Version::V1, v1(all)), (Version::V2, v2(all))] {
        let found = decode(&body, version).unwrap();
        let key = SeriesKey::from_parts("up", UP[1..].iter().copied());
        assert_eq!(found.batch.keys(), [key, SeriesKey::from_parts("load", [])], "a label without a value is none");
        assert_eq!(
            (found.batch.values(), found.batch.times()),
            (&[1.0, 0.0, -2.5][..], &[1_795_291_200_123, 0, -1][..])
        );
        assert_eq!((found.series.as_slice(), answer(&found, 3)), (&[0, 0, 1][..], (204, None)));
    }
}

#[test]
fn a_body_like_the_one_before_needs_no_key() {
    let spellings = Spellings::for_series(100);
    let load: Labels<'_> = &[("__name__", "load")];
    learn(
        &spellings,
        &super::decode(&v1(&[(UP, &[(1.0, 1)]), (load, &[(2.0, 1)])]), Version::V1, &Known::default()).unwrap(),
    );
    let all: &[(Labels<'_>, Samples<'_>)] = &[(load, &[(3.0, 2)]), (UP, &[(4.0, 2)]), (load, &[(5.0, 3), (6.0, 4)])];
    for (version, body) in [(Version::V1, v1(all)), (Version::V2, v2(all)), (Version::V1, v1(all))] {
        let found = super::decode(&body, version, &spellings.read()).unwrap();
        assert!(found.batch.keys().is_empty());
        assert_eq!(found.batch.values(), [3.0, 4.0, 5.0, 6.0]);
    }
}

#[test]
fn stale_markers_are_passed_over_and_other_non_numbers_refused_by_name() {
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let body = v1(&[(UP, &[(stale, 1), (f64::NAN, 2), (3.0, 3), (f64::INFINITY, 4)])]);
    let found = decode(&body, Version::V1).unwrap();
    assert_eq!((found.batch.values(), found.failed, found.skipped), (&[3.0][..], 2, 1));
    let text = answer(&found, 1).1.unwrap();
    assert!(
        text.contains(r#"timeseries 0: up{instance=\"a:9100\", job=\"node\"}: value at time 2 is not a number"#),
        "{text}"
    );
    assert!(text.contains("value at time 4 is infinite; the other 1 are stored"), "{text}");
}

#[test]
fn a_bad_series_is_named_and_its_neighbours_are_kept() {
    let all: &[(Labels<'_>, Samples<'_>)] = &[
        (UP, &[(1.0, 1)]),
        (&[("job", "node")], &[(2.0, 1)]),
        (&[("__name__", "m"), ("a", "1"), ("a", "2")], &[(3.0, 1)]),
        (&[("__name__", "m"), ("", "1")], &[(4.0, 1)]),
        (UP, &[(5.0, 2)]),
    ];
    for (version, body) in [(Version::V1, v1(all)), (Version::V2, v2(all))] {
        let found = decode(&body, version).unwrap();
        assert_eq!(found.batch.values(), [1.0, 5.0]);
        assert_eq!(
            found.errors,
            [
                r#"timeseries 1: no label __name__ among {job="node"}"#,
                "timeseries 2: label 'a' is given twice",
                "timeseries 3: label without a name",
            ]
        );
        assert_eq!(found.series, [0, 4]);
    }
    let mut bytes = v1(&[(&[("__name__", "mm")], &[(1.0, 1)])]);
    let at = bytes.windows(2).position(|pair| pair == b"mm").unwrap();
    bytes[at] = 0xff;
    assert_eq!(decode(&bytes, Version::V1).unwrap().errors, ["timeseries 0: label '__name__' is not valid UTF-8"]);
}

#[test]
fn what_is_no_message_is_refused_with_the_place() {
    let body = v1(&[(UP, &[(1.0, 1)])]);
    for (bytes, text) in [
        (&body[..body.len() - 1], "length reaches beyond the end at byte 1"),
        (b"\x0b", "field of an unknown wire type at byte 0"),
        (b"\x08\xff", "number is cut off at byte 1"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "number of more than 64 bits at byte 1"),
        (b"\x02\x00", "field number 0 at byte 0"),
        (b"\x0a\x03\x0a\x01\x08", "number is cut off at byte 1"),
    ] {
        let error = decode(bytes, Version::V1).unwrap_err().to_string();
        assert!(error == text || bytes.len() == 5, "{error} instead of {text}");
    }
    let unknown_symbol = [&b"\x22\x00"[..], b"\x2a\x04\x0a\x02\x07\x08"].concat();
    let error = decode(&unknown_symbol, Version::V2).unwrap_err().to_string();
    assert!(error.starts_with("label refers to a symbol that is not there"), "{error}");
}

#[test]
fn fields_that_have_no_place_here_are_passed_over() {
    let mut message = Vec::new();
    put_sample(&mut message, 7.0, 5);
    labels(&mut message, UP);
    put_bytes(&mut message, 3, b"exemplar");
    put_bytes(&mut message, 4, b"histogram");
    let mut body = Vec::new();
    put_bytes(&mut body, 3, b"metadata");
    put_bytes(&mut body, 1, &message);
    body.extend_from_slice(b"\x78\x01");
    let found = decode(&body, Version::V1).unwrap();
    assert_eq!((found.batch.values(), found.skipped), (&[7.0][..], 2));
    assert_eq!(found.batch.keys()[0].metric(), "up", "labels may stand behind samples");
}

/// A series that is known by the labels in front is another one when more of them stand behind its samples.
#[test]
fn labels_behind_a_sample_count_for_a_known_series_too() {
    let (mut front, mut body) = (Vec::new(), v1(&[(UP, &[(1.0, 1)])]));
    labels(&mut front, UP);
    put_sample(&mut front, 2.0, 2);
    let mut other = front.clone();
    labels(&mut other, &[("zone", "b")]);
    labels(&mut front, UP);
    put_bytes(&mut body, 1, &front);
    put_bytes(&mut body, 1, &other);
    let found = decode(&body, Version::V1).unwrap();
    assert_eq!(found.errors, ["timeseries 1: label '__name__' is given twice"]);
    assert_eq!(found.batch.values(), [1.0, 2.0]);
    assert_eq!(found.batch.keys().len(), 2);
}

#[test]
fn content_types_tell_the_message() {
    for (text, version) in [
        ("", Some(Version::V1)),
        ("application/x-protobuf", Some(Version::V1)),
        ("application/x-protobuf;proto=prometheus.WriteRequest", Some(Version::V1)),
        ("Application/X-Protobuf; proto=\"io.prometheus.write.v2.Request\"", Some(Version::V2)),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", None),
        ("application/json", None),
    ] {
        assert_eq!(Version::of_content_type(text), version, "{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body: Vec<u8>) {
        let _ = decode(&body, Version::V1);
        let _ = decode(&body, Version::V2);
    }

    /// All bodies go through one cache, so what one has taught is met by those behind it.
    #[test]
    fn known_spellings_change_nothing(
        bodies in proptest::collection::vec(
            proptest::collection::vec(
                (
                    proptest::collection::vec(("__name__|[ab]", "[xy]{0,2}"), 0..4),
                    proptest::collection::vec((any::<f64>(), any::<i64>()), 0..3),
                ),
                0..4,
            ),
            1..5,
        ),
        damage in proptest::option::weighted(0.5, (0usize..4000, any::<u8>())),
    ) {
        let spellings = Spellings::for_series(20);
        for all in bodies.iter().chain(&bodies) {
            let borrowed: Vec<Borrowed<'_>> = all
                .iter()
                .map(|(named, samples)| (named.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(), samples.as_slice()))
                .collect();
            let all: Vec<(Labels<'_>, Samples<'_>)> = borrowed.iter().map(|(named, samples)| (&named[..], *samples)).collect();
            for (version, mut body) in [(Version::V1, v1(&all)), (Version::V2, v2(&all))] {
                if let Some((at, byte)) = damage
                    && !body.is_empty()
                {
                    let at = at % body.len();
                    body[at] = byte;
                }
                let found = super::decode(&body, version, &spellings.read());
                prop_assert_eq!(outcome(&super::decode(&body, version, &Known::default())), outcome(&found));
                if let Ok(found) = found {
                    learn(&spellings, &found);
                }
            }
        }
    }
}
