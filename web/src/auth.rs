//! Who may do what: tokens with rights, and the login that keeps a token in the browser.
//!
//! Tokens are long random strings, so a plain SHA-256 of them is enough to store; they are never kept or logged. Without
//! tokens everything is allowed, which is why such a server must listen on loopback only.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use utoipa::ToSchema;

use crate::App;
use crate::error::{ApiError, ErrorAnswer, WebError};
use crate::extract::Text;

pub(crate) const COOKIE: &str = "tidegate_token";

/// What a token allows. The rights are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Sending samples.
    Push,
    /// Every question: SQL, rules, decisions, the live stream, metrics.
    Read,
    /// Changing rules.
    Operate,
    /// Measuring a host and changing its limits as ordered.
    Agent,
}

impl Right {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Right::Push => "push",
            Right::Read => "read",
            Right::Operate => "operate",
            Right::Agent => "agent",
        }
    }
}

/// A token as the configuration knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Who it was given to; stands in rules as their author.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal.
    pub sha256: String,
    /// What it allows.
    pub rights: BTreeSet<Right>,
}

/// The tokens of this server, or none.
#[derive(Clone, Debug)]
pub struct Auth {
    /// `None`: no token is needed.
    known: Option<Arc<[Known]>>,
}

#[derive(Debug)]
struct Known {
    digest: [u8; 32],
    caller: Caller,
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    rights: BTreeSet<Right>,
}

impl Caller {
    /// Refuses with 403 when the caller lacks `right`.
    pub(crate) fn require(&self, right: Right) -> Result<(), ApiError> {
        if self.rights.contains(&right) {
            return Ok(());
        }
        let message = format!("token '{}' lacks the right '{}'", self.name, right.as_str());
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}

impl Auth {
    /// No tokens: everybody who reaches this server may do everything. Only for a server on loopback.
    pub fn open() -> Self {
        Self { known: None }
    }

    /// Requires one of `records` with every request that is not the dashboard's files or a probe.
    ///
    /// # Errors
    /// An empty list, a digest that is not 64 hexadecimal digits, a token without rights.
    pub fn tokens(records: &[TokenRecord]) -> Result<Self, WebError> {
        if records.is_empty() {
            return Err(WebError::NoTokens);
        }
        let known = records.iter().map(Known::new).collect::<Result<Arc<[_]>, _>>()?;
        Ok(Self { known: Some(known) })
    }

    /// Whether no token is needed.
    pub fn is_open(&self) -> bool {
        self.known.is_none()
    }

    /// The digest of a token as [`TokenRecord::sha256`] holds it.
    pub fn digest(token: &str) -> String {
        Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whose token this is. Takes the same time whichever record matches, or none.
    fn identify(&self, token: &str) -> Option<Caller> {
        let known = self.known.as_ref()?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = Choice::from(0);
        let mut at = 0u64;
        for (index, record) in known.iter().enumerate() {
            let equal = record.digest.ct_eq(&digest);
            at.conditional_assign(&(index as u64), equal);
            found |= equal;
        }
        bool::from(found).then(|| known[at as usize].caller.clone())
    }

    /// The caller of a request, from its headers.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.is_open() {
            return Ok(Caller {
                name: "local".to_owned(),
                rights: [Right::Push, Right::Read, Right::Operate, Right::Agent].into(),
            });
        }
        let Some(token) = presented(headers) else {
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "a token is needed")
                .help("send it as 'Authorization: Bearer TOKEN'"));
        };
        self.identify(&token).ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "this token is not known"))
    }
}

impl Known {
    fn new(record: &TokenRecord) -> Result<Self, WebError> {
        if record.rights.is_empty() {
            return Err(WebError::NoRights { name: record.name.clone() });
        }
        let digest = parse_digest(&record.sha256).ok_or_else(|| WebError::Digest { name: record.name.clone() })?;
        Ok(Self { digest, caller: Caller { name: record.name.clone(), rights: record.rights.clone() } })
    }
}

fn parse_digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

/// The token in a request: `Authorization: Bearer T`, the Influx clients' `Token T`, Monasca's `X-Auth-Token`, or the
/// dashboard's cookie.
fn presented(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text("authorization")
        && let Some((scheme, token)) = value.split_once(' ')
        && (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token"))
    {
        return Some(token.trim().to_owned());
    }
    if let Some(token) = text("x-auth-token") {
        return Some(token.trim().to_owned());
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| token.to_owned())
}

/// Layer: lets a request through when its caller has the right, and tells the handler who the caller is.
pub(crate) async fn require(
    State((auth, right)): State<(Auth, Right)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = auth.caller(request.headers())?;
    caller.require(right)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// A token to log in with.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Login {
    token: String,
}

/// Whose token it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct LoggedIn {
    /// The token's name.
    name: String,
    /// What it allows.
    rights: BTreeSet<Right>,
}

/// Puts a valid token into a cookie.
///
/// Scripts cannot read it and other sites cannot send it. A server without tokens takes any.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "Session",
    request_body = Login,
    responses(
        (status = 200, description = "The cookie is set", body = LoggedIn),
        (status = 400, description = "The body is not as expected, or a cookie cannot carry the token", body = ErrorAnswer),
        (status = 401, description = "The token is not known", body = ErrorAnswer),
        (status = 403, description = "Another site's page sent this", body = ErrorAnswer),
    ),
)]
pub(crate) async fn login(State(app): State<App>, headers: HeaderMap, body: Text) -> Result<Response, ApiError> {
    let Login { token } = body.json()?;
    let caller = if app.auth.is_open() {
        app.auth.caller(&headers)?
    } else {
        let known = app.auth.identify(&token);
        known.ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "this token is not known"))?
    };
    let mut response = Json(LoggedIn { name: caller.name, rights: caller.rights }).into_response();
    if !app.auth.is_open() {
        response.headers_mut().insert(header::SET_COOKIE, cookie(&token, app.config.login_s, &headers)?);
    }
    Ok(response)
}

/// Ends the login of this browser.
#[utoipa::path(
    post, path = "/api/v1/logout", tag = "Session",
    responses(
        (status = 204, description = "The cookie is gone"),
        (status = 403, description = "Another site's page sent this", body = ErrorAnswer),
    ),
)]
pub(crate) async fn logout(headers: HeaderMap) -> Result<Response, ApiError> {
    Ok(([(header::SET_COOKIE, cookie("", 0, &headers)?)], StatusCode::NO_CONTENT).into_response())
}

fn cookie(token: &str, max_age_s: u64, headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    let unfit = || ApiError::bad_request("this token has characters that a cookie cannot carry");
    if token.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'"' | b',' | b';' | b'\\')) {
        return Err(unfit());
    }
    // Browsers send the Origin with every POST, so it tells whether TLS ends somewhere before this server.
    let https = headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let secure = if https { "; Secure" } else { "" };
    let text = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}");
    HeaderValue::from_str(&text).map_err(|_| unfit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, token: &str) -> TokenRecord {
        TokenRecord { name: name.to_owned(), sha256: Auth::digest(token), rights: [Right::Push].into() }
    }

    #[test]
    fn each_token_is_its_own_caller_and_others_are_nobody() {
        let auth = Auth::tokens(&[record("a", "first"), record("b", "second")]).unwrap();
        assert_eq!(auth.identify("first").unwrap().name, "a");
        assert_eq!(auth.identify("second").unwrap().name, "b");
        assert!(auth.identify("third").is_none());
        assert!(auth.identify("").is_none());
    }

    #[test]
    fn a_broken_list_of_tokens_is_refused() {
        assert!(matches!(Auth::tokens(&[]), Err(WebError::NoTokens)));
        let short = TokenRecord { sha256: "ab".to_owned(), ..record("a", "x") };
        assert!(matches!(Auth::tokens(&[short]), Err(WebError::Digest { .. })));
        let powerless = TokenRecord { rights: BTreeSet::new(), ..record("a", "x") };
        assert!(matches!(Auth::tokens(&[powerless]), Err(WebError::NoRights { .. })));
    }

    #[test]
    fn a_token_is_found_in_every_place_that_clients_use() {
        for (name, value) in [
            ("authorization", "Bearer abc"),
            ("authorization", "token abc"),
            ("x-auth-token", "abc"),
            ("cookie", "theme=dark; tidegate_token=abc; x=1"),
        ] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            assert_eq!(presented(&headers).as_deref(), Some("abc"), "{name}: {value}");
        }
    }

    #[test]
    fn a_cookie_is_secure_only_where_the_page_is() {
        let plain = cookie("abc", 60, &HeaderMap::new()).unwrap();
        assert_eq!(plain, "tidegate_token=abc; Path=/; HttpOnly; SameSite=Strict; Max-Age=60");
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("https://x"))]);
        assert!(cookie("abc", 60, &headers).unwrap().to_str().unwrap().ends_with("; Secure"));
        assert!(cookie("a;b", 60, &headers).is_err());
    }
}
