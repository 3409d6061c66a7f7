//! HTTP/1.1 over one connection, as cheap as it can be: the client runs on the
//! cores that it measures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head of an answer.
const MAX_HEAD: usize = 16 << 10;
const CHUNK: usize = 32 << 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub token: String,
    pub headers: String,
    pub body: String,
}

impl Request {
    pub fn get(token: String, path: String) -> Self {
        Self { method: "GET", path, token, headers: String::new(), body: String::new() }
    }

    pub fn send(method: &'static str, token: String, path: String, body: String) -> Self {
        Self { method, path, token, headers: String::new(), body }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

pub struct Connection {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
    /// Where the kernel writes to; kept, for clearing it would cost more than the rest.
    chunk: Box<[u8; CHUNK]>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10), chunk: Box::new([0; CHUNK]) })
    }

    pub fn call(&mut self, request: &Request) -> Result<Answer> {
        let Request { method, path, token, headers, body } = request;
        let kind = if headers.contains("content-type") || body.is_empty() {
            ""
        } else {
            "content-type: application/json\r\n"
        };
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{kind}{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(text.as_bytes())?;
        self.answer().with_context(|| format!("{method} {path} was not answered"))
    }

    fn answer(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.buffer.len() > MAX_HEAD {
                bail!("the head of the answer is too long");
            }
            self.read()?;
        };
        let head = std::str::from_utf8(&self.buffer[..end]).context("the head is no text")?;
        let status =
            head.get(9..12).and_then(|code| code.parse().ok()).context("the answer has no status")?;
        let field = |wanted: &str| {
            head.lines().skip(1).find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
            })
        };
        let length: usize = match field("content-length") {
            Some(length) => length.parse().context("the length is no number")?,
            None if status == 204 => 0,
            None => bail!("the answer has no content-length"),
        };
        let etag = field("etag");
        while self.buffer.len() < end + length {
            self.read()?;
        }
        let body = self.buffer[end..end + length].to_vec();
        self.buffer.drain(..end + length);
        Ok(Answer { status, etag, body })
    }

    fn read(&mut self) -> Result<()> {
        let count = self.stream.read(&mut *self.chunk)?;
        if count == 0 {
            bail!("the server closed the connection");
        }
        self.buffer.extend_from_slice(&self.chunk[..count]);
        Ok(())
    }
}
