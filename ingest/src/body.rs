//! A request's body: received and inflated within one bound.

use std::io::{self, Read};

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures::StreamExt;

use crate::error::IngestError;

/// Bytes that are reserved at most for a body before they have come.
const KEPT_ANNOUNCED: u64 = 1 << 20;

/// Receives a body of at most `limit` bytes as it was sent.
pub(crate) async fn receive(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, IngestError> {
    let too_large = || IngestError::TooLarge { limit, inflated: false };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut frames = body.into_data_stream();
    let mut received = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(IngestError::Receive)?;
        if received.len() + joined.len() + frame.len() > limit {
            return Err(too_large());
        }
        // A body of one frame, which most are, is not copied.
        if received.is_empty() && joined.is_empty() {
            received = frame;
        } else {
            if joined.is_empty() {
                // What was announced is only believed as far as it has a bound; it saves growing step by step.
                joined.reserve(announced.unwrap_or(0).min(KEPT_ANNOUNCED) as usize);
            }
            joined.extend_from_slice(&std::mem::take(&mut received));
            joined.extend_from_slice(&frame);
        }
    }
    Ok(if joined.is_empty() { received } else { joined.freeze() })
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    /// The block format, which has no frames and says how long the plain text is.
    Snappy,
}

impl Encoding {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, IngestError> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let name = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match (name.as_str(), values.next()) {
            ("" | "identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("deflate", None) => Ok(Self::Deflate),
            ("snappy", None) => Ok(Self::Snappy),
            (_, None) => Err(IngestError::UnknownEncoding(name)),
            (_, Some(_)) => Err(IngestError::UnknownEncoding(format!("{name}, ..."))),
        }
    }

    /// The plain body, of at most `limit` bytes however small the compressed one is.
    pub(crate) fn inflate(self, body: Bytes, limit: usize) -> Result<Bytes, IngestError> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => read_bounded(MultiGzDecoder::new(&body[..]), "gzip", body.len(), limit),
            // The standard means zlib's format by "deflate", but some clients send the bare stream.
            Self::Deflate if has_zlib_header(&body) => {
                read_bounded(ZlibDecoder::new(&body[..]), "deflate", body.len(), limit)
            }
            Self::Deflate => read_bounded(DeflateDecoder::new(&body[..]), "deflate", body.len(), limit),
            Self::Snappy => {
                if snap::raw::decompress_len(&body).map_err(IngestError::Snappy)? > limit {
                    return Err(IngestError::TooLarge { limit, inflated: true });
                }
                Ok(snap::raw::Decoder::new().decompress_vec(&body).map_err(IngestError::Snappy)?.into())
            }
        }
    }
}

fn has_zlib_header(body: &[u8]) -> bool {
    // RFC 1950: method 8, and the first two bytes as a number are a multiple of 31.
    matches!(body, [first, second, ..] if first & 0x0f == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31))
}

fn read_bounded(reader: impl Read, encoding: &'static str, sent: usize, limit: usize) -> Result<Bytes, IngestError> {
    /// What uniform batches of points shrink to, as a first guess.
    const USUAL_RATIO: usize = 12;
    let mut plain = Vec::with_capacity(sent.saturating_mul(USUAL_RATIO).min(limit));
    let inflated: io::Result<usize> = reader.take((limit as u64).saturating_add(1)).read_to_end(&mut plain);
    inflated.map_err(|source| IngestError::Inflate { encoding, source })?;
    if plain.len() > limit {
        return Err(IngestError::TooLarge { limit, inflated: true });
    }
    Ok(plain.into())
}

/// Fails unless the body's media type is `application/json`, with or without parameters.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), IngestError> {
    let found = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let media_type = found.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(IngestError::ContentType { wanted: "application/json", found: found.into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(plain: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn gzip_zlib_and_bare_deflate_are_inflated() {
        let plain = b"m value=1\n".repeat(50);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&plain).unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
        bare.write_all(&plain).unwrap();
        for (encoding, body) in [
            (Encoding::Identity, plain.clone().into()),
            (Encoding::Gzip, gzip(&plain)),
            (Encoding::Gzip, [gzip(&plain[..200]), gzip(&plain[200..])].concat().into()),
            (Encoding::Deflate, zlib.finish().unwrap().into()),
            (Encoding::Deflate, bare.finish().unwrap().into()),
            (Encoding::Snappy, snap::raw::Encoder::new().compress_vec(&plain).unwrap().into()),
        ] {
            assert_eq!(encoding.inflate(body, plain.len()).unwrap(), plain, "{encoding:?}");
        }
    }

    #[test]
    fn a_small_body_cannot_inflate_beyond_the_bound() {
        let bomb = gzip(&vec![b'a'; 10_000_000]);
        let error = Encoding::Gzip.inflate(bomb, 1_000_000).unwrap_err();
        assert_eq!(error.to_string(), "body is larger than 1000000 bytes when inflated: send smaller batches");
        assert_eq!(error.status(), 413);
        let bomb = snap::raw::Encoder::new().compress_vec(&vec![b'a'; 10_000_000]).unwrap();
        assert_eq!(Encoding::Snappy.inflate(bomb.into(), 1_000_000).unwrap_err().status(), 413);
        // A length that is only claimed.
        let claim = Bytes::from_static(b"\xff\xff\xff\xff\x0f\x00");
        assert_eq!(Encoding::Snappy.inflate(claim, 1_000_000).unwrap_err().status(), 413);
    }

    #[test]
    fn damaged_bodies_are_refused() {
        let good = gzip(b"m value=1\n");
        for body in [good.slice(..good.len() - 4), Bytes::from_static(b"m value=1"), Bytes::new()] {
            let error = Encoding::Gzip.inflate(body, 1000).unwrap_err();
            assert_eq!(error.status(), 400, "{error}");
        }
        let error = Encoding::Snappy.inflate(Bytes::from_static(b"m value=1"), 1000).unwrap_err();
        assert_eq!(error.status(), 400, "{error}");
    }

    #[test]
    fn encodings_and_types_are_read_leniently() {
        let headers = |name, value: &str| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        assert_eq!(Encoding::of(&headers(CONTENT_ENCODING, "GZip")).unwrap(), Encoding::Gzip);
        assert_eq!(Encoding::of(&HeaderMap::new()).unwrap(), Encoding::Identity);
        assert_eq!(Encoding::of(&headers(CONTENT_ENCODING, "br")).unwrap_err().status(), 415);
        assert!(require_json(&headers(CONTENT_TYPE, "Application/JSON; charset=UTF-8")).is_ok());
        assert!(require_json(&headers(CONTENT_TYPE, "text/plain")).is_err());
        assert!(require_json(&HeaderMap::new()).is_err());
    }
}
