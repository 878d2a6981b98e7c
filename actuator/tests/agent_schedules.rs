//! Orders over networks that delay and lose them, agents and controllers that come and go: whatever the schedule, nothing late
//! and nothing of an older controller is carried out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tidegate_actuator::agent::wire::Order;
use tidegate_actuator::agent::{Delivery, Executor, Fence};
use tidegate_actuator::{Actuator, Change};
use tidegate_model::{Clock, ContainerKey, Outcome, OutcomeStatus, Resource, SystemClock};

/// As agents have it by default.
const MAX_AGE: u64 = 5_000;
/// After that long without an answer a controller records its decision as failed, and it lives no more.
const ANSWERED_WITHIN: u64 = 15_000;

/// A host whose one limit is a number, and which remembers what was written.
#[derive(Default)]
struct Kernel(Mutex<Vec<f64>>);

impl Actuator for Kernel {
    fn apply(&self, change: &Change, clock: &dyn Clock) -> Outcome {
        self.0.lock().push(change.target);
        Outcome {
            status: OutcomeStatus::Applied,
            limit_after: Some(change.target),
            writes: Vec::new(),
            message: String::new(),
            at: clock.now(),
            took_us: 1,
        }
    }

    fn simulated(&self) -> Option<String> {
        None
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes by.
    Wait(u64),
    /// A controller decides, if it has no living decision.
    Decide(usize),
    /// The agent asks a controller, over a network that takes so long there and so long back, or loses the answer. Without
    /// orders the question waits so long for the controller to decide something.
    Ask { controller: usize, there: u64, waits: Option<u64>, back: Option<u64> },
    /// The agent is killed and started again.
    Restart,
    /// A controller is started again, with the next epoch.
    Reborn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let delay = || prop_oneof![0_u64..50, 0_u64..60_000];
    let waits = || prop::option::of(0_u64..5_000);
    prop_oneof![
        (0_u64..20_000).prop_map(Step::Wait),
        (0_usize..2).prop_map(Step::Decide),
        (0_usize..2).prop_map(Step::Decide),
        (0_usize..2, delay(), waits(), prop::option::weighted(0.8, delay()))
            .prop_map(|(controller, there, waits, back)| Step::Ask { controller, there, waits, back }),
        (0_usize..2, 0_u64..50, waits(), 0_u64..50).prop_map(|(controller, there, waits, back)| Step::Ask {
            controller,
            there,
            waits,
            back: Some(back)
        }),
        Just(Step::Restart),
        (0_usize..2).prop_map(Step::Reborn),
    ]
}

struct Controller {
    epoch: u64,
    next: u64,
    /// Its decision that lives: when it was taken, and the order's number.
    living: Option<(u64, u64)>,
    /// Orders that wait for a question, with their times.
    queue: VecDeque<(Order, u64)>,
}

impl Controller {
    /// Decides, unless a decision of its lives.
    fn decide(&mut self, now: u64, decided: &mut Vec<Decided>) {
        if self.living.is_some_and(|(since, _)| now < since + ANSWERED_WITHIN) {
            return;
        }
        // What was not fetched in time is withdrawn.
        self.queue.clear();
        let order = Order {
            id: self.next,
            waited_ms: 0,
            decision: format!("d{}", decided.len()),
            container: ContainerKey { host: "h".to_owned(), name: "c".to_owned() },
            resource: Resource::Cpu,
            target: Some(decided.len() as f64),
            limit_before: None,
            adopt: false,
        };
        self.living = Some((now, self.next));
        self.next += 1;
        self.queue.push_back((order, now));
        decided.push(Decided { at: now, epoch: self.epoch });
    }
}

/// What was decided: by whom, when, in which epoch.
struct Decided {
    at: u64,
    epoch: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_late_and_nothing_of_an_older_controller_is_carried_out(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Arc::new(Kernel::default());
        let agent = || Executor::new(
            kernel.clone(), Fence::open(Some(dir.path())).unwrap(), None, Duration::from_millis(MAX_AGE)
        );
        let mut executor = agent();
        let mut controllers = [1, 1].map(|epoch| Controller { epoch, next: 1, living: None, queue: VecDeque::new() });
        // The target of a decision is its place here.
        let mut decided: Vec<Decided> = Vec::new();
        let mut now = 0;
        let (mut highest, mut applied) = (0, 0);

        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Decide(at) => controllers[at].decide(now, &mut decided),
                Step::Restart => executor = agent(),
                Step::Reborn(at) => {
                    let epoch = controllers[at].epoch + 1;
                    controllers[at] = Controller { epoch, next: 1, living: None, queue: VecDeque::new() };
                }
                Step::Ask { controller: at, there, waits, back } => {
                    let (asked, name) = (now, format!("controller {at}"));
                    now += there;
                    let controller = &mut controllers[at];
                    if controller.living.is_some_and(|(since, _)| now >= since + ANSWERED_WITHIN) {
                        controller.queue.clear();
                    }
                    let arrived = now;
                    if let Some(waits) = waits.filter(|_| controller.queue.is_empty()) {
                        now += waits;
                        controller.decide(now, &mut decided);
                    }
                    let orders: Vec<Order> = controller
                        .queue
                        .drain(..)
                        .map(|(order, given)| Order { waited_ms: given as i64 - arrived as i64, ..order })
                        .collect();
                    let Some(back) = back else { continue };
                    now += back;
                    for order in orders {
                        let (epoch, target) = (controllers[at].epoch, order.target.unwrap());
                        let decision = &decided[target as usize];
                        // The answer is of the epoch in which the order was given, also when that controller is gone.
                        prop_assert_eq!(decision.epoch, epoch);
                        let delivery = Delivery { epoch, controller: name.clone(), order, asked: Duration::from_millis(asked) };
                        let report = executor.carry_out(&delivery, &SystemClock, &|| Duration::from_millis(now));
                        let written = kernel.0.lock().clone();
                        if report.outcome.status == OutcomeStatus::Applied {
                            applied += 1;
                            prop_assert_eq!(written.last(), Some(&target));
                            prop_assert!(now - decision.at <= MAX_AGE, "decided at {}, applied at {}", decision.at, now);
                            prop_assert!(epoch >= highest, "epoch {} after {}", epoch, highest);
                            highest = highest.max(epoch);
                        } else {
                            // What was hardly on its way is only ever refused for its controller.
                            let fresh = there + back <= 100 && now - decision.at <= MAX_AGE - 200;
                            let message = &report.outcome.message;
                            prop_assert!(!fresh || message.contains("epoch"), "{}", message);
                        }
                        prop_assert_eq!(written.len(), applied);
                        // The answer ends the decision's life.
                        if controllers[at].living.is_some_and(|(_, id)| Some((epoch, id)) == report.order) {
                            controllers[at].living = None;
                        }
                    }
                }
            }
        }
        // What stands is the last order that was carried out, and those of one controller came in the order of its decisions.
        let written = kernel.0.lock().clone();
        let epochs: Vec<u64> = written.iter().map(|target| decided[*target as usize].epoch).collect();
        prop_assert!(epochs.is_sorted());
        let in_order = written.windows(2).all(|pair| {
            let [first, second] = [&decided[pair[0] as usize], &decided[pair[1] as usize]];
            first.epoch != second.epoch || first.at <= second.at
        });
        prop_assert!(in_order);
    }
}
