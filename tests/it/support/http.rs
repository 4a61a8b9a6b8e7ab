//! A client that sends exactly the bytes it is told, and reads what comes back.

use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;

use serde_json::Value;

use super::gateway::PATIENCE;

/// An answer as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Without the transfer coding.
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts that this is an error of the gateway's own.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, kind: &str, code: &str) {
        let context = || format!("{} {}", self.status, self.text());
        assert_eq!(self.status, status, "{}", context());
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", context());
        let error = &self.json()["error"];
        assert_eq!(error["type"], kind, "{}", context());
        assert_eq!(error["code"], code, "{}", context());
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{}", context());
        assert!(error.get("param").is_some(), "`param` is always there: {}", context());
    }
}

/// How an answer ended short of its end.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What came.
    pub(crate) bytes: Vec<u8>,
}

/// The sending side of a connection.
pub(crate) struct Sender(TcpStream);

impl Sender {
    /// Sends all of it, or as much as the peer takes.
    pub(crate) fn send_all(mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }
}

/// One connection. Reads wait for at most [`PATIENCE`].
pub(crate) struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, input: Vec::new() }
    }

    /// Sends bytes; a peer that has closed already is no error.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// The same connection for a thread that sends while this one reads.
    pub(crate) fn sender(&self) -> Sender {
        Sender(self.stream.try_clone().unwrap())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Ends the connection, for whoever sends on it, too.
    pub(crate) fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// The connection ends before the answer does.
    pub(crate) fn response(&mut self) -> Result<Response, Cut> {
        let mut response = self.head()?;
        let chunked = response.header("transfer-encoding").is_some();
        if chunked {
            while let Some(chunk) = self.chunk()? {
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            response.body = self.take(length)?;
        }
        Ok(response)
    }

    /// Reads an answer's head, those of status 100 passed over.
    ///
    /// # Errors
    /// The connection ends before the head does.
    pub(crate) fn head(&mut self) -> Result<Response, Cut> {
        loop {
            let head = self.any_head()?;
            if head.status != 100 {
                return Ok(head);
            }
        }
    }

    /// The same, whatever its status.
    ///
    /// # Errors
    /// The connection ends before the head does.
    pub(crate) fn any_head(&mut self) -> Result<Response, Cut> {
        let end = self.find(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.take(end + 4)?).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
        let status = status.parse().unwrap_or_else(|_| panic!("no HTTP: {head:?}"));
        Ok(Response { status, headers: headers.collect(), body: Vec::new() })
    }

    /// Reads one chunk; `None` for the last.
    ///
    /// # Errors
    /// The connection ends before the chunk does.
    pub(crate) fn chunk(&mut self) -> Result<Option<Vec<u8>>, Cut> {
        let end = self.find(b"\r\n")?;
        let line = String::from_utf8_lossy(&self.take(end + 2)?).into_owned();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let chunk = self.take(size)?;
        self.take(2)?;
        Ok((size > 0).then_some(chunk))
    }

    /// Reads until the peer closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more().is_ok() {}
        std::mem::take(&mut self.input)
    }

    /// Reads this many bytes.
    ///
    /// # Errors
    /// The connection ends before.
    pub(crate) fn take(&mut self, length: usize) -> Result<Vec<u8>, Cut> {
        while self.input.len() < length {
            self.more()?;
        }
        Ok(self.input.drain(..length).collect())
    }

    fn find(&mut self, what: &[u8]) -> Result<usize, Cut> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, what) {
                return Ok(at);
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), Cut> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(read) if read > 0 => {
                self.input.extend_from_slice(buffer.get(..read).unwrap());
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came for {PATIENCE:?}; so far: {:?}", self.shown())
            }
            Ok(_) | Err(_) => Err(Cut { bytes: std::mem::take(&mut self.input) }),
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }
}

/// A POST of JSON with a key, as raw bytes.
pub(crate) fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(path, "", body)
}

/// The same with header lines that each end with CR LF.
pub(crate) fn post_with(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_as("sk-caller", path, headers, body)
}

/// The same with this key.
pub(crate) fn post_as(key: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A request that a gateway before an [`Upstream`](super::upstream::Upstream) answers with 200.
pub(crate) fn good() -> Vec<u8> {
    post("/v1/chat/completions", r#"{"model":"gpt-4.1-mini","messages":[]}"#)
}

/// One GET on a connection of its own; `None` when nobody answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<Response> {
    get_with(address, path, "")
}

/// The same with header lines that each end with CR LF.
pub(crate) fn get_with(address: SocketAddr, path: &str, headers: &str) -> Option<Response> {
    TcpStream::connect(address).ok()?;
    let mut raw = Raw::connect(address);
    raw.send(format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n{headers}\r\n"));
    raw.response().ok()
}

/// A client of a library's. It wants to know how to speak TLS, whether or not it does.
pub(crate) fn client() -> reqwest::ClientBuilder {
    // Whoever came first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
