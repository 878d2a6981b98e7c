//! Token buckets (`sch_tbf`): what a limit is written as, and what is read back.
//!
//! The packet library has no options of this queue, so these few bytes are laid out here, as `struct tc_tbf_qopt` and the
//! attributes `TCA_TBF_*` of include/uapi/linux/pkt_sched.h.

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::tc::TcOption;

pub(crate) const KIND: &str = "tbf";

const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// `struct tc_tbf_qopt`: two `tc_ratespec` of 12 bytes, then limit, buffer and mtu.
const PARMS_LEN: usize = 36;
const RATESPEC_LEN: usize = 12;
/// Where a `tc_ratespec` has its link layer and its rate.
const LINKLAYER_AT: usize = 1;
const RATE_AT: usize = 8;
/// `TC_LINKLAYER_ETHERNET`: packets count as they are, and no table of them is needed.
const ETHERNET: u8 = 1;

/// What a kernel with the longest tick (HZ = 100) may be late by. A bucket that holds less than what the rate gives in a tick
/// cannot reach the rate: "burst ... should be at least rate/HZ", tc-tbf(8).
const TICKS_A_SECOND: u64 = 100;
/// The largest packet of a container whose network card cuts it (`GSO_LEGACY_MAX_SIZE` in include/linux/netdevice.h, 64 KiB), and
/// 8 KiB for the headers of its parts, which are counted along (`qdisc_pkt_len_init` in net/core/dev.c). What is larger than the
/// bucket is cut before it is queued (`tbf_segment`), which costs CPU time and is right.
const LARGEST_PACKET: u64 = 65_536 + 8_192;
/// The longest that a packet waits before the next one is dropped, but for what the bucket holds: `limit = rate * latency + burst`,
/// tc-tbf(8). Long enough for TCP over some 50 ms, short enough that nobody waits for a second.
const LATENCY_MS: u64 = 50;
/// Packets that are not cut and larger than the bucket are dropped (`tbf_enqueue`), so it holds one of any usual MTU, though
/// that of the interface may be raised later; with the header of Ethernet and a tag.
const USUAL_MTU: u64 = 9_000;
const HEADER: u64 = 18;

/// A limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// A second.
    pub(crate) rate: u64,
    /// What may be sent at once.
    pub(crate) burst: u32,
    /// What may wait, with what the bucket holds.
    pub(crate) limit: u32,
}

impl Bucket {
    /// For `rate` bytes a second on an interface whose packets are up to `mtu` long.
    ///
    /// At a low rate the bucket is smaller than the largest packet, or it and what waits before it would take longer than
    /// the latency allows.
    pub(crate) fn of(rate: u64, mtu: u32) -> Self {
        let in_latency = rate.saturating_mul(LATENCY_MS) / 1_000;
        let least = USUAL_MTU.max(u64::from(mtu)) + HEADER;
        let burst = (rate / TICKS_A_SECOND).max(LARGEST_PACKET.min(in_latency)).max(least);
        let limit = burst.saturating_add(in_latency);
        let bytes = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { rate, burst: bytes(burst), limit: bytes(limit) }
    }

    pub(crate) fn options(self) -> Vec<TcOption> {
        let mut parms = vec![0; PARMS_LEN];
        // Rates beyond 32 bits are in an attribute of their own, and this field is full then.
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        parms[LINKLAYER_AT] = ETHERNET;
        parms[RATE_AT..RATESPEC_LEN].copy_from_slice(&rate.to_ne_bytes());
        parms[2 * RATESPEC_LEN..][..4].copy_from_slice(&self.limit.to_ne_bytes());
        let mut options =
            vec![DefaultNla::new(PARMS, parms), DefaultNla::new(BURST, self.burst.to_ne_bytes().to_vec())];
        if self.rate > u64::from(u32::MAX) {
            options.push(DefaultNla::new(RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        options.into_iter().map(TcOption::Other).collect()
    }
}

/// The rate of a token bucket whose options these are, in bytes a second.
pub(crate) fn rate(options: &[u8]) -> Option<u64> {
    let mut rate = None;
    for option in NlasIterator::new(options) {
        let option = option.ok()?;
        match (option.kind(), option.value()) {
            (PARMS, parms) if rate.is_none() => {
                let field = parms.get(RATE_AT..RATESPEC_LEN)?;
                rate = Some(u64::from(u32::from_ne_bytes(field.try_into().ok()?)));
            }
            (RATE64, field) => rate = Some(u64::from_ne_bytes(field.try_into().ok()?)),
            _ => {}
        }
    }
    rate
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn bytes(bucket: Bucket) -> Vec<u8> {
        let options = bucket.options();
        let mut bytes = vec![0; options.as_slice().buffer_len()];
        options.as_slice().emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_rate_is_read_back_as_it_was_written_whatever_its_size() {
        for of in [1, 131_072, u64::from(u32::MAX), u64::from(u32::MAX) + 1, 1 << 50] {
            assert_eq!(rate(&bytes(Bucket::of(of, 1_500))), Some(of));
        }
        assert_eq!(rate(&[]), None);
        assert_eq!(rate(&[8, 0, 1, 0, 1, 2, 3, 4]), None, "too short");
    }

    #[test]
    fn options_are_laid_out_as_the_kernel_has_them() {
        let written = bytes(Bucket { rate: 0x0102_0304, burst: 5, limit: 7 });
        let expected = [
            [40_u8, 0, 1, 0].as_slice(),
            &[0, 1, 0, 0, 0, 0, 0, 0],
            &0x0102_0304_u32.to_ne_bytes(),
            &[0; 12],
            &7_u32.to_ne_bytes(),
            &[0; 8],
            &[8, 0, 6, 0],
            &5_u32.to_ne_bytes(),
        ];
        assert_eq!(written, expected.concat());
        assert_eq!(bytes(Bucket::of(1 << 40, 1_500)).len(), written.len() + 12, "a rate of 64 bits");
    }

    #[test]
    fn a_bucket_holds_a_tick_and_a_packet_and_no_queue_lasts_long() {
        let mib = 1 << 20;
        assert_eq!(Bucket::of(100 * mib, 1_500).burst as u64, mib, "a hundredth of a second");
        assert_eq!(u64::from(Bucket::of(5 * mib, 1_500).burst), LARGEST_PACKET);
        assert_eq!(Bucket::of(1_000, 1_500).burst, 9_018);
        assert_eq!(Bucket::of(1_000, 65_535).burst, 65_553, "what is larger than the bucket would be dropped");
        for rate in [200_000, mib, 100 * mib, 1 << 36] {
            let Bucket { burst, limit, .. } = Bucket::of(rate, 1_500);
            let ms = u64::from(limit - burst) * 1_000 / rate;
            assert!(ms <= LATENCY_MS && u64::from(limit) * 1_000 / rate <= 2 * LATENCY_MS + 1, "{rate}: {ms} ms");
        }
        assert_eq!(Bucket::of(u64::MAX, 1_500).limit, u32::MAX);
    }
}
