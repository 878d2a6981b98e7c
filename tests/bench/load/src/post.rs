//! A keep-alive connection that posts bodies: no more of HTTP than a push needs, so that the loader costs little.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long a server may keep silent before the request counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where bodies go. Only ever this host.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Complete lines, each with its line end.
    pub headers: String,
}

/// One connection; made anew when the server closed it.
pub struct Connection<'a> {
    target: &'a Target,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

/// Why a request failed, for a person.
pub type Failure = String;

impl<'a> Connection<'a> {
    pub fn new(target: &'a Target) -> Self {
        Self { target, stream: None, answer: Vec::new() }
    }

    /// Posts a body and reads the whole answer; an error unless its status is of 200 to 299.
    pub fn post(&mut self, body: &[u8]) -> Result<(), Failure> {
        let status = self.exchange(body).map_err(|error| {
            self.stream = None;
            error.to_string()
        })?;
        match status {
            200..300 => Ok(()),
            _ => Err(String::from_utf8_lossy(&self.answer[..self.answer.len().min(600)]).into_owned()),
        }
    }

    fn exchange(&mut self, body: &[u8]) -> io::Result<u16> {
        let Target { port, path, headers } = self.target;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(connect(*port)?),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [io::IoSlice::new(head.as_bytes()), io::IoSlice::new(body)];
        let sent = stream.write_vectored(&request)?;
        let sent_of_body = sent.saturating_sub(head.len());
        if sent < head.len() {
            stream.write_all(&head.as_bytes()[sent..])?;
        }
        stream.write_all(&body[sent_of_body..])?;
        let (status, closes) = read_answer(stream, &mut self.answer)?;
        if closes {
            self.stream = None;
        }
        Ok(status)
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads head and body of an answer into `answer`; gives the status and whether the server closes the connection.
fn read_answer(stream: &mut impl Read, answer: &mut Vec<u8>) -> io::Result<(u16, bool)> {
    answer.clear();
    let head_end = loop {
        if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(stream, answer)?;
    };
    let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {head}"));
    let status: u16 = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(malformed)?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let closes = field("connection:") == Some("close");
    if status == 204 {
        return Ok((status, closes));
    }
    if let Some(length) = field("content-length:") {
        let length: usize = length.parse().map_err(|_| malformed())?;
        while answer.len() < head_end + length {
            read_more(stream, answer)?;
        }
    } else if field("transfer-encoding:") == Some("chunked") {
        while !answer[head_end..].ends_with(b"0\r\n\r\n") {
            read_more(stream, answer)?;
        }
    }
    Ok((status, closes))
}

fn read_more(stream: &mut impl Read, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4_096];
    match stream.read(&mut buffer)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        read => {
            answer.extend(&buffer[..read]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<(u16, bool)> {
        read_answer(&mut bytes, &mut Vec::new())
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, false));
        assert_eq!(read(b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno").unwrap(), (400, false));
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").unwrap(),
            (200, false)
        );
        assert_eq!(read(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap(), (503, true));
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno").is_err());
    }
}
