//! Decisions, as `tidegate_model` has them.

use serde_json::Value;
use utoipa::ToSchema;

/// What a container consumes and Tidegate limits, in cores, bytes or bytes a second; or a single knob of it that a rule aims at.
#[derive(ToSchema)]
pub(crate) enum Resource {
    #[schema(rename = "cpu")]
    Cpu,
    #[schema(rename = "cpu.weight")]
    CpuWeight,
    #[schema(rename = "disk_read")]
    DiskRead,
    #[schema(rename = "disk_write")]
    DiskWrite,
    #[schema(rename = "memory")]
    Memory,
    #[schema(rename = "memory.high")]
    MemoryHigh,
    #[schema(rename = "net_receive")]
    NetReceive,
    #[schema(rename = "net_send")]
    NetSend,
}

/// How far a rule's proposals go: `off`, `shadow` (recorded, nothing is written), `canary 10 %` (as `on` for this share of
/// the containers, and as `shadow` for the others), `on`.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^(off|shadow|on|canary [1-9][0-9]? %)$", example = "shadow")]
pub(crate) struct Mode(String);

/// What names a container.
#[derive(ToSchema)]
pub(crate) struct ContainerKey {
    /// The host's name.
    host: String,
    /// The container's name on that host.
    name: String,
}

/// What a guard did to a proposal.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum GuardAction {
    Passed,
    Changed,
    Refused,
}

/// One guard's arithmetic.
#[derive(ToSchema)]
struct GuardReport {
    /// The guard's name: `bounds`, `stale`, `cooldown`, `step` and others.
    guard: String,
    action: GuardAction,
    /// The target it was given, in cores or bytes.
    before: f64,
    /// The target it passed on.
    after: f64,
    /// The arithmetic in words.
    why: String,
}

/// What came of a decision.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum OutcomeStatus {
    Applied,
    Unchanged,
    Refused,
    Infeasible,
    Drifted,
    RolledBack,
    Shadow,
    Failed,
}

/// One write to a kernel file or a runtime's API.
#[derive(ToSchema)]
struct Write {
    /// The file's path or the API's call.
    target: String,
    value: String,
}

/// What the actuator did and saw.
#[derive(ToSchema)]
pub(super) struct Outcome {
    status: OutcomeStatus,
    /// The limit that was read back; null when there is none or it was not read.
    limit_after: Option<f64>,
    /// Every write, in order.
    writes: Vec<Write>,
    /// Why it was refused, what was not reached, who else wrote.
    message: String,
    /// When the limit was read back, in ms UTC.
    at: i64,
    /// From the first read to the read-back, in microseconds.
    took_us: u64,
}

/// One proposal with everything that went in and what came out.
#[derive(ToSchema)]
pub(crate) struct Decision {
    id: String,
    /// The tick, in ms UTC.
    time: i64,
    /// The rule's name; one in brackets is no rule's, such as `(freeze)`.
    rule: String,
    /// The rule's version at that tick.
    version: u32,
    container: ContainerKey,
    resource: Resource,
    /// The limit in force before, in cores or bytes; null when none was known.
    limit_before: Option<f64>,
    /// What the rule wanted.
    proposed: f64,
    /// What the guards left of it; null when one of them refused.
    decided: Option<f64>,
    /// What the guards did, in order; those that passed it unchanged are left out.
    guards: Vec<GuardReport>,
    /// The rule's own words.
    reason: String,
    mode: Mode,
    /// What the engine knew: usage, limit, age, bounds, and the rule's further columns.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Value>>)]
    inputs: Option<Value>,
    outcome: Outcome,
    /// The decision as one sentence.
    sentence: String,
}
