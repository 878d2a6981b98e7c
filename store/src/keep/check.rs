//! Checking a directory: is every byte still what was written?
//!
//! Reads everything and changes nothing, neither in a store nor in a backup. What a crash may leave behind - the end of a
//! write that was cut off, files that the next start removes - is named and is no damage.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use serde::Serialize;

use super::files::{checksum, names, store_dir};
use super::manifest::{FileSum, MANIFEST, Manifest, RESTORING};
use crate::catalog::{CATALOG, Catalog, RollupMeta, SegmentMeta};
use crate::dir::{FACTS, SEGMENTS, SERIES, WAL, holder};
use crate::error::StoreError;
use crate::facts::FactBook;
use crate::write::record::{self, Damage};

/// What was found about one file, or one place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingStatus {
    /// As it was written.
    Ok,
    /// The end of a write that a crash cut off. Nothing that was acknowledged, unless the disk lost it.
    Torn,
    /// Not needed by anything; the next start removes it.
    Leftover,
    /// Stored remotely and not here; not looked at.
    Remote,
    /// Other bytes than were written.
    Damaged,
    /// Not there.
    Missing,
}

/// One line of a check's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is the matter.
    pub status: FindingStatus,
    /// Relative to the directory.
    pub file: String,
    /// Where in the file it begins.
    pub offset: Option<u64>,
    /// Size of the file, or of the damaged place.
    pub bytes: u64,
    /// What was found.
    pub found: String,
    /// What that costs.
    pub lost: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The directory that was checked: a store's or a backup's.
    pub dir: PathBuf,
    /// Whether it is a backup.
    pub backup: bool,
    /// Who uses it right now, such as ` (pid 123)`: what is being written may look torn.
    pub in_use: Option<String>,
    /// In the order in which the files were read.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing is damaged or missing.
    pub fn is_intact(&self) -> bool {
        !self.findings.iter().any(|finding| matches!(finding.status, FindingStatus::Damaged | FindingStatus::Missing))
    }
}

/// Reads every file of a store or a backup. `dir` is the store's own directory, a server's data directory or a backup.
/// `progress` hears of each file before it is read: its name, bytes done, bytes in all.
///
/// # Errors
/// The directory is none of these, or cannot be listed. Damage is no error.
pub fn check(dir: &Path, mut progress: impl FnMut(&str, u64, u64)) -> Result<CheckReport, StoreError> {
    let dir = store_dir(dir);
    if dir.join(RESTORING).exists() {
        return Err(StoreError::HalfRestored { dir });
    }
    if ![CATALOG, SERIES, MANIFEST].iter().any(|name| dir.join(name).exists()) {
        return Err(StoreError::NotAStore { dir });
    }
    let backup = dir.join(MANIFEST).exists();
    let in_use = if backup { None } else { holder(&dir)? };
    let mut checking = Checking { total: total_bytes(&dir)?, dir, in_use, done: 0, findings: Vec::new() };
    if backup {
        checking.manifest(&mut progress)?;
    }
    let catalog = checking.catalog(&mut progress);
    checking.facts(&mut progress);
    checking.series_log(&mut progress);
    checking.wal(catalog.as_ref(), &mut progress)?;
    checking.segments(catalog.as_ref(), &mut progress)?;
    let Checking { dir, in_use, findings, .. } = checking;
    Ok(CheckReport { dir, backup, in_use, findings })
}

fn total_bytes(dir: &Path) -> Result<u64, StoreError> {
    let mut total = 0;
    for part in ["", WAL, SEGMENTS] {
        let part = dir.join(part);
        // What vanishes between the listing and the look is not counted.
        total += names(&part)?
            .iter()
            .filter_map(|name| fs::metadata(part.join(name)).ok().filter(|found| found.is_file()))
            .map(|found| found.len())
            .sum::<u64>();
    }
    Ok(total)
}

type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

struct Checking {
    dir: PathBuf,
    in_use: Option<String>,
    total: u64,
    done: u64,
    findings: Vec<Finding>,
}

impl Checking {
    fn begin(&mut self, name: &str, progress: Progress<'_>) -> u64 {
        let bytes = fs::metadata(self.dir.join(name)).map_or(0, |found| found.len());
        progress(name, self.done.min(self.total), self.total);
        self.done += bytes;
        bytes
    }

    fn note(
        &mut self,
        status: FindingStatus,
        file: &str,
        bytes: u64,
        found: impl Into<String>,
        lost: impl Into<String>,
    ) {
        let (found, lost) = (found.into(), lost.into());
        self.findings.push(Finding { status, file: file.to_owned(), offset: None, bytes, found, lost });
    }

    fn damaged_at(&mut self, file: &str, offset: u64, bytes: u64, found: impl Into<String>, lost: impl Into<String>) {
        self.note(FindingStatus::Damaged, file, bytes, found, lost);
        if let Some(finding) = self.findings.last_mut() {
            finding.offset = Some(offset);
        }
    }

    /// A backup's list, and each file against it.
    fn manifest(&mut self, progress: Progress<'_>) -> Result<(), StoreError> {
        let bytes = self.begin(MANIFEST, progress);
        let manifest = match Manifest::load(&self.dir) {
            Ok(manifest) => manifest,
            Err(error @ StoreError::NewerFormat { .. }) => return Err(error),
            Err(error) => {
                self.damaged_at(MANIFEST, 0, bytes, cause(&error), "the list of files; it cannot be restored from");
                return Ok(());
            }
        };
        self.note(FindingStatus::Ok, MANIFEST, bytes, format!("a list of {} files", manifest.files.len()), "");
        // Read here and once more below, where the place is found.
        self.total += manifest.files.iter().map(|file| file.bytes).sum::<u64>();
        for file in &manifest.files {
            self.begin(&file.path, progress);
            self.against_list(file);
        }
        Ok(())
    }

    fn against_list(&mut self, file: &FileSum) {
        let lost = "the backup cannot be restored";
        match checksum(&self.dir.join(&file.path)) {
            Ok((crc32, bytes)) if (crc32, bytes) == (file.crc32, file.bytes) => {}
            Ok((_, bytes)) if bytes != file.bytes => {
                let found = format!("{bytes} bytes instead of {}", file.bytes);
                self.damaged_at(&file.path, bytes.min(file.bytes), bytes.abs_diff(file.bytes), found, lost);
            }
            Ok((crc32, bytes)) => {
                let found = format!("checksum {crc32:08x} instead of {:08x}", file.crc32);
                self.damaged_at(&file.path, 0, bytes, found, lost);
            }
            Err(error) => self.note(FindingStatus::Missing, &file.path, file.bytes, cause(&error), lost),
        }
    }

    fn catalog(&mut self, progress: Progress<'_>) -> Option<Catalog> {
        let bytes = self.begin(CATALOG, progress);
        let lost = "which segments there are: the store does not open";
        if !self.dir.join(CATALOG).exists() {
            self.note(FindingStatus::Missing, CATALOG, 0, "no such file", lost);
            return None;
        }
        match Catalog::load(&self.dir) {
            Ok(catalog) => {
                self.note(FindingStatus::Ok, CATALOG, bytes, format!("{} segments", catalog.segments.len()), "");
                Some(catalog)
            }
            Err(error) => {
                self.damaged_at(CATALOG, 0, bytes, cause(&error), lost);
                None
            }
        }
    }

    fn facts(&mut self, progress: Progress<'_>) {
        if !self.dir.join(FACTS).exists() {
            return; // a store without rules and containers has none
        }
        let bytes = self.begin(FACTS, progress);
        match FactBook::load(&self.dir) {
            Ok(_) => self.note(FindingStatus::Ok, FACTS, bytes, "", ""),
            Err(error) => {
                self.damaged_at(FACTS, 0, bytes, cause(&error), "rules, containers and hosts: the store does not open");
            }
        }
    }

    fn series_log(&mut self, progress: Progress<'_>) {
        let bytes = self.begin(SERIES, progress);
        if !self.dir.join(SERIES).exists() {
            return self.note(FindingStatus::Missing, SERIES, 0, "no such file", "names of series that no segment has");
        }
        let lost = "names of series, as far as neither the write-ahead log nor a segment has them";
        self.records(SERIES, bytes, lost, self.in_use.is_some());
    }

    fn wal(&mut self, catalog: Option<&Catalog>, progress: Progress<'_>) -> Result<(), StoreError> {
        let floor = catalog.map_or(0, |catalog| catalog.wal_floor);
        let files = names(&self.dir.join(WAL))?;
        let number = |name: &str| name.strip_suffix(".wal").and_then(|number| number.parse::<u64>().ok());
        let last = files.iter().filter_map(|name| number(name)).max();
        for name in &files {
            let Some(number) = number(name) else { continue };
            let file = format!("{WAL}/{name}");
            let bytes = self.begin(&file, progress);
            if number < floor {
                self.note(FindingStatus::Leftover, &file, bytes, "everything in it is in segments", "");
                continue;
            }
            let being_written = self.in_use.is_some() && Some(number) == last;
            self.records(&file, bytes, "the samples, decisions or events of this record", being_written);
        }
        Ok(())
    }

    /// The records of a log. `being_written` logs may end anywhere.
    fn records(&mut self, file: &str, size: u64, lost: &str, being_written: bool) {
        let bytes = match fs::read(self.dir.join(file)) {
            Ok(bytes) => bytes,
            // Flushed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.in_use.is_some() => return,
            Err(error) => return self.note(FindingStatus::Damaged, file, size, error.to_string(), "all of it"),
        };
        let mut records = 0u64;
        let damages = record::read_all(&bytes, |_| records += 1);
        let mut intact = true;
        for damage in damages {
            if damage.tail && being_written {
                continue;
            }
            let (offset, length) = (damage.offset as u64, damage.bytes as u64);
            if is_cut_off(&bytes, &damage) {
                self.note(FindingStatus::Torn, file, length, "the end of a write that a crash cut off", "");
                self.findings.iter_mut().last().into_iter().for_each(|finding| finding.offset = Some(offset));
            } else {
                intact = false;
                self.damaged_at(file, offset, length, "a record with a wrong checksum", lost);
            }
        }
        if intact {
            self.note(FindingStatus::Ok, file, size, format!("{records} records"), "");
        }
    }

    fn segments(&mut self, catalog: Option<&Catalog>, progress: Progress<'_>) -> Result<(), StoreError> {
        let named: Vec<SegmentMeta> = catalog.map(|catalog| catalog.segments.clone()).unwrap_or_default();
        for meta in &named {
            self.segment(&meta.file, Some(meta), progress);
            for rollup in &meta.rollups {
                self.rollup(rollup, meta, progress);
            }
        }
        for name in names(&self.dir.join(SEGMENTS))? {
            if named.iter().any(|meta| meta.files().any(|file| file == name)) || !name.ends_with(".parquet") {
                continue;
            }
            if catalog.is_none() {
                self.segment(&name, None, progress);
            } else if self.in_use.is_none() {
                let file = format!("{SEGMENTS}/{name}");
                let bytes = self.begin(&file, progress);
                self.note(FindingStatus::Leftover, &file, bytes, "the catalog does not name it", "");
            }
        }
        Ok(())
    }

    fn segment(&mut self, name: &str, meta: Option<&SegmentMeta>, progress: Progress<'_>) {
        let file = format!("{SEGMENTS}/{name}");
        let path = self.dir.join(&file);
        let bytes = self.begin(&file, progress);
        let what = meta.map_or_else(|| "its rows".to_owned(), describe);
        let (crc32, size) = match checksum(&path) {
            Ok(read) => read,
            Err(_) if !path.exists() && self.is_gone_rightly(name) => return,
            Err(_) if !path.exists() && meta.is_some_and(|meta| meta.remote) => {
                let bytes = meta.map_or(0, |meta| meta.bytes);
                return self.note(FindingStatus::Remote, &file, bytes, "only in the object store", "");
            }
            Err(error) => {
                let status = if path.exists() { FindingStatus::Damaged } else { FindingStatus::Missing };
                return self.note(status, &file, bytes, cause(&error), what);
            }
        };
        let wanted = meta.and_then(|meta| meta.crc32);
        let wrong_sum = wanted.filter(|wanted| *wanted != crc32);
        let unreadable = unreadable_parts(&path);
        if let (None, Ok(rows)) = (wrong_sum, &unreadable)
            && meta.is_none_or(|meta| meta.rows == *rows)
        {
            let sum = if wanted.is_some() { "" } else { ", no checksum was recorded" };
            return self.note(FindingStatus::Ok, &file, bytes, format!("{rows} rows{sum}"), "");
        }
        match unreadable {
            Err(parts) => {
                for part in parts {
                    let lost =
                        part.rows.map_or_else(|| what.clone(), |(from, to)| format!("rows {from} to {to} of {what}"));
                    self.damaged_at(&file, part.offset, part.bytes, part.found, lost);
                }
            }
            Ok(rows) => {
                let found = match (wrong_sum, meta) {
                    (Some(wanted), _) => format!("checksum {crc32:08x} instead of {wanted:08x}, though it can be read"),
                    (None, Some(meta)) => format!("{rows} rows instead of {}", meta.rows),
                    (None, None) => String::new(),
                };
                self.damaged_at(&file, 0, size, found, what);
            }
        }
    }

    /// Roll-ups are made of samples, so nothing but time is lost with them.
    fn rollup(&mut self, rollup: &RollupMeta, of: &SegmentMeta, progress: Progress<'_>) {
        let file = format!("{SEGMENTS}/{}", rollup.file);
        let path = self.dir.join(&file);
        let bytes = self.begin(&file, progress);
        let lost = || format!("roll-ups of {}; its samples are in {}", describe(of), of.file);
        match (checksum(&path), rollup.crc32) {
            (Ok((found, _)), Some(wanted)) if found != wanted => {
                self.damaged_at(&file, 0, bytes, format!("checksum {found:08x} instead of {wanted:08x}"), lost());
            }
            (Ok(_), _) => self.note(FindingStatus::Ok, &file, bytes, "roll-ups", ""),
            (Err(_), _) if !path.exists() && self.is_gone_rightly(&rollup.file) => {}
            (Err(_), _) if !path.exists() && of.remote => {
                self.note(FindingStatus::Remote, &file, rollup.bytes, "only in the object store", "");
            }
            (Err(error), _) => {
                let status = if path.exists() { FindingStatus::Damaged } else { FindingStatus::Missing };
                self.note(status, &file, bytes, cause(&error), lost());
            }
        }
    }

    /// Whether a running server has removed it since the catalog was read.
    fn is_gone_rightly(&self, name: &str) -> bool {
        let named_now = || {
            Catalog::load(&self.dir)
                .is_ok_and(|now| now.segments.iter().any(|meta| meta.files().any(|file| file == name)))
        };
        self.in_use.is_some() && !named_now()
    }
}

fn describe(meta: &SegmentMeta) -> String {
    let date = |time: tidegate_model::TimeMs| {
        chrono::DateTime::from_timestamp_millis(time.0)
            .map_or_else(|| time.0.to_string(), |at| at.format("%FT%TZ").to_string())
    };
    let kind =
        serde_json::to_value(meta.kind).ok().and_then(|kind| Some(kind.as_str()?.to_owned())).unwrap_or_default();
    format!("{} {kind} from {} to {}", meta.rows, date(meta.min_time), date(meta.max_time))
}

/// Without the file's name, which stands beside it.
fn cause(error: &StoreError) -> String {
    match error {
        StoreError::Io { source, .. } => source.to_string(),
        StoreError::Damaged { message, .. } | StoreError::BackupDamaged { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// Whether the damage is a record that was not written to its end; one that is whole and wrong was changed later.
fn is_cut_off(bytes: &[u8], damage: &Damage) -> bool {
    let length = bytes.get(damage.offset + 4..damage.offset + 8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    damage.tail && length.is_none_or(|length| length as usize + record::HEADER > damage.bytes)
}

/// A part of a segment that cannot be read.
struct Unreadable {
    offset: u64,
    bytes: u64,
    /// The first and the last row, when only some are lost.
    rows: Option<(u64, u64)>,
    found: String,
}

/// Decodes every page: the number of rows, or what cannot be decoded.
fn unreadable_parts(path: &Path) -> Result<u64, Vec<Unreadable>> {
    let whole = |found: String| {
        let bytes = fs::metadata(path).map_or(0, |found| found.len());
        vec![Unreadable { offset: bytes.saturating_sub(8), bytes, rows: None, found }]
    };
    let footer = guarded(|| {
        let file = File::open(path).map_err(|error| error.to_string())?;
        ArrowReaderMetadata::load(&file, Default::default()).map_err(|error| format!("its footer: {error}"))
    });
    let footer = footer.map_err(whole)?;
    let (mut first, mut unreadable) = (0u64, Vec::new());
    for (number, group) in footer.metadata().row_groups().iter().enumerate() {
        let rows = group.num_rows().max(0) as u64;
        for column in 0..group.num_columns() {
            if let Err(found) = guarded(|| decode(path, &footer, number, column, rows)) {
                let (offset, bytes) = guarded(|| Ok(group.column(column).byte_range())).unwrap_or_default();
                let name = group.column(column).column_path().string();
                let rows = Some((first, (first + rows).saturating_sub(1)));
                unreadable.push(Unreadable { offset, bytes, rows, found: format!("column '{name}': {found}") });
            }
        }
        first += rows;
    }
    if unreadable.is_empty() { Ok(first) } else { Err(unreadable) }
}

fn decode(path: &Path, footer: &ArrowReaderMetadata, group: usize, column: usize, rows: u64) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone());
    let columns = ProjectionMask::leaves(builder.parquet_schema(), [column]);
    let reader = builder.with_row_groups(vec![group]).with_projection(columns).build();
    let mut decoded = 0;
    for batch in reader.map_err(|error| error.to_string())? {
        decoded += batch.map_err(|error| error.to_string())?.num_rows() as u64;
    }
    if decoded == rows { Ok(()) } else { Err(format!("{decoded} values instead of {rows}")) }
}

/// Damaged bytes can lead a decoder into a panic, which then is only another way of saying that they are damaged.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("it cannot be decoded".to_owned()))
}
