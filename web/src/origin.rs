//! Keeps other web sites away: their scripts must neither change anything here nor read a loopback server by rebinding
//! a name of theirs to 127.0.0.1.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::App;
use crate::error::ApiError;

/// Layer over everything.
pub(crate) async fn same_site(State(app): State<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    let host = host_of(request.headers(), request.uri());
    // A program may leave Host out; a browser, which is what rebinding needs, never does.
    if app.auth.is_open()
        && let Some(host) = &host
        && !is_loopback(name_of(host))
        && !is_public(name_of(host), &app.config.public_hosts)
    {
        return Err(ApiError::new(StatusCode::FORBIDDEN, format!("this server is not known as '{}'", name_of(host)))
            .help("use a loopback address, configure tokens, or add the name to public_hosts"));
    }
    let reading = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reading
        && let Some(origin) = request.headers().get(header::ORIGIN)
        && !is_own(origin.to_str().unwrap_or_default(), host.as_deref(), &app.config.public_hosts)
    {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "requests from another site are refused"));
    }
    Ok(next.run(request).await)
}

fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers.get(header::HOST).map(|value| value.to_str().unwrap_or("(unreadable)").to_owned());
    header.or_else(|| uri.authority().map(ToString::to_string))
}

/// Whether `origin` is this server as the client addressed it.
fn is_own(origin: &str, host: Option<&str>, public_hosts: &[String]) -> bool {
    let Some((_, authority)) = origin.split_once("://") else {
        return false; // "null": a sandboxed frame or a file
    };
    host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) || is_public(name_of(authority), public_hosts)
}

/// The host without its port and without an IPv6 address' brackets.
fn name_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn is_public(name: &str, public_hosts: &[String]) -> bool {
    public_hosts.iter().any(|public| public.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_goes_by_several_names() {
        for host in ["localhost", "LOCALHOST:8400", "127.0.0.1:8400", "127.9.9.9", "[::1]:8400", "x.localhost:1"] {
            assert!(is_loopback(name_of(host)), "{host}");
        }
        for host in ["evil.example:8400", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]:1", ""]
        {
            assert!(!is_loopback(name_of(host)), "{host}");
        }
    }

    #[test]
    fn only_the_servers_own_origin_counts() {
        let public = ["gate.example".to_owned()];
        assert!(is_own("http://localhost:8400", Some("localhost:8400"), &[]));
        assert!(is_own("https://gate.example", Some("10.0.0.7:8400"), &public));
        assert!(!is_own("http://localhost:9999", Some("localhost:8400"), &[]));
        assert!(!is_own("http://evil.example", Some("localhost:8400"), &public));
        assert!(!is_own("null", Some("localhost:8400"), &public));
        assert!(!is_own("http://localhost:8400", None, &[]));
    }
}
