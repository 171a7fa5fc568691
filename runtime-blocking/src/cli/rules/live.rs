//! The documents that the running agent enforces: asked of its local endpoint `/rules`, which answers root.

use super::super::tool::Failure;
use crate::status_client::query::{self, complete};
use azure_proxy_agent_core::identity::LISTENER;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read: documents of three endpoints, each of the host's and the owner's rules.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// An agent that takes longer has another trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer's body.
pub(super) fn fetch() -> Result<Vec<u8>, Failure> {
    fetch_from(LISTENER.into())
}

fn fetch_from(agent: SocketAddr) -> Result<Vec<u8>, Failure> {
    ask(agent).map_err(|failure| {
        let why = match failure {
            query::Failure::Status(403) => "the running agent tells its rules to root only".to_owned(),
            query::Failure::Status(404 | 421) => {
                "the running agent does not tell its rules: it is an earlier one, or the kernel did not tell it who asks"
                    .to_owned()
            }
            query::Failure::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                format!("no agent listens on {agent}")
            }
            other => format!("the agent on {agent} cannot be asked: {other}"),
        };
        Failure::Other(why)
    })
}

fn ask(agent: SocketAddr) -> Result<Vec<u8>, query::Failure> {
    let mut agent = TcpStream::connect_timeout(&agent, PATIENCE)?;
    agent.set_read_timeout(Some(PATIENCE))?;
    agent.set_write_timeout(Some(PATIENCE))?;
    agent.write_all(b"GET /rules HTTP/1.1\r\nHost: 127.0.0.1:3080\r\nMetadata: true\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let n = match agent.read(&mut chunk) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if let Some(whole) = complete(&answer, n == 0)? {
            return Ok(whole.body.to_owned());
        }
        match n {
            0 => return Err(query::Failure::Closed),
            _ if answer.len() > MAX_ANSWER => return Err(query::Failure::NotHttp),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered(answer: &'static [u8]) -> Result<Vec<u8>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let agent = listener.local_addr().expect("address");
        let thread = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("accept");
            let mut asked = [0; 1024];
            let n = client.read(&mut asked).expect("question");
            client.write_all(answer).expect("answer");
            String::from_utf8(asked[..n].to_vec()).expect("UTF-8")
        });
        let body = fetch_from(agent).map_err(|failure| match failure {
            Failure::Other(text) => text,
            other => panic!("{other:?}"),
        });
        let asked = thread.join().expect("server");
        assert!(asked.starts_with("GET /rules HTTP/1.1\r\n") && asked.contains("\r\nMetadata: true\r\n"), "{asked}");
        body
    }

    /// PX-61, PX-63
    #[test]
    fn px63_the_agents_answer_or_why_there_is_none() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").as_deref(), Ok(&b"{}"[..]));
        let refused = answered(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").expect_err("403");
        assert_eq!(refused, "the running agent tells its rules to root only");
        let earlier = answered(b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n").expect_err("421");
        assert!(earlier.contains("an earlier one"), "{earlier}");
        assert!(answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}").expect_err("cut").contains("closed before"));
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port");
        let Err(Failure::Other(nobody)) = fetch_from(unused) else { panic!("nobody is there") };
        assert_eq!(nobody, format!("no agent listens on {unused}"));
    }
}
