//! Numbers out of the bytes of a page: the encodings that segments use, from any row on.
//!
//! A question about one series wants a few hundred rows of a page that has thousands. A reader for whatever Parquet allows
//! spends longer on finding its way than on those rows, so this one knows the encodings of our own files only, and reads
//! integers and doubles alike as 64 bits. What is before the wanted rows is passed over as cheaply as the encoding lets it.

/// Values of which the bits are packed together.
const PACKED: usize = 32;
/// Values of a block of differences at most; ours have 128 or 256.
const MAX_BLOCK: usize = 4_096;

/// How the values of a page are encoded, and how far they were read. `None` from any function says that the bytes are damaged.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for a page, on the stack; a box would cost more")]
pub(super) enum Decoder {
    Delta(Delta),
    Indexes(Indexes),
    Split(Fixed),
    Plain(Fixed),
}

impl Decoder {
    /// Differences to the value before, bit-packed in blocks (`DELTA_BINARY_PACKED`).
    pub(super) fn delta(bytes: &[u8]) -> Option<Self> {
        Delta::new(bytes).map(Decoder::Delta)
    }

    /// Places in a dictionary, bit-packed or as runs (`RLE_DICTIONARY`).
    pub(super) fn indexes(bytes: &[u8]) -> Option<Self> {
        let width = usize::from(*bytes.first()?);
        let packed = [0; PACKED];
        (width <= 32).then_some(Decoder::Indexes(Indexes { at: 1, width, run: Run::None, packed, packed_at: PACKED }))
    }

    /// All first bytes of `count` values of `width` bytes, then all second ones, and so on (`BYTE_STREAM_SPLIT`).
    pub(super) fn split(count: usize, width: usize) -> Self {
        Decoder::Split(Fixed { count, width, at: 0 })
    }

    /// One value of `width` bytes after the other (`PLAIN`).
    pub(super) fn plain(count: usize, width: usize) -> Self {
        Decoder::Plain(Fixed { count, width, at: 0 })
    }

    /// Passes over `skip` values and appends the next `take`. `bytes` are those that it was made for.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        dictionary: &[i64],
        skip: usize,
        take: usize,
        values: &mut Vec<i64>,
    ) -> Option<()> {
        values.reserve(take);
        match self {
            Decoder::Delta(delta) => delta.read(bytes, skip, take, values),
            Decoder::Indexes(indexes) => indexes.read(bytes, dictionary, skip, take, values),
            Decoder::Split(fixed) => {
                for at in fixed.next(skip, take)? {
                    let byte = |place: usize| bytes.get(place * fixed.count + at).copied();
                    let value =
                        (0..fixed.width).try_fold(0, |sum, place| Some(sum | u64::from(byte(place)?) << (8 * place)));
                    values.push(value? as i64);
                }
                Some(())
            }
            Decoder::Plain(fixed) => {
                let range = fixed.next(skip, take)?;
                let bytes = bytes.get(range.start * fixed.width..range.end * fixed.width)?;
                for value in bytes.chunks_exact(fixed.width) {
                    let mut whole = [0; 8];
                    whole[..fixed.width].copy_from_slice(value);
                    values.push(i64::from_le_bytes(whole));
                }
                Some(())
            }
        }
    }
}

/// Values of one width each.
#[derive(Debug)]
pub(super) struct Fixed {
    count: usize,
    width: usize,
    at: usize,
}

impl Fixed {
    fn next(&mut self, skip: usize, take: usize) -> Option<std::ops::Range<usize>> {
        let range = self.at + skip..self.at + skip + take;
        self.at = range.end;
        (range.end <= self.count).then_some(range)
    }
}

/// See [`Decoder::delta`].
#[derive(Debug)]
pub(super) struct Delta {
    /// Where the next block begins.
    at: usize,
    /// Values of a block's parts, and how many of them there are.
    part: usize,
    parts: usize,
    /// Values that are not decoded yet.
    left: usize,
    /// The last one that is.
    last: i64,
    /// A block's values, and which of them is next.
    ready: Vec<i64>,
    next: usize,
}

impl Delta {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut at = 0;
        let block = usize::try_from(varint(bytes, &mut at)?).ok()?;
        let parts = usize::try_from(varint(bytes, &mut at)?).ok()?;
        let count = usize::try_from(varint(bytes, &mut at)?).ok()?;
        let first = zigzag(varint(bytes, &mut at)?);
        if block == 0 || block > MAX_BLOCK || parts == 0 || parts > block || !block.is_multiple_of(parts * PACKED) {
            return None;
        }
        let mut ready = Vec::with_capacity(block);
        ready.extend((count > 0).then_some(first));
        Some(Self { at, part: block / parts, parts, left: count.saturating_sub(1), last: first, ready, next: 0 })
    }

    fn read(&mut self, bytes: &[u8], mut skip: usize, mut take: usize, values: &mut Vec<i64>) -> Option<()> {
        loop {
            let ready = self.ready.get(self.next..)?;
            let skipped = skip.min(ready.len());
            let taken = take.min(ready.len() - skipped);
            values.extend_from_slice(&ready[skipped..skipped + taken]);
            self.next += skipped + taken;
            skip -= skipped;
            take -= taken;
            if skip + take == 0 {
                return Some(());
            }
            let whole = self.part * self.parts;
            while skip >= whole && self.left >= whole {
                self.pass_over(bytes)?;
                skip -= whole;
            }
            if skip + take == 0 {
                return Some(());
            }
            self.block(bytes)?;
        }
    }

    /// Passes over the next block, which is a full one: of its values only the last is computed.
    fn pass_over(&mut self, bytes: &[u8]) -> Option<()> {
        self.ready.clear();
        self.next = 0;
        let least = zigzag(varint(bytes, &mut self.at)?);
        let widths = bytes.get(self.at..self.at + self.parts)?;
        self.at += self.parts;
        let mut packed = [0; PACKED];
        let mut sum = least.wrapping_mul((self.part * self.parts) as i64);
        for &width in widths {
            let width = usize::from(width);
            for _ in 0..self.part / PACKED {
                unpack(bytes.get(self.at..self.at + width * PACKED / 8)?, width, &mut packed)?;
                self.at += width * PACKED / 8;
                let more = packed.iter().fold(0_u64, |sum, more| sum.wrapping_add(*more));
                sum = sum.wrapping_add(more as i64);
            }
        }
        self.last = self.last.wrapping_add(sum);
        self.left -= self.part * self.parts;
        Some(())
    }

    /// Decodes the next block.
    fn block(&mut self, bytes: &[u8]) -> Option<()> {
        self.ready.clear();
        self.next = 0;
        if self.left == 0 {
            return None;
        }
        let least = zigzag(varint(bytes, &mut self.at)?);
        let widths = bytes.get(self.at..self.at + self.parts)?;
        self.at += self.parts;
        let mut packed = [0; PACKED];
        for &width in widths {
            let width = usize::from(width);
            for _ in 0..self.part / PACKED {
                let count = self.left.min(PACKED);
                if count == 0 {
                    break;
                }
                // The last ones are filled up to a whole part.
                unpack(bytes.get(self.at..self.at + width * PACKED / 8)?, width, &mut packed)?;
                self.at += width * PACKED / 8;
                let mut last = self.last;
                self.ready.extend(packed[..count].iter().map(|&more| {
                    last = last.wrapping_add(least).wrapping_add(more as i64);
                    last
                }));
                self.last = last;
                self.left -= count;
            }
        }
        Some(())
    }
}

/// See [`Decoder::indexes`].
#[derive(Debug)]
pub(super) struct Indexes {
    /// Where the next run begins, or the next packed values of the current one.
    at: usize,
    width: usize,
    run: Run,
    /// Packed values that are unpacked, and which of them is next.
    packed: [u64; PACKED],
    packed_at: usize,
}

#[derive(Debug)]
enum Run {
    None,
    /// So many times the same.
    Same(usize, u64),
    /// So many that are not unpacked yet, a multiple of eight.
    Packed(usize),
}

impl Indexes {
    fn read(
        &mut self,
        bytes: &[u8],
        dictionary: &[i64],
        mut skip: usize,
        mut take: usize,
        values: &mut Vec<i64>,
    ) -> Option<()> {
        while skip + take > 0 {
            if self.packed_at < PACKED {
                let here = &self.packed[self.packed_at..];
                let skipped = skip.min(here.len());
                let taken = take.min(here.len() - skipped);
                for index in &here[skipped..skipped + taken] {
                    values.push(*dictionary.get(*index as usize)?);
                }
                self.packed_at += skipped + taken;
                skip -= skipped;
                take -= taken;
                continue;
            }
            match self.run {
                Run::Same(count, index) if count > 0 => {
                    let skipped = skip.min(count);
                    let taken = take.min(count - skipped);
                    if taken > 0 {
                        values.extend(std::iter::repeat_n(*dictionary.get(index as usize)?, taken));
                    }
                    self.run = Run::Same(count - skipped - taken, index);
                    skip -= skipped;
                    take -= taken;
                }
                Run::Packed(count) if count > 0 => {
                    // Whole bunches need not be unpacked to be passed over.
                    let over = skip.min(count) / PACKED * PACKED;
                    self.at += over * self.width / 8;
                    skip -= over;
                    let count = count - over;
                    let here = count.min(PACKED);
                    self.run = Run::Packed(count - here);
                    let length = here * self.width / 8;
                    let mut whole = [0; PACKED * 4];
                    // A last run may end with the last value that there is.
                    let from = bytes.get(self.at..)?;
                    let there = length.min(from.len());
                    whole[..there].copy_from_slice(&from[..there]);
                    self.at += length;
                    unpack(&whole[..self.width * PACKED / 8], self.width, &mut self.packed)?;
                    // At the end of the bunch, where the next ones are looked for.
                    self.packed.copy_within(..here, PACKED - here);
                    self.packed_at = PACKED - here;
                }
                Run::None | Run::Same(..) | Run::Packed(_) => {
                    let header = varint(bytes, &mut self.at)?;
                    let count = usize::try_from(header >> 1).ok()?;
                    self.run = if header & 1 == 1 {
                        Run::Packed(count.checked_mul(8)?)
                    } else {
                        let length = self.width.div_ceil(8);
                        let value = bytes.get(self.at..self.at + length)?;
                        self.at += length;
                        Run::Same(count, value.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
                    };
                }
            }
        }
        Some(())
    }
}

/// A number in groups of seven bits, the lowest first.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Signed numbers as they alternate around zero.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Numbers of `width` bits, packed into as many bytes as that takes.
fn unpack(bytes: &[u8], width: usize, values: &mut [u64; PACKED]) -> Option<()> {
    macro_rules! narrow {
        ($($width:literal)*) => {
            match width {
                0 => values.fill(0),
                $($width => unpack_narrow::<$width>(bytes, values),)*
                33..=64 => unpack_wide(bytes, width, values),
                _ => return None,
            }
        };
    }
    narrow!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
    Some(())
}

/// One for each width: with the width known all shifts are, and the loop becomes a few wide instructions.
#[inline(always)]
fn unpack_narrow<const WIDTH: usize>(bytes: &[u8], values: &mut [u64; PACKED]) {
    let mut words = [0_u32; PACKED + 1];
    for (word, bytes) in words[..WIDTH].iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mask = (1_u64 << WIDTH) - 1;
    for (number, value) in values.iter_mut().enumerate() {
        let bit = number * WIDTH;
        let pair = u64::from(words[bit / 32]) | u64::from(words[bit / 32 + 1]) << 32;
        *value = pair >> (bit % 32) & mask;
    }
}

fn unpack_wide(bytes: &[u8], width: usize, values: &mut [u64; PACKED]) {
    let mut padded = [0; PACKED * 8 + 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mask = u128::from(u64::MAX >> (64 - width));
    for (number, value) in values.iter_mut().enumerate() {
        let bit = number * width;
        let mut wide = [0; 16];
        wide.copy_from_slice(&padded[bit / 8..bit / 8 + 16]);
        *value = (u128::from_le_bytes(wide) >> (bit % 8) & mask) as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packs as the format does.
    fn pack(values: &[u64], width: usize) -> Vec<u8> {
        let mut bytes = vec![0; (values.len() * width).div_ceil(8)];
        for (number, value) in values.iter().enumerate() {
            for bit in 0..width {
                let at = number * width + bit;
                bytes[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn packed_numbers_of_every_width_come_back(width in 0_usize..=64, numbers: [u64; PACKED]) {
            let numbers = numbers.map(|number| if width == 0 { 0 } else { number >> (64 - width) });
            let mut values = [7; PACKED];
            unpack(&pack(&numbers, width), width, &mut values).unwrap();
            prop_assert_eq!(values, numbers);
        }

        #[test]
        fn runs_and_packed_places_come_back_from_any_row_on(
            width in 0_usize..=17,
            runs in prop::collection::vec((any::<bool>(), 1_usize..80, any::<u64>()), 1..8),
            skips in prop::collection::vec((0_usize..70, 0_usize..70), 1..12),
        ) {
            let most = (1_u64 << width) - 1;
            let (mut bytes, mut all) = (vec![width as u8], Vec::new());
            for (packed, count, seed) in runs {
                if packed {
                    let groups = count.div_ceil(8);
                    let values: Vec<u64> = (0..groups as u64 * 8).map(|at| seed.rotate_left(at as u32) & most).collect();
                    bytes.push((groups << 1 | 1) as u8);
                    bytes.extend(pack(&values, width));
                    all.extend(values);
                } else {
                    let header = (count << 1) as u64;
                    bytes.extend(if header < 128 { vec![header as u8] } else { vec![header as u8 | 0x80, (header >> 7) as u8] });
                    bytes.extend(&(seed & most).to_le_bytes()[..width.div_ceil(8)]);
                    all.extend(std::iter::repeat_n(seed & most, count));
                }
            }
            let dictionary: Vec<i64> = (0..=most as i64).map(|value| -value).collect();
            let mut decoder = Decoder::indexes(&bytes).unwrap();
            let mut at = 0;
            for (skip, take) in skips {
                let mut values = Vec::new();
                let read = decoder.read(&bytes, &dictionary, skip, take, &mut values);
                if at + skip + take > all.len() {
                    prop_assert!(read.is_none());
                    break;
                }
                let expected: Vec<i64> = all[at + skip..at + skip + take].iter().map(|&value| -(value as i64)).collect();
                prop_assert_eq!(values, expected);
                at += skip + take;
            }
        }

        #[test]
        fn differences_come_back_from_any_row_on(
            values in prop::collection::vec(prop_oneof![4 => -1_000_i64..1_000, 1 => any::<i64>()], 0..1_200),
            parts in prop::sample::select(vec![1_usize, 4]),
            skips in prop::collection::vec((0_usize..400, 0_usize..200), 1..12),
        ) {
            let block = 128;
            let mut bytes = Vec::new();
            let number = |bytes: &mut Vec<u8>, mut value: u64| {
                while value >= 0x80 {
                    bytes.push(value as u8 | 0x80);
                    value >>= 7;
                }
                bytes.push(value as u8);
            };
            let signed = |value: i64| (value << 1 ^ value >> 63) as u64;
            for header in [block as u64, parts as u64, values.len() as u64, signed(values.first().copied().unwrap_or(0))] {
                number(&mut bytes, header);
            }
            let differences: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
            for of_block in differences.chunks(block) {
                let least = of_block.iter().copied().min().unwrap_or(0);
                number(&mut bytes, signed(least));
                let mut more: Vec<u64> = of_block.iter().map(|difference| difference.wrapping_sub(least) as u64).collect();
                more.resize(block, 0);
                let parts = more.chunks(block / parts);
                let width = |part: &[u64]| part.iter().map(|more| 64 - more.leading_zeros() as usize).max().unwrap_or(0);
                bytes.extend(parts.clone().map(|part| width(part) as u8));
                parts.for_each(|part| bytes.extend(pack(part, width(part))));
            }
            let mut decoder = Decoder::delta(&bytes).unwrap();
            let mut at = 0;
            for (skip, take) in skips {
                let mut found = Vec::new();
                let read = decoder.read(&bytes, &[], skip, take, &mut found);
                if at + skip + take > values.len() {
                    prop_assert!(read.is_none());
                    break;
                }
                prop_assert_eq!(&found, &values[at + skip..at + skip + take]);
                at += skip + take;
            }
        }

        /// Whatever the bytes: nothing panics, and no more comes out than was asked for.
        #[test]
        fn damaged_bytes_are_no_more_than_damaged(bytes: Vec<u8>, skip in 0_usize..300, take in 0_usize..300) {
            let count = bytes.len() / 8;
            let decoders = [Decoder::delta(&bytes), Decoder::indexes(&bytes), Some(Decoder::split(count, 8)), Some(Decoder::plain(count, 8))];
            for mut decoder in decoders.into_iter().flatten() {
                let mut values = Vec::new();
                let read = decoder.read(&bytes, &[1, 2, 3], skip, take, &mut values);
                let kept = if read.is_some() { values.len() == take } else { values.len() <= take };
                prop_assert!(kept);
            }
        }
    }
}
