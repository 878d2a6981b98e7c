//! The API's description: an OpenAPI 3.1 document, at `/api/openapi.json` and in `docs/openapi.json`.
//!
//! An operation is described where it is answered, by `#[utoipa::path]`; which right it needs follows from the group of
//! routes that it is in, and an answer's fields from the type that is written. Described apart are only the push routes
//! and the types of other rooms, which know nothing of OpenAPI. The tests hold the document against the router and
//! against every answer they get.

mod push;
pub(crate) mod shapes;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, Ref, RefOr};

use crate::auth::{COOKIE, Right};
use crate::error::ErrorAnswer;
use crate::serve;

/// The security schemes. Either will do.
const TOKEN: &str = "token";
const LOGIN: &str = "login";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidegate",
        description = "Keeps the CPU and memory limits of containers just above what they use.\n\n\
            Values are in base units: cores, bytes, seconds, shares of 1; times are in ms UTC unless a name says otherwise. \
            Without configured tokens no request needs one, and the server listens on loopback only. Where it has tokens, \
            each has some of the rights `push`, `read`, `operate` and `agent`, which are independent of each other; the one \
            that an operation needs is named with it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "Server", description = "How the server is doing, and its upkeep"),
        (name = "SQL", description = "Any question, in one statement"),
        (name = "Containers", description = "Containers, apps, users and hosts, with what they use and what they may have"),
        (name = "Rules", description = "Rules: reading, checking and changing them"),
        (name = "Backtests", description = "What rules would have done to this server's own history"),
        (name = "Reports", description = "What was used, allocated and reserved, and stretches of time with a name"),
        (name = "Decisions", description = "What was decided, why, and what came of it"),
        (name = "Live stream", description = "What happens, as it happens"),
        (name = "Push", description = "Sending samples, in the protocols that existing senders speak. Errors are in each protocol's own shape"),
        (name = "Agents", description = "What an agent and its controller say to each other"),
        (name = "Session", description = "Logging a browser in"),
    ),
    components(schemas(ErrorAnswer)),
)]
struct Described;

/// The whole document.
pub(crate) fn described() -> utoipa::openapi::OpenApi {
    let mut document = Described::openapi();
    for (right, routes) in serve::own_routes() {
        let mut part = routes.into_openapi();
        part.paths.paths.values_mut().flat_map(operations).for_each(|operation| guard(operation, right));
        document.merge(part);
    }
    let mut pushed = push::Pushed::openapi();
    pushed.paths.paths.values_mut().flat_map(operations).for_each(|operation| guard(operation, Some(Right::Push)));
    document.merge(pushed);
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(TOKEN, token());
    components.add_security_scheme(LOGIN, login());
    write_all_fields(&mut document);
    document
}

/// The document as text, which is what the repository has in `docs/openapi.json`.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let text = described().to_pretty_json();
        // Made of texts, numbers, lists and maps with texts for keys.
        text.expect("the document always has a JSON form") + "\n"
    });
    &TEXT
}

/// This description of the API.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "Server",
    responses((status = 200, description = "An OpenAPI 3.1 document", body = serde_json::Value)),
)]
pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text()).into_response()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete, &mut item.put, &mut item.patch].into_iter().flatten()
}

/// Adds what the layers around a route answer.
fn guard(operation: &mut Operation, right: Option<Right>) {
    let Some(right) = right else { return };
    operation.security = Some(requirements(right));
    let refused = [
        ("401", "No token, or one that is not known".to_owned()),
        ("403", format!("The token lacks the right `{}`, or another site's page sent this", right.as_str())),
    ];
    for (status, description) in refused {
        let answer = utoipa::openapi::ResponseBuilder::new()
            .description(description)
            .content("application/json", utoipa::openapi::ContentBuilder::new().schema(Some(error())).build());
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| answer.build().into());
    }
}

fn error() -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name("ErrorAnswer"))
}

fn requirements(right: Right) -> Vec<SecurityRequirement> {
    [TOKEN, LOGIN].map(|scheme| SecurityRequirement::new(scheme, [right.as_str()])).into()
}

fn token() -> SecurityScheme {
    let description = "A token of the configuration. `Authorization: Token TOKEN`, as clients of InfluxDB send it, and \
        `X-Auth-Token: TOKEN`, as those of Monasca do, are the same.";
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build())
}

fn login() -> SecurityScheme {
    let description = "The same token in a cookie, which `POST /api/v1/login` sets.";
    SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(COOKIE, description)))
}

/// What may be null in an answer is written as null, not left out; what a client sends may be left out.
fn write_all_fields(document: &mut utoipa::openapi::OpenApi) {
    let sent = sent(document);
    let Some(components) = &mut document.components else { return };
    for (name, schema) in &mut components.schemas {
        if !sent.contains(name.as_str()) {
            write_fields(schema);
        }
    }
}

fn write_fields(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            let nullable = object.properties.iter().filter(|(_, property)| may_be_null(property));
            let added: Vec<String> =
                nullable.map(|(name, _)| name.clone()).filter(|name| !object.required.contains(name)).collect();
            object.required.extend(added);
        }
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(write_fields),
        RefOr::T(Schema::OneOf(one)) => one.items.iter_mut().for_each(write_fields),
        _ => {}
    }
}

fn may_be_null(schema: &RefOr<Schema>) -> bool {
    let null = |of: &SchemaType| match of {
        SchemaType::Type(one) => *one == Type::Null,
        SchemaType::Array(several) => several.contains(&Type::Null),
        SchemaType::AnyValue => true,
    };
    match schema {
        RefOr::T(Schema::Object(object)) => null(&object.schema_type),
        RefOr::T(Schema::Array(array)) => null(&array.schema_type),
        RefOr::T(Schema::OneOf(one)) => one.items.iter().any(may_be_null),
        _ => false,
    }
}

/// The names of the schemas that are bodies of requests, or what those are lists of.
fn sent(document: &mut utoipa::openapi::OpenApi) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        let Some(RefOr::T(body)) = &operation.request_body else { continue };
        for content in body.content.values() {
            let RefOr::T(content) = content else { continue };
            names.extend(content.schema.as_ref().into_iter().flat_map(referred));
        }
    }
    names
}

fn referred(schema: &RefOr<Schema>) -> Vec<String> {
    match schema {
        RefOr::Ref(to) => to.ref_location.rsplit('/').next().map(str::to_owned).into_iter().collect(),
        RefOr::T(Schema::OneOf(one)) => one.items.iter().flat_map(referred).collect(),
        RefOr::T(Schema::Array(array)) => match &array.items {
            utoipa::openapi::schema::ArrayItems::RefOrSchema(items) => referred(items),
            utoipa::openapi::schema::ArrayItems::False => Vec::new(),
        },
        _ => Vec::new(),
    }
}
