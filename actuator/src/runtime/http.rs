//! HTTP/1.1 over a Unix socket, as Docker and Podman speak it: one request a connection, bounded in time and in size.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::runtime::sent::{Failure, Sent};
use crate::runtime::socket::TimedSocket;

/// What an answer may be long. A container's description is a few kilobytes.
const MAX_ANSWER: usize = 4 << 20;
const MAX_HEADERS: usize = 64;

/// What a daemon answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends one request and reads the answer, all of it within `timeout`. `body` is JSON.
///
/// # Errors
/// `TimedOut` when the daemon does not answer in time or takes no further connection, `InvalidData` when what it answers is
/// no HTTP or too long, and what the socket says.
pub(crate) fn request(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<&str>,
    timeout: Duration,
) -> Result<Answer, Failure> {
    let mut stream = TimedSocket::connect(socket, timeout)?;
    let body = body.unwrap_or_default();
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if method != "GET" {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body;
    stream.write_all(request.as_bytes())?;
    match answer(&mut stream) {
        Ok(answer) => Ok(answer),
        Err(error) => {
            let waits = error.kind() == io::ErrorKind::TimedOut;
            let sent = Sent::new(waits.then(|| stream.into_stream()), is_yes);
            Err(Failure { error, sent: Some(sent) })
        }
    }
}

/// Whether an answer that begins like that is one of success.
fn is_yes(text: &[u8]) -> bool {
    text.starts_with(b"HTTP/1.1 2") || text.starts_with(b"HTTP/1.0 2")
}

fn answer(stream: &mut TimedSocket) -> io::Result<Answer> {
    let mut text = Vec::new();
    loop {
        if let Some(answer) = parse(&text, false)? {
            return Ok(answer);
        }
        if text.len() > MAX_ANSWER {
            return Err(garbled(format!("an answer of more than {MAX_ANSWER} bytes")));
        }
        let mut chunk = [0; 8192];
        match stream.read(&mut chunk) {
            Ok(0) => return parse(&text, true)?.ok_or_else(|| garbled("an answer that ends in its middle")),
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn garbled(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The answer, once `text` holds all of it. With `ended` nothing more comes, which is how a body of untold length ends.
fn parse(text: &[u8], ended: bool) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let start = match head.parse(text) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(garbled(format!("no HTTP: {error}"))),
    };
    let status = head.code.unwrap_or_default();
    let body = &text[start..];
    if (100..200).contains(&status) {
        // An interim answer; the real one follows.
        return parse(body, ended);
    }
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let body = if matches!(status, 204 | 304) {
        Some(Vec::new())
    } else if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        chunked(body)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| garbled(format!("a Content-Length of '{length}'")))?;
        body.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| body.to_vec())
    };
    Ok(body.map(|body| Answer { status, body }))
}

/// The body behind chunked coding; `None` until the last chunk is there.
fn chunked(mut text: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(text) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(garbled("a chunk without a size")),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_ANSWER);
        let size = size.ok_or_else(|| garbled(format!("a chunk of more than {MAX_ANSWER} bytes")))?;
        // Each chunk ends with a line end of its own.
        let Some(rest) = text.get(start + size + 2..) else { return Ok(None) };
        body.extend_from_slice(&text[start..start + size]);
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Instant;

    use super::*;

    fn body(text: &str, ended: bool) -> Option<String> {
        parse(text.as_bytes(), ended).unwrap().map(|answer| String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn a_body_ends_with_its_length_its_last_chunk_or_the_connection() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false), None);
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd", false).as_deref(), Some("abc"));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        assert_eq!(body(chunks, false).as_deref(), Some("abc"));
        assert_eq!(body(&chunks[..chunks.len() - 7], false), None, "the last chunk is not there yet");
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nabc", false), None);
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nabc", true).as_deref(), Some("abc"));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n", false).as_deref(), Some(""));
        assert_eq!(body("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\n", false).as_deref(), Some(""));
        for wrong in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert!(parse(wrong.as_bytes(), false).is_err(), "{wrong}");
        }
        let huge = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n";
        assert!(parse(huge.as_bytes(), false).is_err());
    }

    #[test]
    fn a_daemon_that_does_not_answer_costs_the_timeout_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let started = Instant::now();
        let get = |timeout| {
            request(&path, "GET", "/x", None, Duration::from_millis(timeout)).map_err(|failure| failure.error)
        };
        assert_eq!(get(50).unwrap_err().kind(), io::ErrorKind::TimedOut);

        // One byte at a time keeps each read short of its own time-out; the whole has one, too.
        let drip = thread::spawn(move || {
            let _first = listener.accept().unwrap();
            let (mut second, _) = listener.accept().unwrap();
            second.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
            while second.write_all(b"y").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(get(200).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(10));
        drip.join().unwrap();
        assert!(get(50).is_err(), "nobody listens any more");
        assert_eq!(
            request(Path::new("/no/such"), "GET", "/", None, Duration::from_secs(1)).unwrap_err().error.kind(),
            io::ErrorKind::NotFound
        );
    }
}
