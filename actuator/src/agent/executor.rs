//! Carrying out orders: in time, of the right controller, and not while the kill switch is on.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::{Clock, Outcome, OutcomeStatus};

use crate::Actuator;
use crate::agent::wire::{Order, Report};
use crate::agent::{Brake, Fence};

/// One order as it arrived.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its controller's epoch.
    pub epoch: u64,
    /// Which controller: two may have the same epoch.
    pub controller: String,
    /// The order.
    pub order: Order,
    /// When the question was asked that it answers.
    pub asked: Duration,
}

impl Delivery {
    /// The most that can have passed since the order was given: all of the time since the question was asked, but for what
    /// the question waited at the controller.
    pub fn may_be_old(&self, now: Duration) -> Duration {
        let since_asked = i64::try_from(now.saturating_sub(self.asked).as_millis()).unwrap_or(i64::MAX);
        Duration::from_millis(u64::try_from(since_asked.saturating_sub(self.order.waited_ms)).unwrap_or(0))
    }
}

/// Carries out orders on one host.
pub struct Executor {
    host: Arc<dyn Actuator>,
    fence: Fence,
    brake: Option<Brake>,
    max_age: Duration,
}

impl Executor {
    /// Orders that may be older than `max_age` are refused.
    pub fn new(host: Arc<dyn Actuator>, fence: Fence, brake: Option<Brake>, max_age: Duration) -> Self {
        Self { host, fence, brake, max_age }
    }

    /// Whom it obeys.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Carries out one order, or says why not. `now` tells the agent's time. A memory limit that goes down may block for
    /// seconds.
    pub fn carry_out(&self, delivery: &Delivery, clock: &dyn Clock, now: &dyn Fn() -> Duration) -> Report {
        let order = &delivery.order;
        let refuse = || self.refuse(delivery, now());
        let outcome = match (order.adopt, order.adopt.then(refuse).flatten()) {
            (false, _) => self.host.apply_unless(&order.change(), &refuse, clock),
            (true, None) => self.host.adopt(&order.container, order.resource, clock),
            (true, Some(why)) => Outcome::unwritten(OutcomeStatus::Refused, why, clock.now()),
        };
        Report {
            order: Some((delivery.epoch, order.id)),
            decision: order.decision.clone(),
            container: order.container.clone(),
            resource: order.resource,
            target: order.target,
            reason: String::new(),
            outcome,
        }
    }

    fn refuse(&self, delivery: &Delivery, now: Duration) -> Option<String> {
        let old = delivery.may_be_old(now);
        if old > self.max_age {
            return Some(format!(
                "the order came late: it may be {:.1} s old, and none is carried out after {:.1} s",
                old.as_secs_f64(),
                self.max_age.as_secs_f64()
            ));
        }
        if let Some(on) = self.brake.as_ref().and_then(Brake::is_on) {
            let why = if on.why.is_empty() { String::new() } else { format!(": {}", on.why) };
            return Some(format!("the kill switch is on at the agent since {}{why}", on.since));
        }
        self.fence.admit(delivery.epoch, &delivery.controller).err()
    }
}
