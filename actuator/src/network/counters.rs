//! What came and went over the interfaces of a network namespace: `/proc/PID/net/dev`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::cgroup::parse::Transferred;

/// Where a line has the bytes received and sent: eight numbers of one, eight of the other.
const RECEIVED_AT: usize = 0;
const SENT_AT: usize = 8;
const CHUNK: usize = 4096;

/// Reads the file from its beginning into `text`. It is one record an interface, so a read that is not filled need not be the
/// last one.
pub(crate) fn read(file: &File, text: &mut Vec<u8>) -> io::Result<Transferred> {
    text.clear();
    loop {
        let mut chunk = [0; CHUNK];
        match file.read_at(&mut chunk, text.len() as u64)? {
            0 => break,
            count => text.extend_from_slice(&chunk[..count]),
        }
    }
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    Ok(sum(text))
}

/// Of all interfaces but that to itself.
fn sum(text: &str) -> Transferred {
    let mut all = Transferred::default();
    for line in text.lines() {
        // Two lines of headings have no colon.
        let Some((name, numbers)) = line.split_once(':').filter(|(name, _)| name.trim() != "lo") else { continue };
        debug_assert!(!name.contains('|'), "a heading");
        for (at, number) in numbers.split_ascii_whitespace().enumerate().take(SENT_AT + 1) {
            let total = match at {
                RECEIVED_AT => &mut all.inward,
                SENT_AT => &mut all.outward,
                _ => continue,
            };
            *total = total.saturating_add(number.parse().unwrap_or(0));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEADINGS: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier \
        compressed\n";

    #[test]
    fn bytes_of_all_interfaces_but_lo_are_summed_up() {
        let text = format!(
            "{HEADINGS}    lo: 900 9 0 0 0 0 0 0 900 9 0 0 0 0 0 0\n  eth0: 1000 5 0 0 0 0 0 1 2000 7 0 0 0 0 0 0\n\
             macvlan0:24 5 0 0 0 0 0 1 48 7 0 0 0 0 0 0\n"
        );
        assert_eq!(sum(&text), Transferred { inward: 1024, outward: 2048 });
        assert_eq!(sum(HEADINGS), Transferred::default());
    }

    #[test]
    fn a_list_longer_than_a_read_is_read_whole_and_again() {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "{HEADINGS}").unwrap();
        for number in 0..200 {
            writeln!(file, "eth{number}: 10 5 0 0 0 0 0 1 1 7 0 0 0 0 0 0").unwrap();
        }
        let mut text = Vec::new();
        for _ in 0..2 {
            assert_eq!(read(&file, &mut text).unwrap(), Transferred { inward: 2_000, outward: 200 });
        }
    }
}
