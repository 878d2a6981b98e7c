//! What is asked of a bandwidth, whatever it leads to.

use tidegate_model::Limit;

use crate::apply::Job;

/// What the kernel takes for a rate; more is as good as none.
const MOST: f64 = 9e18;

/// The limit that a job is about, in whole bytes a second; or why there is none.
pub(super) fn wanted(job: &Job<'_>) -> Result<Limit, String> {
    match job.target {
        target if target.is_nan() || target < 1.0 => {
            Err(format!("a limit of {target} bytes a second makes no sense: the least is 1"))
        }
        target if target >= MOST => Ok(Limit::Unlimited),
        target => Ok(Limit::At(target.floor())),
    }
}
