//! Pages of one column of a row group: found by row, decompressed once, decoded from the row that is wanted.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use parquet::basic::{Compression, Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use zstd::bulk::Decompressor;

use super::decode::{Decoder, varint, zigzag};
use super::page_cache::PageCache;
use super::shared_file::SharedFile;

/// Bytes that a page may claim to have when it is decompressed; the largest dictionary has one MiB.
const MAX_PAGE_BYTES: usize = 64 << 20;
/// What Parquet calls the kinds of pages that are read here.
const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
/// What Parquet calls encodings.
const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const DELTA_BINARY_PACKED: i64 = 5;
const RLE_DICTIONARY: i64 = 8;
const BYTE_STREAM_SPLIT: i64 = 9;

/// A page, decompressed.
#[derive(Debug)]
pub(super) struct Page {
    encoding: i64,
    /// How many values it has.
    count: usize,
    /// The values as they are encoded, or, of a dictionary, nothing.
    bytes: Vec<u8>,
    /// The values of a dictionary.
    numbers: Vec<i64>,
}

impl Page {
    #[cfg(test)]
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        Self { encoding: PLAIN, count: 0, bytes, numbers: Vec::new() }
    }

    /// Bytes of memory that it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.numbers.capacity() * size_of::<i64>()
    }
}

/// One column of one row group, without nulls.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    file: &'a SharedFile,
    chunk: &'a ColumnChunkMetaData,
    places: &'a [PageLocation],
    /// Rows of the row group.
    rows: usize,
    /// Bytes of a value where all have as many.
    width: usize,
}

impl<'a> Column<'a> {
    /// `None` when it is stored in a way that only the general reader knows.
    pub(super) fn new(
        file: &'a SharedFile,
        chunk: &'a ColumnChunkMetaData,
        places: &'a [PageLocation],
        rows: usize,
    ) -> Option<Self> {
        let width = match chunk.column_type() {
            Type::INT32 => 4,
            Type::INT64 | Type::DOUBLE => 8,
            _ => return None,
        };
        let simple = matches!(chunk.compression(), Compression::ZSTD(_))
            && chunk.column_descr().max_rep_level() == 0
            && chunk.column_descr().max_def_level() <= 1;
        (simple && !places.is_empty()).then_some(Self { file, chunk, places, rows, width })
    }

    /// Whether every value of the column may be null, and so is preceded by levels that say whether it is.
    fn has_levels(&self) -> bool {
        self.chunk.column_descr().max_def_level() > 0
    }

    /// The number of the page that has a row.
    fn page_of(&self, row: usize) -> usize {
        self.places.partition_point(|place| place.first_row_index <= row as i64).saturating_sub(1)
    }

    fn rows_of(&self, page: usize) -> Range<usize> {
        let first = |page: usize| self.places.get(page).map_or(self.rows, |place| place.first_row_index as usize);
        first(page)..first(page + 1)
    }
}

/// Reads a column, row by row upwards.
pub(super) struct Pages<'a> {
    column: Column<'a>,
    cache: &'a PageCache,
    /// Whether what is read may push other pages out of the cache.
    keep: bool,
    current: Option<Current>,
}

struct Current {
    page: Arc<Page>,
    dictionary: Option<Arc<Page>>,
    decoder: Decoder,
    /// Its rows that were not passed over yet.
    rows: Range<usize>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(column: Column<'a>, cache: &'a PageCache, keep: bool) -> Self {
        Self { column, cache, keep, current: None }
    }

    /// Appends the values of `rows`, none of which lies before one that was read already: doubles by their bits.
    pub(super) fn read(&mut self, mut rows: Range<usize>, values: &mut Vec<i64>) -> Result<()> {
        while !rows.is_empty() {
            let ahead = self.current.as_ref().is_some_and(|current| current.rows.contains(&rows.start));
            if !ahead {
                self.current = Some(self.open(rows.start)?);
            }
            let Some(current) = &mut self.current else { break };
            let skip = rows.start - current.rows.start;
            let take = rows.end.min(current.rows.end) - rows.start;
            let dictionary = current.dictionary.as_ref().map_or(&[][..], |page| &page.numbers);
            current.decoder.read(&current.page.bytes, dictionary, skip, take, values).ok_or_else(damaged)?;
            current.rows.start += skip + take;
            rows.start += take;
        }
        Ok(())
    }

    fn open(&self, row: usize) -> Result<Current> {
        let number = self.column.page_of(row);
        let rows = self.column.rows_of(number);
        let place = self.column.places.get(number).ok_or_else(damaged)?;
        let length = usize::try_from(place.compressed_page_size).map_err(|_| damaged())?;
        let page = self.page(place.offset, length, false)?;
        if page.count != rows.len() || !rows.contains(&row) {
            return Err(damaged());
        }
        let mut dictionary = None;
        let decoder = match page.encoding {
            DELTA_BINARY_PACKED => Decoder::delta(&page.bytes),
            BYTE_STREAM_SPLIT => Some(Decoder::split(page.count, self.column.width)),
            PLAIN => Some(Decoder::plain(page.count, self.column.width)),
            PLAIN_DICTIONARY | RLE_DICTIONARY => {
                dictionary = Some(self.dictionary()?);
                Decoder::indexes(&page.bytes)
            }
            _ => None,
        };
        Ok(Current { decoder: decoder.ok_or_else(damaged)?, page, dictionary, rows })
    }

    fn dictionary(&self) -> Result<Arc<Page>> {
        let start = self.column.chunk.dictionary_page_offset().ok_or_else(damaged)?;
        let end = self.column.places.first().map_or(start, |first| first.offset);
        let length = usize::try_from(end - start).map_err(|_| damaged())?;
        self.page(start, length, true)
    }

    fn page(&self, offset: i64, length: usize, is_dictionary: bool) -> Result<Arc<Page>> {
        let offset = u64::try_from(offset).map_err(|_| damaged())?;
        let key = (self.column.file.number(), offset);
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        let page = BUFFERS.with_borrow_mut(|buffers| self.read_page(offset, length, is_dictionary, buffers))?;
        let page = Arc::new(page);
        // A dictionary serves the whole row group, whoever reads it.
        if self.keep || is_dictionary {
            self.cache.put(key, &page);
        }
        Ok(page)
    }

    fn read_page(&self, offset: u64, length: usize, is_dictionary: bool, buffers: &mut Buffers) -> Result<Page> {
        if length > MAX_PAGE_BYTES {
            return Err(damaged());
        }
        buffers.stored.resize(length, 0);
        self.column.file.read_at(offset, &mut buffers.stored)?;
        let (header, start) = Header::read(&buffers.stored).ok_or_else(damaged)?;
        let kind = if is_dictionary { DICTIONARY_PAGE } else { DATA_PAGE };
        let stored = buffers.stored.get(start..start.saturating_add(header.stored));
        let (Some(stored), true, true) = (stored, header.kind == kind, header.plain <= MAX_PAGE_BYTES) else {
            return Err(damaged());
        };
        let mut bytes = Vec::with_capacity(header.plain);
        if buffers.zstd.is_none() {
            buffers.zstd = Some(Decompressor::new()?);
        }
        let Some(zstd) = &mut buffers.zstd else { return Err(damaged()) };
        if header.plain > 0 {
            zstd.decompress_to_buffer(stored, &mut bytes)?;
        }
        if bytes.len() != header.plain {
            return Err(damaged());
        }
        let mut page = Page { encoding: header.encoding, count: header.count, bytes, numbers: Vec::new() };
        if is_dictionary {
            let read = Decoder::plain(page.count, self.column.width).read(
                &page.bytes,
                &[],
                0,
                page.count.min(page.bytes.len()),
                &mut page.numbers,
            );
            read.ok_or_else(damaged)?;
            page.bytes = Vec::new();
        } else if self.column.has_levels() {
            // Without nulls they all say the same. Four bytes before them say how long they are.
            let levels = page.bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize + 4);
            let levels = levels.filter(|levels| *levels <= page.bytes.len()).ok_or_else(damaged)?;
            page.bytes.drain(..levels);
        }
        Ok(page)
    }
}

/// What a thread uses again for each page.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    zstd: Option<Decompressor<'static>>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

fn damaged() -> ParquetError {
    ParquetError::General("a page is damaged, or no page of ours".to_owned())
}

/// What stands before a page.
#[derive(Debug, Default, PartialEq)]
struct Header {
    kind: i64,
    /// Bytes before and after compression.
    plain: usize,
    stored: usize,
    count: usize,
    encoding: i64,
}

impl Header {
    /// The header at the beginning of `bytes`, and where it ends: a structure in Thrift's compact protocol.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut header = Header { kind: -1, encoding: -1, ..Header::default() };
        let mut at = 0;
        fields(bytes, &mut at, &mut |field, kind, at| {
            match (field, kind) {
                (1, thrift::I32) => header.kind = zigzag(varint(bytes, at)?),
                (2, thrift::I32) => header.plain = usize::try_from(zigzag(varint(bytes, at)?)).ok()?,
                (3, thrift::I32) => header.stored = usize::try_from(zigzag(varint(bytes, at)?)).ok()?,
                // Of a data page or of a dictionary, which begin alike.
                (5 | 7, thrift::STRUCT) => fields(bytes, at, &mut |field, kind, at| {
                    match (field, kind) {
                        (1, thrift::I32) => header.count = usize::try_from(zigzag(varint(bytes, at)?)).ok()?,
                        (2, thrift::I32) => header.encoding = zigzag(varint(bytes, at)?),
                        _ => skip(bytes, at, kind, 0)?,
                    }
                    Some(())
                })?,
                _ => skip(bytes, at, kind, 0)?,
            }
            Some(())
        })?;
        Some((header, at))
    }
}

/// Types of Thrift's compact protocol.
mod thrift {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const I8: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I32: u8 = 5;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const STRUCT: u8 = 12;
    /// Structures within structures; a header has three levels at most.
    pub(super) const MAX_DEPTH: usize = 8;
}

/// Calls `each` with number, type and place of every field of a structure; `each` moves on behind it.
fn fields(bytes: &[u8], at: &mut usize, each: &mut impl FnMut(i64, u8, &mut usize) -> Option<()>) -> Option<()> {
    let mut field = 0_i64;
    loop {
        let head = *bytes.get(*at)?;
        *at += 1;
        if head == 0 {
            return Some(());
        }
        field = match head >> 4 {
            0 => zigzag(varint(bytes, at)?),
            more => field.checked_add(i64::from(more))?,
        };
        each(field, head & 0x0F, at)?;
    }
}

fn skip(bytes: &[u8], at: &mut usize, kind: u8, depth: usize) -> Option<()> {
    if depth > thrift::MAX_DEPTH {
        return None;
    }
    match kind {
        thrift::TRUE | thrift::FALSE => {}
        thrift::I8 => *at = at.checked_add(1)?,
        thrift::I16 | thrift::I32 | thrift::I64 => {
            varint(bytes, at)?;
        }
        thrift::DOUBLE => *at = at.checked_add(8)?,
        thrift::BINARY => {
            let length = usize::try_from(varint(bytes, at)?).ok()?;
            *at = at.checked_add(length)?;
        }
        thrift::LIST | thrift::SET => {
            let head = *bytes.get(*at)?;
            *at += 1;
            let count = if head >> 4 == 15 { varint(bytes, at)? } else { u64::from(head >> 4) };
            for _ in 0..count {
                match head & 0x0F {
                    // Within a list a truth value takes a byte.
                    thrift::TRUE | thrift::FALSE => *at = at.checked_add(1)?,
                    of => skip(bytes, at, of, depth + 1)?,
                }
                if *at > bytes.len() {
                    return None;
                }
            }
        }
        thrift::STRUCT => loop {
            let head = *bytes.get(*at)?;
            *at += 1;
            if head == 0 {
                break;
            }
            if head >> 4 == 0 {
                varint(bytes, at)?;
            }
            skip(bytes, at, head & 0x0F, depth + 1)?;
        },
        _ => return None,
    }
    (*at <= bytes.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_and_what_is_unknown_in_it_is_passed_over() {
        // type = 0, sizes 5 and 4, crc = -1, a data page of 300 values in encoding 5, with statistics of two texts.
        let bytes = [
            0x15, 0x00, 0x15, 0x0A, 0x15, 0x08, 0x15, 0x01, 0x1C, 0x15, 0xD8, 0x04, 0x15, 0x0A, 0x15, 0x06, 0x15, 0x06,
            0x1C, 0x18, 0x01, b'a', 0x18, 0x02, b'b', b'c', 0x00, 0x00, 0x00, 0xFF,
        ];
        let expected = Header { kind: DATA_PAGE, plain: 5, stored: 4, count: 300, encoding: DELTA_BINARY_PACKED };
        assert_eq!(Header::read(&bytes), Some((expected, bytes.len() - 1)));
        assert_eq!(Header::read(&bytes[..bytes.len() - 2]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_header_panic(bytes: Vec<u8>) {
            if let Some((_, end)) = Header::read(&bytes) {
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
