//! How clients spell their series, and which series each spelling stands for.
//!
//! A client sends the same series in the same bytes again and again: in OpenTSDB's JSON everything of a point but its two
//! numbers, in the line protocol measurement, tags and a field's key, in a remote write the labels. Whoever knows these
//! bytes needs neither decode nor sort nor hash the tags in them. And since a body mostly has the series of the one before
//! it in the same order, each spelling remembers which came after it: then one comparison of bytes is all it takes.
//!
//! Only spellings whose samples the store has accepted are learnt, so a decoder that meets a known one knows that its bytes
//! are well formed. Bounded in number and in bytes; when full, all are forgotten and learnt anew.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use crate::protocol::Protocol;

/// Parts of a spelling at most. What is between them changes from sample to sample.
const PARTS: usize = 3;
/// Stands for no spelling.
const NONE: u32 = u32::MAX;

/// The parts of a spelling; those that a protocol does not need are empty.
pub(crate) type Parts<'a> = [&'a [u8]; PARTS];

/// All known spellings, shared between requests.
#[derive(Debug)]
pub struct Spellings {
    known: RwLock<Known>,
    max_entries: usize,
    max_bytes: usize,
}

impl Spellings {
    /// Bytes of the spellings per series, for a bound that ordinary ones do not meet.
    const BYTES_PER_SERIES: usize = 256;

    /// None yet, and room for those of so many series, each spelt in two ways at most.
    pub fn for_series(max_series: usize) -> Self {
        Self::bounded(max_series.saturating_mul(2), max_series.saturating_mul(Self::BYTES_PER_SERIES))
    }

    /// None yet, and at most so many of them, with so many bytes in all.
    pub fn bounded(max_entries: usize, max_bytes: usize) -> Self {
        // Places in the text and numbers of entries are u32.
        let (max_entries, max_bytes) = (max_entries.min(NONE as usize), max_bytes.min(u32::MAX as usize));
        Self { known: RwLock::default(), max_entries, max_bytes }
    }

    /// The spellings as they are, for as long as a body is decoded.
    pub fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a body had that was not known. `ids` are the ids of the series by their position in the body's batch, as
    /// the store has given them.
    pub fn learn(&self, learnt: &Learnt, ids: &[Option<u32>]) {
        if learnt.spelt.is_empty() {
            return;
        }
        let mut known = self.write();
        let mut start = 0;
        for &Spelt { lengths, form, key } in &learnt.spelt {
            let parts = split(&learnt.text[start..], lengths);
            let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
            start += bytes;
            let Some(id) = ids.get(key as usize).copied().flatten() else { continue };
            if known.entries.len() >= self.max_entries || known.text.len() + bytes > self.max_bytes {
                *known = Known::default();
                if bytes > self.max_bytes || self.max_entries == 0 {
                    continue;
                }
            }
            known.add(learnt.protocol, parts, form, id);
        }
    }

    /// Forgets all of them: the store no longer knows one of the series.
    pub fn clear(&self) {
        *self.write() = Known::default();
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The spellings at one time. An empty one is what a decoder gets that is to know none.
#[derive(Debug, Default)]
pub struct Known {
    /// The parts of all spellings, one after the other.
    text: Vec<u8>,
    entries: Vec<Entry>,
    by_hash: HashTable<u32>,
    hasher: ahash::RandomState,
}

#[derive(Debug)]
struct Entry {
    start: u32,
    lengths: [u32; PARTS],
    /// The store's id of the series.
    id: u32,
    /// The entry that came after this one last time. Only a guess, so no order between threads is needed.
    next: AtomicU32,
    protocol: Protocol,
    form: u8,
}

/// A spelling that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spelling<'a> {
    entry: u32,
    /// Its bytes.
    pub parts: Parts<'a>,
    /// What the protocol has noted about it.
    pub form: u8,
    /// The store's id of its series.
    pub id: u32,
}

impl Known {
    /// Number of spellings.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// For a walk through a body, at its beginning.
    pub(crate) fn walk(&self, protocol: Protocol) -> Walk<'_> {
        Walk { known: self, protocol, last: NONE }
    }

    fn spelling(&self, entry: u32) -> Option<Spelling<'_>> {
        let &Entry { start, lengths, id, form, .. } = self.entries.get(entry as usize)?;
        Some(Spelling { entry, parts: split(&self.text[start as usize..], lengths), form, id })
    }

    fn hash(&self, protocol: Protocol, parts: Parts<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u8(protocol as u8);
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    fn find(&self, protocol: Protocol, hash: u64, parts: Parts<'_>) -> Option<Spelling<'_>> {
        let is_it = |&entry: &u32| {
            self.entries[entry as usize].protocol == protocol && self.spelling(entry).is_some_and(|s| s.parts == parts)
        };
        self.spelling(*self.by_hash.find(hash, is_it)?)
    }

    fn add(&mut self, protocol: Protocol, parts: Parts<'_>, form: u8, id: u32) {
        let hash = self.hash(protocol, parts);
        if let Some(Spelling { entry, .. }) = self.find(protocol, hash, parts) {
            self.entries[entry as usize].id = id;
            return;
        }
        // Both conversions are exact: the callers bound text and entries.
        let (start, entry) = (self.text.len() as u32, self.entries.len() as u32);
        parts.iter().for_each(|part| self.text.extend_from_slice(part));
        let lengths = parts.map(|part| part.len() as u32);
        self.entries.push(Entry { start, lengths, id, next: AtomicU32::new(NONE), protocol, form });
        let (text, entries, hasher) = (&self.text, &self.entries, &self.hasher);
        let rehash = |&entry: &u32| {
            let Entry { start, lengths, protocol, .. } = &entries[entry as usize];
            let mut hasher = hasher.build_hasher();
            hasher.write_u8(*protocol as u8);
            split(&text[*start as usize..], *lengths).iter().for_each(|part| hasher.write(part));
            hasher.finish()
        };
        self.by_hash.insert_unique(hash, entry, rehash);
    }
}

fn split(text: &[u8], lengths: [u32; PARTS]) -> Parts<'_> {
    let mut rest = text;
    lengths.map(|length| {
        let (part, behind) = rest.split_at(length as usize);
        rest = behind;
        part
    })
}

/// Where in the order of spellings a decoder is.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    known: &'a Known,
    protocol: Protocol,
    last: u32,
}

impl<'a> Walk<'a> {
    /// The spelling that came next last time.
    pub(crate) fn expected(&self) -> Option<Spelling<'a>> {
        let last = self.known.entries.get(self.last as usize)?;
        self.known.spelling(last.next.load(Ordering::Relaxed))
    }

    /// The spelling with these parts.
    pub(crate) fn find(&self, parts: Parts<'_>) -> Option<Spelling<'a>> {
        if self.known.is_empty() {
            return None;
        }
        self.known.find(self.protocol, self.known.hash(self.protocol, parts), parts)
    }

    /// Notes that a spelling is the one that came.
    pub(crate) fn step(&mut self, to: Spelling<'a>) {
        if let Some(last) = self.known.entries.get(self.last as usize)
            && last.next.load(Ordering::Relaxed) != to.entry
        {
            last.next.store(to.entry, Ordering::Relaxed);
        }
        self.last = to.entry;
    }
}

/// Spellings that a body had and that were not known, in their order.
#[derive(Clone, Debug)]
pub struct Learnt {
    protocol: Protocol,
    text: Vec<u8>,
    spelt: Vec<Spelt>,
}

#[derive(Clone, Copy, Debug)]
struct Spelt {
    lengths: [u32; PARTS],
    form: u8,
    /// The series' position in the body's batch.
    key: u32,
}

impl Learnt {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { protocol, text: Vec::new(), spelt: Vec::new() }
    }

    pub(crate) fn note(&mut self, parts: Parts<'_>, form: u8, key: u32) {
        // A part of a body that is held in memory and bounded; what would not fit is not worth knowing.
        if parts.iter().any(|part| part.len() > u32::MAX as usize) {
            return;
        }
        parts.iter().for_each(|part| self.text.extend_from_slice(part));
        self.spelt.push(Spelt { lengths: parts.map(|part| part.len() as u32), form, key });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(spellings: &Spellings, protocol: Protocol, parts: Parts<'_>, id: u32) {
        let mut learnt = Learnt::new(protocol);
        learnt.note(parts, 0, 0);
        spellings.learn(&learnt, &[Some(id)]);
    }

    #[test]
    fn parts_and_protocol_are_part_of_a_spelling() {
        let spellings = Spellings::bounded(10, 100);
        learn(&spellings, Protocol::Influx, [b"ab", b"c", b""], 1);
        learn(&spellings, Protocol::Influx, [b"a", b"bc", b""], 2);
        learn(&spellings, Protocol::Prometheus, [b"ab", b"c", b""], 3);
        let known = spellings.read();
        let id = |protocol, parts| known.walk(protocol).find(parts).map(|found| found.id);
        assert_eq!(id(Protocol::Influx, [b"ab", b"c", b""]), Some(1));
        assert_eq!(id(Protocol::Influx, [b"a", b"bc", b""]), Some(2));
        assert_eq!(id(Protocol::Prometheus, [b"ab", b"c", b""]), Some(3));
        assert_eq!(id(Protocol::OpenTsdb, [b"ab", b"c", b""]), None);
        assert_eq!(id(Protocol::Influx, [b"abc", b"", b""]), None);
    }

    #[test]
    fn what_came_next_is_expected_next_time() {
        let spellings = Spellings::bounded(10, 100);
        let parts: [Parts<'_>; 3] = [[b"a", b"", b""], [b"b", b"", b""], [b"c", b"", b""]];
        parts.iter().zip(0..).for_each(|(parts, id)| learn(&spellings, Protocol::Influx, *parts, id));
        let known = spellings.read();
        let mut walk = known.walk(Protocol::Influx);
        assert!(walk.expected().is_none());
        for at in [0, 1, 2, 0] {
            walk.step(walk.find(parts[at]).unwrap());
        }
        for id in [1, 2, 0] {
            let next = walk.expected().unwrap();
            assert_eq!(next.id, id);
            walk.step(next);
        }
    }

    #[test]
    fn a_full_cache_begins_anew_and_stays_within_its_bounds() {
        let spellings = Spellings::bounded(3, 16);
        for n in 0..100u32 {
            learn(&spellings, Protocol::Influx, [&n.to_le_bytes(), b"x", b""], n);
            let known = spellings.read();
            assert!(known.len() <= 3 && known.text.len() <= 16);
            let found = known.walk(Protocol::Influx).find([&n.to_le_bytes(), b"x", b""]);
            assert_eq!(found.map(|found| found.id), Some(n));
        }
        learn(&spellings, Protocol::Influx, [&[0; 17], b"", b""], 7);
        assert!(spellings.read().is_empty());
    }

    #[test]
    fn only_series_with_an_id_are_learnt_and_the_latest_id_counts() {
        let spellings = Spellings::bounded(10, 100);
        let mut learnt = Learnt::new(Protocol::Influx);
        learnt.note([b"a", b"", b""], 0, 0);
        learnt.note([b"b", b"", b""], 0, 1);
        spellings.learn(&learnt, &[None, Some(5)]);
        learn(&spellings, Protocol::Influx, [b"b", b"", b""], 6);
        assert_eq!(spellings.read().len(), 1);
        assert_eq!(spellings.read().walk(Protocol::Influx).find([b"b", b"", b""]).unwrap().id, 6);
        spellings.clear();
        assert!(spellings.read().is_empty());
    }
}
