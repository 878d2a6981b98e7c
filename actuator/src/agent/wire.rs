//! What an agent and its controller say to each other.
//!
//! The agent opens every connection. It asks for orders (`GET orders`, answered when there are some or after a few seconds),
//! sends what came of them (`POST reports`) and what it measured (`POST frames`, several frames after one another).
//! JSON, but for a frame's samples, which are an Arrow IPC stream; frames are compressed. Unknown fields are ignored and missing ones have defaults,
//! so that either side may be one release ahead.

use std::io;

use serde::{Deserialize, Serialize};
use tidegate_model::{Container, ContainerKey, Host, Outcome, Resource, TimeMs, from_json};

use crate::agent::spool::checksum;
use crate::{Change, Drift, KnobMode, KnobReport};

/// Counts changes of this module that the other side must know of.
pub const PROTOCOL: u32 = 1;
/// Starts a frame.
const MAGIC: [u8; 4] = *b"TGF1";
/// A frame with a longer part than this is damaged: 200 containers are some 50 kB a second.
const LONGEST: usize = 64 << 20;

/// Whether an other side with that protocol is understood: one release either way.
pub fn understands(protocol: u32) -> bool {
    protocol.abs_diff(PROTOCOL) <= 1
}

/// Who asks for orders; the query of `GET /api/v1/agents/HOST/orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// The machine, so that two of one name are told apart.
    #[serde(default)]
    pub machine: String,
    /// This run of the agent.
    #[serde(default)]
    pub run: String,
    /// The highest epoch that the agent has obeyed.
    #[serde(default)]
    pub epoch: u64,
    /// The agent's own kill switch is on.
    #[serde(default)]
    pub frozen: bool,
}

/// The answer to a question for orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// [`PROTOCOL`] of the controller.
    pub protocol: u32,
    /// The controller's epoch: each start of a controller has a higher one.
    pub epoch: u64,
    /// Which controller it is: two that know nothing of each other may come to the same epoch.
    #[serde(default)]
    pub controller: String,
    /// What to change, in this order.
    pub orders: Vec<Order>,
    /// What the kill switch of the controller makes of knobs.
    #[serde(default)]
    pub knobs: KnobMode,
}

/// One change to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Unique within its epoch.
    pub id: u64,
    /// How long the question had waited at the controller when the order was given, in ms; negative when the order was given
    /// before the question came. With the agent's own measure of the time since it asked, that bounds the order's age without
    /// any clock that both would have to agree on.
    pub waited_ms: i64,
    /// The decision's identifier.
    pub decision: String,
    /// Whose limit.
    pub container: ContainerKey,
    /// Which limit.
    pub resource: Resource,
    /// The new limit in the resource's base unit; `None` takes it away.
    pub target: Option<f64>,
    /// As [`Change::limit_before`].
    #[serde(default)]
    pub limit_before: Option<f64>,
    /// Nothing is to be changed, but what somebody else has set is to be adopted.
    #[serde(default)]
    pub adopt: bool,
}

impl Orders {
    /// Reads the answer to a question. An order about a resource that is not known here is left out, which its controller
    /// sees by hearing nothing of it.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let (orders, unknown) = from_json(bytes)?;
        if !unknown.is_empty() {
            tracing::warn!(
                ?unknown,
                "the controller orders changes of resources that are not known here; they are not made"
            );
        }
        Ok(orders)
    }
}

impl Order {
    /// An order of what a controller decided.
    pub fn of(change: &Change, id: u64, waited_ms: i64) -> Self {
        Self {
            id,
            waited_ms,
            decision: change.decision.clone(),
            container: change.container.clone(),
            resource: change.resource,
            target: change.target.is_finite().then_some(change.target),
            limit_before: change.limit_before,
            adopt: false,
        }
    }

    /// An order to adopt what stands there.
    pub fn adopting(container: &ContainerKey, resource: Resource) -> Self {
        // An agent of the last release takes it for a change and refuses this limit: nothing could run under it.
        let target = Some(0.0);
        let decision = "adopt".to_owned();
        Self {
            id: 0,
            waited_ms: 0,
            decision,
            container: container.clone(),
            resource,
            target,
            limit_before: None,
            adopt: true,
        }
    }

    /// What is to be done on the host.
    pub fn change(&self) -> Change {
        Change {
            container: self.container.clone(),
            resource: self.resource,
            target: self.target.unwrap_or(f64::INFINITY),
            limit_before: self.limit_before,
            decision: self.decision.clone(),
        }
    }
}

/// What came of an order, or what the agent did by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The order's epoch and [`Order::id`]; `None` when the agent did it by itself.
    #[serde(default)]
    pub order: Option<(u64, u64)>,
    /// The decision's identifier.
    pub decision: String,
    /// Whose limit.
    pub container: ContainerKey,
    /// Which limit.
    pub resource: Resource,
    /// What the limit was meant to be; `None` without one.
    #[serde(default)]
    pub target: Option<f64>,
    /// Why, when the agent did it by itself.
    #[serde(default)]
    pub reason: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What one collection found, but for the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameHeader {
    /// The instant of the samples.
    pub time: TimeMs,
    /// The machine's capacity.
    pub host: Host,
    /// Seen for the first time.
    #[serde(default)]
    pub appeared: Vec<Container>,
    /// Gone.
    #[serde(default)]
    pub vanished: Vec<ContainerKey>,
    /// All containers; `None` when they are as in the frame before.
    #[serde(default)]
    pub present: Option<Vec<Container>>,
    /// Limits that somebody else changed.
    #[serde(default)]
    pub drifts: Vec<Drift>,
    /// What came of knobs.
    #[serde(default)]
    pub knobs: Vec<KnobReport>,
    /// What could not be read.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What the controller has not been told otherwise.
    #[serde(default)]
    pub reports: Vec<Report>,
}

/// JSON has no word for infinity, which stands for "no limit" here: it is `null` there.
pub(crate) mod or_unlimited {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// From where frames come; the query of `POST /api/v1/agents/HOST/frames`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramesFrom {
    /// Names the buffer, which counts its frames.
    pub spool: String,
    /// As [`AgentInfo::machine`].
    #[serde(default)]
    pub machine: String,
    /// As [`AgentInfo::run`].
    #[serde(default)]
    pub run: String,
    /// How many more frames wait there.
    #[serde(default)]
    pub behind: u64,
    /// How many had to be given up before these, since the last ones that were taken.
    #[serde(default)]
    pub dropped: u64,
}

/// The answer to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramesTaken {
    /// Frames up to this number are stored; the agent may forget them.
    pub taken: u64,
    /// The controller does not know the host's containers (it has just started): the next frame shall list all of them.
    #[serde(default)]
    pub wants_present: bool,
}

/// One frame: `TGF1`, number, CRC-32 of what follows, length of the header, length of all that is compressed, and header and
/// samples compressed together (zstd); numbers in little-endian order.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Counts the frames of a spool from 1.
    pub number: u64,
    /// What was found.
    pub header: FrameHeader,
    /// The samples as an Arrow IPC stream.
    pub samples: Vec<u8>,
}

const HEAD: usize = 4 + 8 + 4 + 4 + 4;
/// Compresses to a fourth in a third of a millisecond; more would cost more than it gives.
const LEVEL: i32 = 1;

/// Packs a frame's two parts, for [`crate::agent::Spool::append`], which numbers it.
///
/// # Errors
/// A number that JSON has no word for.
pub fn pack(header: &FrameHeader, samples: &[u8]) -> io::Result<Vec<u8>> {
    pack_plain(&serde_json::to_vec(header)?, samples)
}

fn pack_plain(header: &[u8], samples: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = header.to_vec();
    let length = plain.len() as u32;
    plain.extend_from_slice(samples);
    let compressed = zstd::bulk::compress(&plain, LEVEL)?;
    let mut bytes = Vec::with_capacity(HEAD + compressed.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&compressed);
    Ok(bytes)
}

/// Numbers a packed frame and seals it.
pub(crate) fn seal(bytes: &mut [u8], number: u64) {
    bytes[4..12].copy_from_slice(&number.to_le_bytes());
    let sum = checksum(&bytes[16..]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
}

/// The length of the sealed frame at the start of `bytes`, when it is whole and undamaged.
pub(crate) fn whole(bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    let number = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    if bytes.get(..4) != Some(&MAGIC) {
        return Err("it does not begin with TGF1");
    }
    let short = "it breaks off";
    let counted = u64::from_le_bytes(bytes.get(4..12).and_then(|part| part.try_into().ok()).ok_or(short)?);
    let (sum, compressed) = (number(12).ok_or(short)?, number(20).ok_or(short)?);
    if compressed as usize > LONGEST {
        return Err("its length cannot be");
    }
    let end = HEAD + compressed as usize;
    match bytes.get(16..end) {
        None => Err(short),
        Some(sealed) if checksum(sealed) != sum => Err("its checksum does not fit"),
        Some(_) => Ok((counted, end)),
    }
}

/// The numbers of the sealed frames in `bytes`.
pub fn numbers(mut bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Ok((number, length)) = whole(bytes) {
        numbers.push(number);
        bytes = &bytes[length..];
    }
    numbers
}

/// Reads the frames of a request.
///
/// All of them together may be 64 MiB when they are no longer compressed.
///
/// # Errors
/// Which frame, counted from 1, is damaged, and how.
pub fn unpack(mut bytes: &[u8]) -> Result<Vec<Frame>, String> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut room = LONGEST;
    while !bytes.is_empty() {
        let damaged = |why: &str| format!("frame {}: {why}", frames.len() + 1);
        let (number, end) = whole(bytes).map_err(damaged)?;
        let length = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]) as usize;
        let plain = zstd::bulk::decompress(&bytes[HEAD..end], room).map_err(|error| damaged(&error.to_string()))?;
        room -= plain.len();
        let parts = plain.split_at_checked(length).ok_or_else(|| damaged("its header is longer than all of it"))?;
        let (header, unknown) =
            from_json(parts.0).map_err(|error| damaged(&format!("its header cannot be read: {error}")))?;
        if !unknown.is_empty() {
            tracing::warn!(
                frame = number,
                ?unknown,
                "the agent tells of resources that are not known here; they are left out"
            );
        }
        frames.push(Frame { number, header, samples: parts.1.to_vec() });
        bytes = &bytes[end..];
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use tidegate_model::{Bytes, Cores};

    use super::*;
    use crate::DriftAnswer;

    fn header(time: i64) -> FrameHeader {
        FrameHeader {
            time: TimeMs(time),
            host: Host { name: "h".to_owned(), cpu: Cores(2.0), memory: Bytes(1 << 30), last_seen: TimeMs(time) },
            appeared: Vec::new(),
            vanished: Vec::new(),
            present: None,
            drifts: Vec::new(),
            knobs: Vec::new(),
            problems: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn sealed(number: u64, samples: &[u8]) -> Vec<u8> {
        let mut bytes = pack(&header(number as i64), samples).unwrap();
        seal(&mut bytes, number);
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let bytes = [sealed(1, b"abc"), sealed(2, b"")].concat();
        let frames = unpack(&bytes).unwrap();
        assert_eq!(frames.iter().map(|frame| frame.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((frames[0].samples.as_slice(), &frames[1].header), (b"abc".as_slice(), &header(2)));
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let first = sealed(1, b"abc");
        let good = [first.clone(), sealed(2, b"def")].concat();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            // The number is not sealed: it is the spool's.
            let error = unpack(&bytes).err().unwrap_or_default();
            let (place, within) = if at < first.len() { ("frame 1: ", at) } else { ("frame 2: ", at - first.len()) };
            assert!(error.starts_with(place) || (4..12).contains(&within), "byte {at}: {error}");
        }
        assert_eq!(unpack(&good[..good.len() - 1]).unwrap_err(), "frame 2: it breaks off");
    }

    #[test]
    fn the_next_release_may_say_more_and_the_last_one_less() {
        let text = r#"{"id": 7, "waited_ms": 3, "decision": "d", "container": {"host": "h", "name": "c"},
            "resource": "cpu", "target": null, "urgency": "high"}"#;
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!((order.change().target, order.limit_before), (f64::INFINITY, None));
        let orders: Orders = serde_json::from_str(r#"{"protocol": 1, "epoch": 2, "orders": []}"#).unwrap();
        assert_eq!(orders.knobs, KnobMode::Keep);
        let of =
            |resource: &str| format!(r#"{{"protocol": 1, "epoch": 2, "orders": [{}]}}"#, text.replace("cpu", resource));
        assert_eq!(Orders::read(of("net_send").as_bytes()).unwrap().orders[0].resource, Resource::NetSend);
        assert_eq!(Orders::read(of("disk_read").as_bytes()).unwrap().orders[0].resource, Resource::DiskRead);
        assert_eq!(Orders::read(of("gpu").as_bytes()).unwrap().orders, Vec::new());
        assert!(Orders::read(b"{}").is_err());
        // A frame of the next release, with a resource of its own.
        let mut next = serde_json::to_value(header(3)).unwrap();
        next["drifts"] = serde_json::json!([{ "resource": "gpu", "expected": 1.0 }]);
        let mut bytes = pack_plain(&serde_json::to_vec(&next).unwrap(), b"abc").unwrap();
        seal(&mut bytes, 3);
        assert_eq!(unpack(&bytes).unwrap()[0].header, header(3));
        let text =
            r#"{"container": {"host": "h", "name": "c"}, "resource": "cpu", "expected": null, "found": 1.0, "at": 5}"#;
        assert_eq!(serde_json::from_str::<Drift>(text).unwrap().answer, DriftAnswer::Adopt);
        assert!(understands(PROTOCOL) && understands(PROTOCOL + 1) && !understands(PROTOCOL + 2));
    }
}
