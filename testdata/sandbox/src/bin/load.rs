//! `load NAME ADDRESS PAUSE_MICROSECONDS`: one client that asks and asks until its standard input ends. Every request has a target
//! of its own, `…&by=NAME-NUMBER`, so that host and audit log can be held against what happened here. Started by the end-to-end
//! tests inside the sandbox, as the user whom it is to be; it refuses to run anywhere else.
//!
//! Prints one line per request: `NUMBER fresh|reused OUTCOME`, where the outcome is the status of the answer, or
//!
//! * `refused`, `reset`: that is how connecting ended, or, of a reset, waiting for the first byte of the answer
//! * `closed`: the connection was closed before the first byte
//! * `cut`: it ended within the answer; `silent`: nothing came for 10 s
//! * `mixed`: an answer with status 200 that is not the one to this request
#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandbox::Sandbox;

const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure nobody asks at once again.
const BREATH: Duration = Duration::from_millis(2);
/// How many requests connections carry, in turn.
const CARRY: [u64; 6] = [1, 1, 4, 1, 16, 2];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("load: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    Sandbox::assert_inside()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, pause] = &arguments[..] else { return Err("NAME ADDRESS PAUSE_MICROSECONDS".to_owned()) };
    let address: SocketAddr = address.parse().map_err(|e| format!("{address}: {e}"))?;
    let pause = Duration::from_micros(pause.parse().map_err(|e| format!("{pause}: {e}"))?);
    let over = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        end.store(true, Ordering::Relaxed);
    });
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut number, mut round) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let carry = CARRY[round % CARRY.len()];
        round += 1;
        let mut connection = Connection::open(address);
        for turn in 0..carry {
            number += 1;
            let outcome = match &mut connection {
                Ok(connection) => connection.ask(name, number, turn + 1 == carry),
                Err(why) => Err(*why),
            };
            let age = if turn == 0 { "fresh" } else { "reused" };
            let written = match outcome {
                Ok((status, _)) => writeln!(out, "{number} {age} {status}"),
                Err(why) => writeln!(out, "{number} {age} {why}"),
            };
            written.map_err(|e| e.to_string())?;
            std::thread::sleep(if outcome.is_ok() { pause } else { BREATH });
            if !matches!(outcome, Ok((_, true))) {
                break;
            }
        }
    }
    out.flush().map_err(|e| e.to_string())
}

/// How a request ended that was not answered.
type Failure = &'static str;

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| word(&e))?;
        let prepared = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        prepared.map_err(|e| word(&e))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Asks, and returns the status and whether the connection can be used again.
    fn ask(&mut self, name: &str, number: u64, last: bool) -> Result<(u16, bool), Failure> {
        // A body's length says which request it answers.
        let length = usize::try_from(50 + number % 997).unwrap_or(0);
        // Some take their time, so that always some are under way.
        let (target, pause) = if number.is_multiple_of(5) { ("slow", "ms=30&") } else { ("bytes", "") };
        let body = if number % 7 == 3 { "x".repeat(300) } else { String::new() };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let connection = if last { "Connection: close\r\n" } else { "" };
        let request = format!(
            "{method} /test/{target}?{pause}n={length}&by={name}-{number} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\
             Content-Length: {}\r\n{connection}\r\n{body}",
            body.len()
        );
        // A connection that is gone says more when it is read from.
        let _ = self.stream.write_all(request.as_bytes());
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status: u16 = text.get(9..12).and_then(|s| s.parse().ok()).ok_or("mixed")?;
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let announced: usize = field("content-length").and_then(|l| l.parse().ok()).ok_or("mixed")?;
        let stays = !last && field("connection") != Some("close");
        while self.buffer.len() < head + announced {
            self.more()?;
        }
        let whole = self.buffer.len() == head + announced && (status != 200 || announced == length);
        if whole { Ok((status, stays)) } else { Err("mixed") }
    }

    fn more(&mut self) -> Result<(), Failure> {
        let mut piece = [0; 4096];
        let read = self.stream.read(&mut piece);
        match read {
            Ok(0) if self.buffer.is_empty() => Err("closed"),
            Ok(0) => Err("cut"),
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(())
            }
            Err(e) if !self.buffer.is_empty() && e.kind() == ErrorKind::ConnectionReset => Err("cut"),
            Err(e) => Err(word(&e)),
        }
    }
}

fn word(e: &io::Error) -> Failure {
    match e.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silent",
        ErrorKind::PermissionDenied => "forbidden",
        _ => "other",
    }
}
