//! Values that come at the end and go at the beginning, and lie side by side.

use std::ops::{Deref, DerefMut};

/// A vector whose first values go without moving those behind them: that is done when more of it is gone than is left.
#[derive(Clone, Debug)]
pub(super) struct Queue<T> {
    items: Vec<T>,
    /// How many of them are gone.
    gone: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { items: Vec::new(), gone: 0 }
    }
}

impl<T: PartialEq> PartialEq for Queue<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T> From<Vec<T>> for Queue<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, gone: 0 }
    }
}

impl<T> Deref for Queue<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.items[self.gone..]
    }
}

impl<T> DerefMut for Queue<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[self.gone..]
    }
}

impl<T> Extend<T> for Queue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        self.items.extend(items);
    }
}

/// Of values in the order of time. One by one from the end at which they lie: as a rule they are none or one, and the others are
/// not looked at.
impl<V> Queue<(i64, V)> {
    /// How many lie before a time.
    pub(super) fn count_before(&self, time: i64) -> usize {
        self.iter().take_while(|(at, _)| *at < time).count()
    }

    /// How many lie after a time.
    pub(super) fn count_after(&self, time: i64) -> usize {
        self.iter().rev().take_while(|(at, _)| *at > time).count()
    }
}

impl<T> Queue<T> {
    /// Adds a value at the end.
    #[inline]
    pub(super) fn push(&mut self, item: T) {
        self.items.push(item);
    }

    /// How many values there is memory for.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.items.capacity()
    }

    /// Makes room for so many values at the end.
    pub(super) fn reserve(&mut self, more: usize) {
        self.items.reserve(more);
    }

    /// Whether a value more takes more memory.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.items.len() == self.items.capacity()
    }

    /// Keeps the first `count` values.
    pub(super) fn truncate(&mut self, count: usize) {
        self.items.truncate(self.gone + count);
        self.settle();
    }

    /// Drops the first `count` values.
    pub(super) fn drop_front(&mut self, count: usize) {
        self.gone += count;
        self.settle();
    }

    fn settle(&mut self) {
        if self.gone > self.items.len() / 2 {
            self.items.drain(..self.gone);
            self.gone = 0;
        }
    }

    /// Forgets all values, but not the memory that they took.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.gone = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_deque_would(steps in prop::collection::vec((0_usize..9, 0_usize..9, 0_usize..9), 0..60)) {
            let (mut queue, mut deque, mut next) = (Queue::default(), VecDeque::new(), 0);
            for (added, dropped, cut) in steps {
                for _ in 0..added {
                    queue.push(next);
                    deque.push_back(next);
                    next += 1;
                }
                let dropped = dropped.min(deque.len());
                queue.drop_front(dropped);
                deque.drain(..dropped);
                let kept = deque.len().saturating_sub(cut / 3);
                queue.truncate(kept);
                deque.truncate(kept);
                prop_assert!(queue.iter().eq(deque.iter()));
                prop_assert!(queue.items.len() <= 2 * queue.len().max(1), "no more is held than twice what there is");
            }
        }
    }
}
