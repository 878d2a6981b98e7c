//! The routes put together, and the server around them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{self, Right};
use crate::error::ApiError;
use crate::{App, WebState, api, assets, metrics, openapi, origin, ready, stream};

/// How long requests that run at shutdown may take to finish.
const GRACE: Duration = Duration::from_secs(10);

/// All routes: API, push routes, probes and the dashboard, behind authorization, limits and tracing. Must be called on a
/// Tokio runtime, since a task counts decisions until `state.shutdown`.
pub fn router(state: WebState) -> Router {
    let config = state.config.clone();
    let app = App::new(state);
    let allowed = |right| from_fn_with_state((app.auth.clone(), right), auth::require);
    let compress = DefaultPredicate::new()
        .and(NotForContentType::const_new("application/vnd.apache.parquet"))
        .and(NotForContentType::const_new("application/vnd.apache.arrow"));

    let mut own = Router::new();
    for (right, routes) in own_routes() {
        let (routes, _) = routes.split_for_parts();
        own = own.merge(match right {
            Some(right) => routes.route_layer(allowed(right)),
            None => routes,
        });
    }
    own.layer(map_response(never_stored))
        .fallback(assets::dashboard)
        .with_state(app.clone())
        .merge(tidegate_ingest::routes(app.ingest.clone()).route_layer(allowed(Right::Push)))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CompressionLayer::new().compress_when(compress))
        .layer(from_fn_with_state(app, origin::same_site))
        .layer(DefaultBodyLimit::max(config.max_body_bytes))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, assets::CONTENT_SECURITY_POLICY))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(fixed(header::REFERRER_POLICY, HeaderValue::from_static("same-origin")))
        .layer(TraceLayer::new_for_http())
}

/// This crate's own routes, by the right that they need.
pub(crate) fn own_routes() -> [(Option<Right>, OpenApiRouter<App>); 4] {
    let reading = api::reading().routes(routes!(stream::stream)).routes(routes!(metrics::metrics));
    let open = OpenApiRouter::new()
        .routes(routes!(ready::health))
        .routes(routes!(ready::ready))
        .routes(routes!(auth::login))
        .routes(routes!(auth::logout))
        .routes(routes!(openapi::openapi));
    [
        (Some(Right::Read), reading),
        (Some(Right::Operate), api::operating()),
        (Some(Right::Agent), api::agents()),
        (None, open),
    ]
}

fn fixed(name: header::HeaderName, value: HeaderValue) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, value)
}

/// Answers of the API are of the moment and may be secret.
async fn never_stored(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not answer {method}", uri.path());
    ApiError::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Serves until `shutdown` is cancelled, then lets running requests finish for up to ten seconds.
///
/// # Errors
/// What accepting connections can fail with for good.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Events of the live stream are small and should leave at once.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = server => served,
        () = overdue(&shutdown) => {
            tracing::warn!("connections were still open at the end of the grace period and are closed now");
            Ok(())
        }
    }
}

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}
