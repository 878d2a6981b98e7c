//! The routes below `/api/v1`, one file a subject.

mod agents;
mod backtests;
mod backup;
mod compact;
mod containers;
pub(crate) mod decisions;
mod experiments;
mod freeze;
mod groups;
mod hosts;
mod ingest;
mod report;
mod rules;
mod schema;
mod series;
mod sql;
pub(crate) mod status;

use axum::Router;
use axum::routing::{delete, get, patch, post};

use crate::App;

/// Routes that change nothing. (`/sql` asks for more when the text is a rule statement.)
pub(crate) fn reading() -> Router<App> {
    Router::new()
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/config", get(status::config))
        .route("/api/v1/schema", get(schema::schema))
        .route("/api/v1/sql", post(sql::sql))
        .route("/api/v1/agents", get(agents::agents))
        .route("/api/v1/hosts", get(hosts::hosts))
        .route("/api/v1/containers", get(containers::containers))
        .route("/api/v1/containers/{host}/{name}", get(containers::container))
        .route("/api/v1/containers/{host}/{name}/series", get(series::series))
        .route("/api/v1/ingest/preview", post(ingest::preview))
        .route("/api/v1/groups", get(groups::groups))
        .route("/api/v1/groups/{kind}/{name}", get(groups::group))
        .route("/api/v1/report", get(report::report))
        .route("/api/v1/experiments", get(experiments::list))
        .route("/api/v1/experiments/{name}", get(experiments::find))
        .route("/api/v1/rules", get(rules::rules))
        .route("/api/v1/packs", get(rules::packs))
        .route("/api/v1/rules/validate", post(rules::validate))
        .route("/api/v1/rules/preview", post(rules::preview))
        .route("/api/v1/rules/{name}", get(rules::rule))
        .route("/api/v1/backtests", get(backtests::list))
        .route("/api/v1/backtests/{id}", get(backtests::find))
        .route("/api/v1/rules/{name}/changes", get(rules::changes))
        .route("/api/v1/decisions", get(decisions::decisions))
        .route("/api/v1/decisions/{id}", get(decisions::decision))
        .route("/api/v1/decisions/{id}/explain", get(decisions::explain))
}

/// Routes that change rules or bounds, give everything away, or make the server work.
pub(crate) fn operating() -> Router<App> {
    Router::new()
        .route("/api/v1/backup", post(backup::backup))
        .route("/api/v1/backtests", post(backtests::start))
        .route("/api/v1/backtests/{id}", delete(backtests::stop))
        .route("/api/v1/freeze", post(freeze::freeze).delete(freeze::thaw))
        .route("/api/v1/containers/{host}/{name}/adopt", post(containers::adopt))
        .route("/api/v1/groups/{kind}/{name}", post(groups::set_bounds).delete(groups::clear))
        .route("/api/v1/compact", post(compact::compact))
        .route("/api/v1/experiments", post(experiments::create))
        .route("/api/v1/experiments/{name}", patch(experiments::change).delete(experiments::remove))
        .route("/api/v1/experiments/{name}/tests", post(experiments::create_test))
        .route(
            "/api/v1/experiments/{name}/tests/{test}",
            patch(experiments::change_test).delete(experiments::remove_test),
        )
        .route("/api/v1/rules", post(rules::apply))
        .route("/api/v1/rules/{name}", delete(rules::remove))
        .route("/api/v1/rules/{name}/mode", post(rules::set_mode))
}

/// Routes of agents: what a host is to do, and what it found.
pub(crate) fn agents() -> Router<App> {
    Router::new()
        .route("/api/v1/agents/{host}/orders", get(agents::orders))
        .route("/api/v1/agents/{host}/reports", post(agents::reports))
        .route("/api/v1/agents/{host}/frames", post(agents::frames))
}
