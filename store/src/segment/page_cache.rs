//! Pages that were decompressed lately, so that who asks again, or for a neighbour, does not pay again.
//!
//! They are kept as they are encoded, which takes about the bytes that they have on disk. Bounded; of what was not asked for
//! since it was last looked at, the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::pages::Page;

/// A file's number and a place in it.
type Key = (u64, u64);

/// Shared by all segments of a store.
#[derive(Debug)]
pub(crate) struct PageCache {
    /// What it may take.
    most: usize,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    by_key: HashMap<Key, Entry, ahash::RandomState>,
    /// In the order in which they are looked at when there is no room.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    page: Arc<Page>,
    /// Whether somebody asked for it since it was last looked at.
    used: bool,
}

impl PageCache {
    /// A cache of `bytes` at most.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { most: bytes, pages: Mutex::default() }
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<Page>> {
        let mut pages = self.pages.lock();
        let entry = pages.by_key.get_mut(&key)?;
        entry.used = true;
        Some(Arc::clone(&entry.page))
    }

    pub(super) fn put(&self, key: Key, page: &Arc<Page>) {
        let size = page.size();
        if size > self.most / 4 {
            return; // it would push out too much
        }
        let mut pages = self.pages.lock();
        let pages = &mut *pages;
        while pages.bytes + size > self.most {
            let Some(oldest) = pages.order.pop_front() else { break };
            match pages.by_key.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    pages.order.push_back(oldest);
                }
                Some(entry) => {
                    pages.bytes -= entry.page.size();
                    pages.by_key.remove(&oldest);
                }
                None => {}
            }
        }
        // Another thread may have been faster.
        if pages.by_key.insert(key, Entry { page: Arc::clone(page), used: false }).is_none() {
            pages.order.push_back(key);
            pages.bytes += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_asked_for() {
        let page = |bytes: usize| Arc::new(Page::of_bytes(vec![0; bytes]));
        let size = page(1_000).size();
        let cache = PageCache::new(10 * size);
        for number in 0..100 {
            cache.put((1, number), &page(1_000));
            assert!(cache.get((1, 0)).is_some(), "{number}");
            assert!(cache.pages.lock().bytes <= 10 * size);
        }
        assert_eq!(cache.pages.lock().by_key.len(), 10);
        assert_eq!(cache.pages.lock().order.len(), 10);
        assert!(cache.get((1, 50)).is_none() && cache.get((1, 99)).is_some());
        cache.put((2, 0), &page(5 * size));
        assert!(cache.get((2, 0)).is_none());
        assert!(PageCache::new(0).get((1, 1)).is_none());
    }
}
