//! What identifies a series.

use std::cmp::Ordering;
use std::iter::FusedIterator;

/// A metric and its tags, sorted by key, each key once.
///
/// Held as one text with the places where its parts end, since a store keeps millions of them: a map or a `String` a part
/// would take several times the memory of the characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// Metric, first tag's key, its value, second tag's key, ...
    text: Box<str>,
    /// Where in `text` the metric, each tag's key and each tag's value end, except the last of all.
    ends: Ends,
}

/// Ends that fit without memory of their own: those of 11 tags.
const FEW_ENDS: usize = 22;

/// Where the parts of a text end. Short keys, as nearly all are, need no second piece of memory, which would take as much
/// again as a number a part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ends {
    /// All below 256; what is not counted is 0.
    Few {
        count: u8,
        ends: [u8; FEW_ENDS],
    },
    Many(Box<[u32]>),
}

impl Ends {
    /// `ends` sorted. Equal ends are held in the same way.
    fn new(ends: &[u32]) -> Self {
        let mut few = [0; FEW_ENDS];
        if ends.len() > FEW_ENDS || ends.last().is_some_and(|end| *end > u32::from(u8::MAX)) {
            return Ends::Many(ends.into());
        }
        few.iter_mut().zip(ends).for_each(|(few, end)| *few = *end as u8);
        Ends::Few { count: ends.len() as u8, ends: few }
    }

    fn len(&self) -> usize {
        match self {
            Ends::Few { count, .. } => usize::from(*count),
            Ends::Many(ends) => ends.len(),
        }
    }

    fn get(&self, at: usize) -> Option<usize> {
        match self {
            Ends::Few { count, ends } => ends[..usize::from(*count)].get(at).map(|end| usize::from(*end)),
            Ends::Many(ends) => ends.get(at).map(|end| *end as usize),
        }
    }
}

impl SeriesKey {
    /// Sorts `tags` by key; of tags with the same key the last one counts, as in a JSON object. Panics when all of it is
    /// longer than 4 GiB.
    pub fn new(metric: impl Into<String>, tags: impl IntoIterator<Item = (String, String)>) -> Self {
        let metric = metric.into();
        let tags: Vec<(String, String)> = tags.into_iter().collect();
        Self::from_parts(&metric, tags.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// As [`SeriesKey::new`], from borrowed texts.
    pub fn from_parts<'a>(metric: &str, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tags: Vec<(&str, &str)> = tags.into_iter().collect();
        if !tags.is_sorted_by(|a, b| a.0 < b.0) {
            tags.reverse();
            tags.sort_by_key(|tag| tag.0);
            tags.dedup_by_key(|tag| tag.0);
        }
        let length = metric.len() + tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let mut text = String::with_capacity(length);
        let mut ends = Vec::with_capacity(2 * tags.len());
        let end = |text: &String| u32::try_from(text.len()).expect("no request is as large as 4 GiB");
        text.push_str(metric);
        for (key, value) in tags {
            ends.push(end(&text));
            text.push_str(key);
            ends.push(end(&text));
            text.push_str(value);
        }
        end(&text);
        Self { text: text.into_boxed_str(), ends: Ends::new(&ends) }
    }

    /// The metric's name.
    pub fn metric(&self) -> &str {
        self.part(0)
    }

    /// The tags, sorted by key.
    pub fn tags(&self) -> Tags<'_> {
        Tags { key: self, next: 0 }
    }

    /// The value of one tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags().find(|tag| tag.0 == key).map(|tag| tag.1)
    }

    fn part(&self, at: usize) -> &str {
        let end = |at: usize| self.ends.get(at).unwrap_or(self.text.len());
        let start = at.checked_sub(1).map_or(0, end);
        &self.text[start..end(at)]
    }
}

impl Ord for SeriesKey {
    /// By metric, then by tags.
    fn cmp(&self, other: &Self) -> Ordering {
        self.metric().cmp(other.metric()).then_with(|| self.tags().cmp(other.tags()))
    }
}

impl PartialOrd for SeriesKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The tags of a [`SeriesKey`] as (key, value), sorted by key.
#[derive(Clone, Debug)]
pub struct Tags<'a> {
    key: &'a SeriesKey,
    next: usize,
}

impl<'a> Iterator for Tags<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.key.ends.len() {
            return None;
        }
        let tag = (self.key.part(self.next + 1), self.key.part(self.next + 2));
        self.next += 2;
        Some(tag)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.key.ends.len() - self.next) / 2;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Tags<'_> {}
impl FusedIterator for Tags<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(metric: &str, tags: &[(&str, &str)]) -> SeriesKey {
        SeriesKey::from_parts(metric, tags.iter().copied())
    }

    #[test]
    fn the_order_of_tags_does_not_make_another_series() {
        let a = key("m", &[("x", "1"), ("a", "2")]);
        assert_eq!(a, key("m", &[("a", "2"), ("x", "1")]));
        assert_eq!((a.tag("x"), a.tag("y"), a.tags().len()), (Some("1"), None, 2));
    }

    #[test]
    fn of_a_repeated_tag_the_last_counts() {
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let key = SeriesKey::new("m", [tag("a", "old"), tag("a", "new")]);
        assert_eq!(key.tags().collect::<Vec<_>>(), [("a", "new")]);
    }

    #[test]
    fn the_same_characters_in_other_parts_are_another_series() {
        let keys = [
            key("ab", &[]),
            key("a", &[("b", "")]),
            key("a", &[("", "b")]),
            key("", &[("a", "b")]),
            key("", &[("", "ab")]),
            key("", &[("", "a"), ("b", "")]),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(at + 1).all(|other| one != other && one.cmp(other) != Ordering::Equal), "{one:?}");
        }
        assert_eq!((keys[0].metric(), keys[3].metric(), keys[3].tag("a")), ("ab", "", Some("b")));
    }

    #[test]
    fn keys_with_many_or_long_tags_have_all_their_parts() {
        let long = "x".repeat(300);
        for value in ["y", &long] {
            for count in [0, 1, 11, 12, 40] {
                let tags: Vec<(String, String)> =
                    (0..count).map(|at| (format!("k{at:02}"), value.to_owned())).collect();
                let key = SeriesKey::new("m", tags.clone());
                assert_eq!(key.metric(), "m");
                assert!(key.tags().eq(tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str()))), "{key:?}");
                assert_eq!(key, SeriesKey::new("m", tags.into_iter().rev()));
            }
        }
        // 255 characters before the last part, and 256.
        for length in [253, 254] {
            let value = "z".repeat(length);
            let key = key("m", &[("a", &value), ("b", "c")]);
            assert_eq!(key.tags().collect::<Vec<_>>(), [("a", value.as_str()), ("b", "c")]);
        }
    }

    #[test]
    fn keys_are_ordered_by_metric_then_tags() {
        assert!(key("cpu", &[("host", "b")]) < key("cpu2", &[]));
        assert!(key("cpu", &[("host", "a"), ("z", "1")]) < key("cpu", &[("host", "b")]));
        assert!(key("cpu", &[]) < key("cpu", &[("host", "a")]));
    }
}
