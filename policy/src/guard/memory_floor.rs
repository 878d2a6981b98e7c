//! Memory that cannot be reclaimed must stay under the limit, or the kernel kills.

use tidegate_model::Resource;

use super::{Context, Verdict};

/// Headroom above what cannot be reclaimed. Below 1.02 a group without swap is stuck in reclaim at its limit (found for
/// `memory.high` with Kubernetes' memory QoS).
const HEADROOM: f64 = 1.02;

/// Keeps a decrease of memory above what the kernel cannot reclaim; refuses it when that is unknown, and calls it infeasible
/// when that is not below the limit.
pub(super) fn check(target: f64, context: &Context) -> Verdict {
    if context.resource != Resource::Memory || !context.may_shrink(target) {
        return Verdict::Pass;
    }
    let Some(unreclaimable) = context.unreclaimable else {
        return Verdict::Refuse(
            "how much memory cannot be reclaimed is unknown, so the limit is not lowered".to_owned(),
        );
    };
    let floor = unreclaimable * HEADROOM;
    if target >= floor {
        return Verdict::Pass;
    }
    let (shown, floor_shown) = (context.show(unreclaimable), context.show(floor));
    match context.limit {
        Some(limit) if floor < limit => {
            Verdict::Change(floor, format!("{shown} cannot be reclaimed, so not below {floor_shown}"))
        }
        _ => Verdict::Infeasible(format!("{shown} cannot be reclaimed, which leaves nothing to lower")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::*;

    #[test]
    fn memory_stays_above_what_cannot_be_reclaimed() {
        let memory =
            |unreclaimable| Context { resource: Resource::Memory, limit: Some(1e9), unreclaimable, ..context() };
        assert_eq!(check(6e8, &memory(Some(5e8))), Verdict::Pass);
        assert!(matches!(check(3e8, &memory(Some(5e8))), Verdict::Change(after, _) if after == 5e8 * 1.02));
        assert!(matches!(check(3e8, &memory(Some(9.9e8))), Verdict::Infeasible(_)));
        assert!(matches!(check(3e8, &memory(None)), Verdict::Refuse(_)));
        assert_eq!(check(2e9, &memory(None)), Verdict::Pass);
    }
}
