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
mod overrides;
pub(crate) mod report;
mod rules;
mod schema;
mod series;
mod sql;
pub(crate) mod status;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

/// Routes that change nothing. (`/sql` asks for more when the text is a rule statement.) Where each is stands with its
/// function.
pub(crate) fn reading() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::config))
        .routes(routes!(schema::schema))
        .routes(routes!(sql::sql))
        .routes(routes!(agents::agents))
        .routes(routes!(hosts::hosts))
        .routes(routes!(containers::containers))
        .routes(routes!(containers::container))
        .routes(routes!(series::series))
        .routes(routes!(ingest::preview))
        .routes(routes!(groups::groups))
        .routes(routes!(groups::group))
        .routes(routes!(report::report))
        .routes(routes!(experiments::list))
        .routes(routes!(experiments::find))
        .routes(routes!(rules::rules))
        .routes(routes!(rules::packs))
        .routes(routes!(rules::validate))
        .routes(routes!(rules::preview))
        .routes(routes!(rules::rule))
        .routes(routes!(rules::changes))
        .routes(routes!(backtests::list))
        .routes(routes!(backtests::find))
        .routes(routes!(backtests::course))
        .routes(routes!(decisions::decisions))
        .routes(routes!(decisions::decision))
        .routes(routes!(decisions::explain))
}

/// Routes that change rules or bounds, give everything away, or make the server work.
pub(crate) fn operating() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(backup::backup))
        .routes(routes!(backtests::start))
        .routes(routes!(backtests::stop))
        .routes(routes!(freeze::freeze, freeze::thaw))
        .routes(routes!(containers::adopt))
        .routes(routes!(overrides::set, overrides::clear))
        .routes(routes!(groups::set_bounds, groups::clear))
        .routes(routes!(compact::compact))
        .routes(routes!(experiments::create))
        .routes(routes!(experiments::change, experiments::remove))
        .routes(routes!(experiments::create_test))
        .routes(routes!(experiments::change_test, experiments::remove_test))
        .routes(routes!(rules::apply))
        .routes(routes!(rules::remove))
        .routes(routes!(rules::set_mode))
}

/// Routes of agents: what a host is to do, and what it found.
pub(crate) fn agents() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(agents::orders))
        .routes(routes!(agents::reports))
        .routes(routes!(agents::frames))
}
