//! What every decoder with known spellings has to keep: knowing them changes nothing.

use tidegate_ingest::{Learnt, Spellings};
use tidegate_model::{SampleBatch, SeriesRef};

/// Spellings that a store would have taught after this batch; the ids are the positions of the keys.
pub fn taught(batch: &SampleBatch, learnt: &Learnt) -> Spellings {
    let spellings = Spellings::bounded(1_000, 1 << 20);
    let ids: Vec<Option<u32>> = (0..batch.keys().len() as u32).map(Some).collect();
    spellings.learn(learnt, &ids);
    spellings
}

/// Checks that two batches hold the same samples, of which the second may name series by the ids of [`taught`].
pub fn check(first: &SampleBatch, second: &SampleBatch) {
    let bits = |batch: &SampleBatch| batch.values().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(first.times(), second.times());
    assert_eq!(bits(first), bits(second));
    for (one, other) in first.series().iter().zip(second.series()) {
        let (SeriesRef::Key(one) | SeriesRef::Id(one)) = *one;
        match *other {
            SeriesRef::Id(id) => assert_eq!(id, one),
            SeriesRef::Key(at) => assert_eq!(second.keys()[at as usize], first.keys()[one as usize]),
        }
    }
}
