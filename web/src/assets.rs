//! The dashboard's files, embedded from `web/dist`.
//!
//! A file whose name carries a hash never changes and may be kept for ever; everything else is asked for again each time
//! and answered with 304 while its ETag stands. Debug builds read the files from disk, so that a rebuilt dashboard shows
//! without a rebuilt server.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use crate::error::ApiError;

/// What a page of the dashboard may load: nothing from elsewhere. The code editor makes its styles at run time.
pub(crate) const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidegate</title>\
<h1>Tidegate is running, but its dashboard was not built</h1>\
<p>Build it with <code>npm ci &amp;&amp; npm run build</code> in <code>web/ui</code>, then build the server again. \
The HTTP API below <code>/api/v1</code> works without it.</p></html>\n";

#[derive(RustEmbed)]
#[folder = "dist/"]
#[allow_missing = true]
struct Dist;

struct File {
    bytes: Cow<'static, [u8]>,
    digest: [u8; 32],
}

/// Answers whatever no route of the API matches.
pub(crate) async fn dashboard(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) || uri.path().starts_with("/api/") {
        return ApiError::not_found(format!("there is no {method} {}", uri.path())).into_response();
    }
    let embedded =
        |path: &str| Dist::get(path).map(|file| File { digest: file.metadata.sha256_hash(), bytes: file.data });
    answer(&embedded, uri.path(), &headers)
}

fn answer(files: &dyn Fn(&str) -> Option<File>, path: &str, headers: &HeaderMap) -> Response {
    let path = path.trim_start_matches('/');
    // Hidden files are not part of the dashboard, and `..` is never a way to one.
    let hidden = |segment: &str| segment.starts_with('.') || segment.contains('\\');
    if path.split('/').any(hidden) {
        return missing(path);
    }
    if !path.is_empty()
        && let Some(file) = files(path)
    {
        return serve(files, path, &file, headers);
    }
    // The dashboard's own addresses have no dot; a missing script must not be answered with a page.
    if path.rsplit('/').next().is_some_and(|name| name.contains('.')) {
        return missing(path);
    }
    match files("index.html") {
        Some(index) => serve(files, "index.html", &index, headers),
        None => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], NOT_BUILT).into_response(),
    }
}

fn missing(path: &str) -> Response {
    ApiError::not_found(format!("there is no file '{path}'")).into_response()
}

fn serve(files: &dyn Fn(&str) -> Option<File>, path: &str, file: &File, headers: &HeaderMap) -> Response {
    let cache = if has_hash(path) { "public, max-age=31536000, immutable" } else { "no-cache" };
    // Weak, since the same tag stands for every encoding of the file.
    let tag = format!("W/\"{}\"", file.digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let mut response = if matches(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let (bytes, encoding) = encoded(files, path, file, headers);
        let mut response = Body::from(bytes).into_response();
        set(&mut response, header::CONTENT_TYPE, content_type(path).as_str());
        if let Some(encoding) = encoding {
            set(&mut response, header::CONTENT_ENCODING, encoding);
            set(&mut response, header::VARY, "accept-encoding");
        }
        response
    };
    set(&mut response, header::ETAG, &tag);
    set(&mut response, header::CACHE_CONTROL, cache);
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn content_type(path: &str) -> String {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let text = mime.type_() == "text" || matches!(mime.subtype().as_str(), "javascript" | "json");
    if text { format!("{mime}; charset=utf-8") } else { mime.to_string() }
}

/// Whether the client has this version already.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let strong = tag.trim_start_matches("W/");
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given
        .flat_map(|value| value.split(','))
        .any(|one| one.trim() == "*" || one.trim().trim_start_matches("W/") == strong)
}

/// The file as the build compressed it, if it did and the client takes it. Otherwise the compression layer may act.
fn encoded(
    files: &dyn Fn(&str) -> Option<File>,
    path: &str,
    file: &File,
    headers: &HeaderMap,
) -> (Cow<'static, [u8]>, Option<&'static str>) {
    for (encoding, suffix) in [("br", "br"), ("gzip", "gz")] {
        if accepts(headers, encoding)
            && let Some(packed) = files(&format!("{path}.{suffix}"))
        {
            return (packed.bytes, Some(encoding));
        }
    }
    (file.bytes.clone(), None)
}

fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)));
        named && !refused
    })
}

/// Whether the build put a hash of the content into the name, as in `assets/index-BxYz12_4.js`.
fn has_hash(path: &str) -> bool {
    const HASH: usize = 8;
    let Some(name) = path.strip_prefix("assets/") else { return false };
    let stem = name.split('.').next().unwrap_or_default();
    let Some(split) = stem.len().checked_sub(HASH + 1) else { return false };
    let (before, hash) = stem.as_bytes().split_at(split + 1);
    before.ends_with(b"-") && hash.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &str) -> Option<File> {
        let text: &[u8] = match path {
            "index.html" => b"<title>dashboard</title>",
            "assets/app-AbCd_-12.js" => b"let a = 1",
            "assets/app-AbCd_-12.js.br" => b"packed",
            ".gitkeep" => b"",
            _ => return None,
        };
        Some(File { bytes: Cow::Borrowed(text), digest: [text.len() as u8; 32] })
    }

    async fn get(path: &str, headers: &[(HeaderName, &'static str)]) -> (StatusCode, HeaderMap, String) {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let response = answer(&files, path, &headers);
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn addresses_of_the_dashboard_get_the_page_and_missing_files_do_not() {
        for path in ["/", "/rules", "/containers/node0/web"] {
            let (status, headers, body) = get(path, &[]).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "<title>dashboard</title>"), "{path}");
            assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
            assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        }
        for path in
            ["/assets/old-00000000.js", "/favicon.png", "/.gitkeep", "/../Cargo.toml", "/a/../../secret", "/..\\x"]
        {
            assert_eq!(get(path, &[]).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn a_hashed_file_is_kept_for_ever_and_sent_as_the_build_packed_it() {
        let (_, headers, body) = get("/assets/app-AbCd_-12.js", &[(header::ACCEPT_ENCODING, "gzip, br")]).await;
        assert_eq!(body, "packed");
        assert_eq!(headers[header::CONTENT_ENCODING], "br");
        assert_eq!(headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let (_, headers, body) = get("/assets/app-AbCd_-12.js", &[(header::ACCEPT_ENCODING, "br;q=0")]).await;
        assert_eq!((body.as_str(), headers.get(header::CONTENT_ENCODING)), ("let a = 1", None));
    }

    #[tokio::test]
    async fn an_unchanged_file_is_not_sent_again() {
        let (_, headers, _) = get("/", &[]).await;
        let tag: &'static str = Box::leak(headers[header::ETAG].to_str().unwrap().to_owned().into_boxed_str());
        let (status, headers, body) = get("/", &[(header::IF_NONE_MATCH, tag)]).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(headers[header::ETAG], tag);
        assert_eq!(get("/", &[(header::IF_NONE_MATCH, "\"other\"")]).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn without_a_built_dashboard_a_page_says_so() {
        let response = answer(&|_| None, "/", &HeaderMap::new());
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("dashboard was not built"));
    }

    #[test]
    fn only_names_with_a_hash_are_immutable() {
        assert!(has_hash("assets/index-BxYz1234.js"));
        assert!(!has_hash("assets/index.js"));
        assert!(!has_hash("index-BxYz1234.js"));
        assert!(!has_hash("assets/logo.svg"));
    }
}
