//! Measurements on their way to the controller, on disk until it has them.
//!
//! Frames are appended to files of a few megabytes. What was taken is forgotten file by file; how far that is stands in a
//! file of its own, so that little is sent twice after a crash. Nothing is synced: what a power cut takes away are
//! measurements of the last seconds. When the disk refuses, the last frames are kept in memory instead.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::agent::wire;
use crate::error::ActuatorError;

/// A file is at most so long before the next one is begun.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How many frames are kept in memory while the disk refuses: a minute.
const IN_MEMORY: usize = 60;

/// What had to be given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many frames.
    pub frames: u64,
}

/// Numbered frames in order. One writer, one reader.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    id: String,
    max_bytes: u64,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    /// The last segment, once something was appended.
    out: Option<File>,
    /// Sealed frames that the disk refused.
    memory: VecDeque<(u64, Vec<u8>)>,
    next: u64,
    taken: u64,
    dropped: Dropped,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// The number of its first frame.
    first: u64,
    bytes: u64,
    /// Where the first frame is that was not taken.
    from: u64,
}

/// CRC-32 as in zlib.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

impl Spool {
    /// Opens the spool of a former run, or begins one. A frame that was being written when the former run ended is cut off.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Self, ActuatorError> {
        Self::with_segments(dir, max_bytes, SEGMENT_BYTES)
    }

    fn with_segments(dir: &Path, max_bytes: u64, segment_bytes: u64) -> Result<Self, ActuatorError> {
        fs::create_dir_all(dir).map_err(|error| ActuatorError::file("create directory", dir, error))?;
        // Of this opening: after a power cut numbers may be used a second time, and the controller must not take the new
        // frames for those that it knows.
        let uuid = Path::new("/proc/sys/kernel/random/uuid");
        let id = fs::read_to_string(uuid).map_err(|error| ActuatorError::file("read", uuid, error))?.trim().to_owned();
        let taken = fs::read(dir.join("taken")).ok().and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let mut spool = Self {
            dir: dir.to_owned(),
            id,
            max_bytes,
            segment_bytes,
            segments: VecDeque::new(),
            out: None,
            memory: VecDeque::new(),
            next: 1,
            taken: taken.unwrap_or(0),
            dropped: Dropped::default(),
        };
        let entries = fs::read_dir(dir).map_err(|error| ActuatorError::file("list", dir, error))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "frames"));
        // Their names are numbers of one length.
        paths.sort();
        for path in paths {
            spool.recover(path).map_err(|(path, error)| ActuatorError::file("recover", path, error))?;
        }
        // A spool that was emptied by hand goes on behind what the controller has.
        spool.next = spool.next.max(spool.taken + 1);
        spool.forget_taken();
        Ok(spool)
    }

    fn recover(&mut self, path: PathBuf) -> Result<(), (PathBuf, io::Error)> {
        let bytes = fs::read(&path).map_err(|error| (path.clone(), error))?;
        let (mut end, mut from, mut first) = (0, 0, None);
        while end < bytes.len() {
            match wire::whole(&bytes[end..]) {
                Ok((number, length)) => {
                    end += length;
                    first.get_or_insert(number);
                    self.next = number + 1;
                    if number <= self.taken {
                        from = end;
                    }
                }
                Err(why) => {
                    let lost = bytes.len() - end;
                    tracing::warn!(file = %path.display(), at = end, lost, why, "cut off a damaged end of the buffer");
                    let cut = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(end as u64));
                    cut.map_err(|error| (path.clone(), error))?;
                    break;
                }
            }
        }
        match first {
            Some(first) => {
                self.segments.push_back(Segment { path, first, bytes: end as u64, from: from as u64 });
            }
            None => drop(fs::remove_file(&path)),
        }
        Ok(())
    }

    /// Names this opening of the spool, whose frames are counted.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Numbers and keeps a packed frame. Returns its number, and why it is in memory only if the disk refused it.
    pub fn append(&mut self, mut frame: Vec<u8>) -> (u64, Option<io::Error>) {
        let number = self.next;
        self.next += 1;
        wire::seal(&mut frame, number);
        self.memory.push_back((number, frame));
        let refused = self.flush().err();
        while self.memory.len() > IN_MEMORY {
            self.memory.pop_front();
            self.dropped.frames += 1;
        }
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.bytes).sum::<u64>() > self.max_bytes
        {
            let (oldest, then) = (self.segments[0].first, self.segments[1].first);
            self.dropped.frames += then.saturating_sub(oldest.max(self.taken + 1));
            self.drop_first();
        }
        (number, refused)
    }

    /// Writes what is only in memory.
    fn flush(&mut self) -> io::Result<()> {
        while let Some((number, frame)) = self.memory.pop_front() {
            if let Err(error) = self.write(number, &frame) {
                self.memory.push_front((number, frame));
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&mut self, number: u64, frame: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes);
        if full || self.out.is_none() {
            let path = self.dir.join(format!("{number:020}.frames"));
            self.out = Some(OpenOptions::new().create(true).write(true).truncate(true).open(&path)?);
            self.segments.push_back(Segment { path, first: number, bytes: 0, from: 0 });
        }
        let (Some(out), Some(last)) = (&mut self.out, self.segments.back_mut()) else { return Ok(()) };
        if let Err(error) = out.write_all(frame) {
            // Half a frame in the middle would hide all that follows it.
            self.out = None;
            if let Ok(file) = OpenOptions::new().write(true).open(&last.path) {
                file.set_len(last.bytes)?;
            }
            if last.bytes == 0 {
                drop(fs::remove_file(&last.path));
                self.segments.pop_back();
            }
            return Err(error);
        }
        last.bytes += frame.len() as u64;
        Ok(())
    }

    /// The oldest frames that were not taken, as many as fit into `most` bytes and at least one; empty when there are none.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn peek(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        for segment in &self.segments {
            let file = match File::open(&segment.path) {
                Ok(file) => file,
                // What was read is good; the next question meets the error.
                Err(_) if !found.is_empty() => return Ok(found),
                Err(error) => return Err(error),
            };
            let mut at = segment.from;
            while at < segment.bytes {
                // One frame more than fits, if it is the first.
                let wanted = (segment.bytes - at).min((most as u64).max(1 << 16));
                let mut bytes = vec![0; wanted as usize];
                file.read_exact_at(&mut bytes, at)?;
                let mut read = 0;
                while let Ok((_, length)) = wire::whole(&bytes[read..]) {
                    if !found.is_empty() && found.len() + length > most {
                        return Ok(found);
                    }
                    found.extend_from_slice(&bytes[read..read + length]);
                    read += length;
                    if read == bytes.len() {
                        break;
                    }
                }
                if read == 0 {
                    return if found.is_empty() { self.one(&file, segment, at) } else { Ok(found) };
                }
                at += read as u64;
            }
        }
        for (_, frame) in &self.memory {
            if !found.is_empty() && found.len() + frame.len() > most {
                break;
            }
            found.extend_from_slice(frame);
        }
        Ok(found)
    }

    /// A frame that is longer than what is usually read at once.
    fn one(&self, file: &File, segment: &Segment, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (segment.bytes - at) as usize];
        file.read_exact_at(&mut bytes, at)?;
        let (_, length) = wire::whole(&bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Frames up to `number` are with the controller.
    ///
    /// # Errors
    /// They cannot be read again to find where the others begin.
    pub fn take(&mut self, number: u64) -> io::Result<()> {
        self.taken = self.taken.max(number.min(self.next - 1));
        while self.memory.front().is_some_and(|(number, _)| *number <= self.taken) {
            self.memory.pop_front();
        }
        if let Some(at) = self.segments.iter().rposition(|segment| segment.first <= self.taken) {
            let segment = &mut self.segments[at];
            let mut bytes = vec![0; (segment.bytes - segment.from) as usize];
            File::open(&segment.path)?.read_exact_at(&mut bytes, segment.from)?;
            let mut read = 0;
            while let Ok((number, length)) = wire::whole(&bytes[read..]) {
                if number > self.taken {
                    break;
                }
                read += length;
            }
            segment.from += read as u64;
        }
        self.forget_taken();
        // Losing it means sending some of it twice, which does no harm.
        let (path, new) = (self.dir.join("taken"), self.dir.join("taken.new"));
        drop(fs::write(&new, self.taken.to_le_bytes()).and_then(|()| fs::rename(&new, &path)));
        Ok(())
    }

    /// Gives up the oldest file, which [`Spool::peek`] could not read.
    pub fn give_up_oldest(&mut self) {
        let Some(oldest) = self.segments.front() else { return };
        let then = self.segments.get(1).map_or(self.next - self.memory.len() as u64, |then| then.first);
        self.dropped.frames += then.saturating_sub(oldest.first.max(self.taken + 1));
        if self.segments.len() == 1 {
            self.out = None;
        }
        self.drop_first();
    }

    /// Removes the files whose frames were all taken, but for the one that is written.
    fn forget_taken(&mut self) {
        while self.segments.len() > 1 && self.segments[1].first <= self.taken + 1 {
            self.drop_first();
        }
        if self.out.is_none() && self.segments.len() == 1 && self.segments[0].from == self.segments[0].bytes {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.segments.pop_front()
            && let Err(error) = fs::remove_file(&first.path)
        {
            tracing::warn!(file = %first.path.display(), %error, "cannot remove a file of the buffer");
        }
    }

    /// Gives up the oldest frame, which the controller refuses.
    ///
    /// # Errors
    /// As [`Spool::take`].
    pub fn give_up_frame(&mut self, number: u64) -> io::Result<()> {
        self.dropped.frames += 1;
        self.take(number)
    }

    /// How many frames wait.
    pub fn waiting(&self) -> u64 {
        let oldest =
            self.segments.front().map(|segment| segment.first).or(self.memory.front().map(|(number, _)| *number));
        oldest.map_or(0, |oldest| self.next - oldest.max(self.taken + 1))
    }

    /// What had to be given up since the spool was opened.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_model::{Bytes, Cores, Host, TimeMs};

    use super::*;
    use crate::agent::wire::{FrameHeader, pack, unpack};

    fn frame(time: i64, samples: usize) -> Vec<u8> {
        let host = Host { name: "h".to_owned(), cpu: Cores(1.0), memory: Bytes(1), last_seen: TimeMs(time) };
        let header = FrameHeader {
            time: TimeMs(time),
            host,
            appeared: Vec::new(),
            vanished: Vec::new(),
            present: None,
            drifts: Vec::new(),
            knobs: Vec::new(),
            problems: Vec::new(),
            reports: Vec::new(),
        };
        // Bytes that cannot be compressed, so that frames are about as long as they are asked to be.
        let noise = (0..samples as u32).map(|at| (at.wrapping_mul(2_654_435_761).rotate_left(at % 31) >> 9) as u8);
        pack(&header, &noise.collect::<Vec<u8>>()).unwrap()
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        unpack(bytes).unwrap().iter().map(|frame| frame.number).collect()
    }

    #[test]
    fn frames_wait_in_order_until_they_are_taken_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
        (1..=5).for_each(|time| drop(spool.append(frame(time, 10))));
        assert_eq!(numbers(&spool.peek(1 << 20).unwrap()), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(&spool.peek(1).unwrap()), [1], "at least one");
        spool.take(2).unwrap();
        let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
        assert_eq!((numbers(&spool.peek(1 << 20).unwrap()), spool.waiting()), (vec![3, 4, 5], 3));
        assert_eq!(spool.append(frame(6, 10)).0, 6);
        spool.take(6).unwrap();
        assert_eq!((spool.peek(1 << 20).unwrap().len(), spool.waiting()), (0, 0));
        assert_eq!(Spool::open(dir.path(), 1 << 20).unwrap().append(frame(7, 10)).0, 7, "numbers go on");
    }

    #[test]
    fn a_torn_end_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
        (1..=3).for_each(|time| drop(spool.append(frame(time, 100))));
        drop(spool);
        let path = dir.path().join(format!("{:020}.frames", 1));
        let whole = fs::read(&path).unwrap();
        let first = wire::whole(&whole).unwrap().1;
        for (cut, whole_ones) in [(1, 0), (first - 1, 0), (first, 1), (first + 1, 1), (whole.len() - 1, 2)] {
            fs::write(&path, &whole[..cut]).unwrap();
            let spool = Spool::open(dir.path(), 1 << 20).unwrap();
            let kept: Vec<u64> = (1..=whole_ones).collect();
            assert_eq!(numbers(&spool.peek(1 << 20).unwrap()), kept, "cut at {cut}");
        }
    }

    #[test]
    fn past_its_bound_the_oldest_go_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::with_segments(dir.path(), 10_000, 2_000).unwrap();
        (1..=100).for_each(|time| drop(spool.append(frame(time, 500))));
        let kept = numbers(&spool.peek(1 << 20).unwrap());
        assert_eq!(kept.last(), Some(&100));
        assert_eq!(spool.dropped().frames, kept[0] - 1);
        assert_eq!(spool.waiting(), kept.len() as u64);
        let on_disk: u64 =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!((6_000..13_000).contains(&on_disk), "{on_disk} bytes");
    }

    #[test]
    fn while_the_disk_refuses_the_last_minute_is_kept_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let spool_dir = dir.path().join("spool");
        let mut spool = Spool::open(&spool_dir, 1 << 20).unwrap();
        // A file in the place of the directory makes every new segment fail, also for root.
        fs::remove_dir_all(&spool_dir).unwrap();
        fs::write(&spool_dir, "").unwrap();
        for time in 1..=70 {
            assert!(spool.append(frame(time, 10)).1.is_some());
        }
        assert_eq!((spool.dropped().frames, numbers(&spool.peek(1 << 20).unwrap())), (10, (11..=70).collect()));
        fs::remove_file(&spool_dir).unwrap();
        fs::create_dir(&spool_dir).unwrap();
        assert!(spool.append(frame(71, 10)).1.is_none(), "all of it is on disk now");
        drop(spool);
        let spool = Spool::open(&spool_dir, 1 << 20).unwrap();
        assert_eq!(numbers(&spool.peek(1 << 20).unwrap()), (11..=71).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_read_is_given_up_and_does_not_stop_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::with_segments(dir.path(), 1 << 20, 1_000).unwrap();
        (1..=6).for_each(|time| drop(spool.append(frame(time, 600))));
        let first = dir.path().join(format!("{:020}.frames", 1));
        let mut bytes = fs::read(&first).unwrap();
        bytes[40] ^= 1;
        fs::write(&first, bytes).unwrap();
        assert!(spool.peek(1 << 20).is_err());
        spool.give_up_oldest();
        let kept = numbers(&spool.peek(1 << 20).unwrap());
        assert_eq!((kept[0], kept.last()), (1 + spool.dropped().frames, Some(&6)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever is appended, sent, acknowledged, crashed: what is read is a run of numbers that begins behind what was
        /// taken and ends with the last one.
        #[test]
        fn nothing_is_lost_or_reordered(steps in prop::collection::vec((0_u8..4, 1_usize..3_000), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::with_segments(dir.path(), 1 << 30, 4_000).unwrap();
            let (mut last, mut taken) = (0, 0);
            for (what, size) in steps {
                match what {
                    0 | 1 => last = spool.append(frame(1, size)).0,
                    2 => {
                        let read = numbers(&spool.peek(size).unwrap());
                        let expected: Vec<u64> = (taken + 1..=last).take(read.len()).collect();
                        prop_assert_eq!(&read, &expected);
                        prop_assert_eq!(read.is_empty(), taken == last);
                        if let Some(end) = read.last() {
                            taken = *end;
                            spool.take(taken).unwrap();
                        }
                    }
                    _ => spool = Spool::with_segments(dir.path(), 1 << 30, 4_000).unwrap(),
                }
                prop_assert_eq!(spool.waiting(), last - taken);
            }
        }
    }
}
