//! Agents, as `tidegate_actuator` has them.

use utoipa::ToSchema;

use super::decisions::{ContainerKey, Outcome, Resource};

/// What the server knows of an agent.
#[derive(ToSchema)]
pub(crate) struct Agent {
    /// Its host's name.
    host: String,
    /// The agent's version.
    version: String,
    /// Where it asks from.
    address: String,
    /// Whether orders reach it now.
    connected: bool,
    /// Since when it asks for orders, in ms UTC.
    since: i64,
    /// The instant of its last measurements, in ms UTC.
    last_frame: Option<i64>,
    /// By how much its clock is ahead of the server's, in ms.
    clock_ahead_ms: i64,
    /// How many frames it had still to send.
    behind: u64,
    /// Its own kill switch is on.
    frozen: bool,
}

/// What the kill switch of the controller makes of knobs.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
enum KnobMode {
    Keep,
    Hold,
    GiveBack,
}

/// One change to be made.
#[derive(ToSchema)]
struct Order {
    /// Unique within its epoch.
    id: u64,
    /// How long the question had waited when the order was given, in ms; negative when the order came first.
    waited_ms: i64,
    /// The decision's id.
    decision: String,
    container: ContainerKey,
    resource: Resource,
    /// The new limit, in cores or bytes; null takes it away.
    target: Option<f64>,
    /// The limit that the decision was made about.
    limit_before: Option<f64>,
    /// Nothing is to be changed, but what somebody else has set is to be adopted.
    adopt: bool,
}

/// What an agent is to do.
#[derive(ToSchema)]
pub(crate) struct Orders {
    /// The controller's protocol.
    protocol: u32,
    /// The controller's epoch: each start has a higher one.
    epoch: u64,
    /// Which controller it is.
    controller: String,
    /// What to change, in this order.
    orders: Vec<Order>,
    knobs: KnobMode,
}

/// What came of an order, or what the agent did by itself.
#[derive(ToSchema)]
pub(crate) struct OrderReport {
    /// The order's epoch and id; null when the agent did it by itself.
    #[schema(value_type = Option<Vec<u64>>, min_items = 2, max_items = 2)]
    order: Option<(u64, u64)>,
    /// The decision's id.
    decision: String,
    container: ContainerKey,
    resource: Resource,
    /// What the limit was meant to be; null without one.
    target: Option<f64>,
    /// Why, when the agent did it by itself.
    #[schema(nullable = false)]
    reason: Option<String>,
    outcome: Outcome,
}

/// What became of frames.
#[derive(ToSchema)]
pub(crate) struct FramesTaken {
    /// Frames up to this number are stored.
    taken: u64,
    /// The host's containers are not known here: the next frame shall list all of them.
    wants_present: bool,
}
