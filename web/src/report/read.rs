//! Reading what a report is about, a piece of the range at a time, so that a week of a fleet needs no more memory than an
//! hour.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use tidegate_model::{ContainerKey, TimeMs};
use tidegate_store::{OnLimit, QueryError, QueryErrorKind};

use super::ledger::{Ledger, Measured};
use crate::App;
use crate::error::ApiError;
use crate::queries;
use crate::rows::{Rows, integer, number, text};

/// About how many rows a piece has; it has at most twice as many.
const ROWS: usize = 150_000;
/// The first piece is no longer, however few rows it would have.
const FIRST_PIECE_MS: i64 = 6 * 3_600 * 1_000;
const SHORTEST_PIECE_MS: i64 = 1_000;
/// What a series that is measured each minute reaches into the range from before it.
const BEFORE_MS: i64 = 2 * 60 * 1_000;
/// Reading may take so long in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read: a table's rows with the limit in force, of some containers and resources.
pub(crate) struct Reading<'a> {
    pub(crate) table: queries::Reported,
    pub(crate) members: &'a [ContainerKey],
    pub(crate) from: TimeMs,
    pub(crate) to: TimeMs,
    pub(crate) now: TimeMs,
}

/// Reads into one ledger for each of `resources`, whose series are the members.
pub(crate) async fn read(
    app: &App,
    reading: &Reading<'_>,
    resources: &[&str],
    ledgers: &mut [Ledger],
) -> Result<(), ApiError> {
    let series: HashMap<(&str, &str), usize> =
        (reading.members.iter().enumerate()).map(|(at, key)| ((key.host.as_str(), key.name.as_str()), at)).collect();
    let started = std::time::Instant::now();
    let per_second = (reading.members.len() * resources.len()).max(1);
    let mut piece_ms = i64::try_from(ROWS / per_second).unwrap_or(1).max(1) * 1_000;
    piece_ms = piece_ms.min(FIRST_PIECE_MS);
    let mut at = reading.from.0 - BEFORE_MS;
    while at < reading.to.0 {
        if started.elapsed() > PATIENCE {
            let message = format!("reading takes longer than {} s", PATIENCE.as_secs());
            return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, message)
                .help("ask for a shorter range or for fewer containers"));
        }
        let until = at.saturating_add(piece_ms).min(reading.to.0);
        match piece(app, reading, TimeMs(at), TimeMs(until)).await {
            Ok(rows) => {
                let pieces = sorted(&rows, &series, resources)?;
                pieces.iter().zip(&mut *ledgers).for_each(|(piece, ledger)| ledger.take(piece));
                at = until;
                // Years in which nothing was measured take no longer than an hour in which something was.
                if rows.as_ref().map_or(0, Rows::len) < ROWS / 4 {
                    piece_ms = piece_ms.saturating_mul(2);
                }
            }
            // Measured more often than once a second.
            Err(QueryError { kind: QueryErrorKind::Rows | QueryErrorKind::Memory, .. })
                if piece_ms > SHORTEST_PIECE_MS =>
            {
                piece_ms = (piece_ms / 2).max(SHORTEST_PIECE_MS);
            }
            Err(error) => return Err(error.into()),
        }
    }
    ledgers.iter_mut().for_each(Ledger::finish);
    Ok(())
}

async fn piece(app: &App, reading: &Reading<'_>, from: TimeMs, to: TimeMs) -> Result<Option<Rows>, QueryError> {
    let mut options = app.store.default_query_options(reading.now);
    options.max_rows = 2 * ROWS;
    options.on_limit = OnLimit::Fail;
    let sql = queries::reported(reading.table, reading.members, from, to);
    let result = app.store.query(&sql, &options).await?;
    Ok(if result.num_rows() == 0 { None } else { Rows::new(&result).ok() })
}

/// The rows by resource, each in the order of time.
fn sorted(
    rows: &Option<Rows>,
    series: &HashMap<(&str, &str), usize>,
    resources: &[&str],
) -> Result<Vec<Vec<Measured>>, ApiError> {
    let mut pieces = vec![Vec::new(); resources.len()];
    let Some(rows) = rows else { return Ok(pieces) };
    let (times, values, limits) = (rows.times("time")?, rows.numbers("value")?, rows.numbers("allocated")?);
    let (hosts, containers, kinds) = (rows.texts("host")?, rows.texts("container")?, rows.texts("resource")?);
    for row in 0..rows.len() {
        let (Some(host), Some(container), Some(kind)) = (text(&hosts, row), text(&containers, row), text(&kinds, row))
        else {
            continue;
        };
        let (Some(time), Some(value)) = (integer(&times, row), number(&values, row)) else { continue };
        let wanted = resources.iter().position(|resource| *resource == kind);
        if let (Some(piece), Some(series)) = (wanted, series.get(&(host, container))) {
            pieces[piece].push(Measured { series: *series, time, value, limit: number(&limits, row) });
        }
    }
    Ok(pieces)
}

/// Changes that were applied: by member and resource how many, and how many of them raised the limit.
pub(crate) async fn counts(
    app: &App,
    reading: &Reading<'_>,
) -> Result<HashMap<(ContainerKey, String), (i64, i64)>, ApiError> {
    let rows = app.ask(&queries::changes(reading.members, reading.from, reading.to), reading.now).await?;
    let (hosts, containers, resources) = (rows.texts("host")?, rows.texts("container")?, rows.texts("resource")?);
    let (changes, raised) = (rows.integers("changes")?, rows.integers("raised")?);
    let count = |row| {
        let key = ContainerKey { host: text(&hosts, row)?.to_owned(), name: text(&containers, row)?.to_owned() };
        let counts = (integer(&changes, row).unwrap_or(0), integer(&raised, row).unwrap_or(0));
        Some(((key, text(&resources, row)?.to_owned()), counts))
    };
    Ok((0..rows.len()).filter_map(count).collect())
}

/// By member, by how much its counter of OOM kills grew. `None` when nobody has one.
pub(crate) async fn kills(app: &App, reading: &Reading<'_>) -> Result<Option<HashMap<ContainerKey, f64>>, ApiError> {
    let sql = queries::kills(reading.members, reading.from, reading.to);
    let result = match app.store.query(&sql, &app.store.default_query_options(reading.now)).await {
        Ok(result) => result,
        // The text is fixed, so all that can be wrong with it is that there is no such table or tag yet.
        Err(QueryError { kind: QueryErrorKind::Plan, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let rows = Rows::new(&result)?;
    let (hosts, containers, grown) = (rows.texts("host")?, rows.texts("container")?, rows.numbers("kills")?);
    let of = |row| {
        let key = ContainerKey { host: text(&hosts, row)?.to_owned(), name: text(&containers, row)?.to_owned() };
        Some((key, number(&grown, row).unwrap_or(0.0)))
    };
    Ok(Some((0..rows.len()).filter_map(of).collect()))
}
