//! One kept connection, HTTP/1.1, one question at a time: as cheap as a client can be, so that the controller is what is measured.

use serde_json::Value;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// What went wrong, for people.
pub(crate) type Failure = String;

/// Who asks, and where.
#[derive(Debug)]
pub(crate) struct Client {
    /// The controller.
    pub(crate) to: SocketAddr,
    /// Our own address: one has 28,000 ports for one controller, `127.0.0.0/8` has more addresses.
    pub(crate) from: IpAddr,
    /// What stands after `Bearer`.
    pub(crate) token: String,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) const fn new(to: SocketAddr, from: IpAddr, token: String) -> Self {
        Self { to, from, token, connection: None }
    }

    /// Asks, and wants a 2xx.
    pub(crate) async fn ok(&mut self, method: &str, path: &str, body: &str) -> Result<Value, Failure> {
        let (status, answer) = self.call(method, path, body, None).await?;
        if !(200..300).contains(&status) {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)));
        }
        if answer.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&answer).map_err(|e| format!("{method} {path}: {e}"))
        }
    }

    /// Asks. After a failure the next question begins with a new connection.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        key: Option<&str>,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|e| format!("connecting to {} from {}: {e}", self.to, self.from))?,
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n",
            self.to,
            self.token,
            body.len()
        );
        if let Some(key) = key {
            let _ = write!(request, "idempotency-key: {key}\r\n");
        }
        let _ = write!(request, "\r\n{body}");
        let answer = connection.exchange(&request).await.map_err(|e| format!("{method} {path}: {e}"))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.from, 0))?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, read: Vec::new() })
    }
}

impl Connection {
    async fn exchange(&mut self, request: &str) -> std::io::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request.as_bytes()).await?;
        self.read.clear();
        let broken = |what: &str| std::io::Error::other(what.to_owned());
        let end = loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(broken("the connection was closed"));
            }
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(self.read.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| broken("no status"))?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse().ok());
        let length: usize = match (length, status) {
            (Some(length), _) => length,
            (None, 204) => 0,
            (None, _) => return Err(broken("an answer without a length")),
        };
        while self.read.len() < end + length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(broken("the connection was closed"));
            }
        }
        Ok((status, self.read.get(end..end + length).unwrap_or_default().to_vec()))
    }
}
