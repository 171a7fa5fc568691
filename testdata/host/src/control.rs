//! The control port: the host's behaviour changed over loopback HTTP while it runs. No rules, no signatures; it is the
//! tester's, not the machine's.

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::date;
use crate::documents::Target;
use crate::faults::Failure;
use crate::host::Host;
use crate::http::{Head, Incoming, read_body};
use crate::record::Record;
use crate::reply::{After, Reply, Shape, send};

/// Listens on a loopback address and serves in the background, one request at a time, until the process ends.
///
/// # Errors
/// An address that is not loopback, or cannot be bound.
pub fn start(address: SocketAddr, host: Arc<Host>) -> io::Result<SocketAddr> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not a loopback address")));
    }
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    std::thread::Builder::new().name("sim-control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(&host, &stream);
        }
    })?;
    Ok(bound)
}

fn serve(host: &Host, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut head = Head::default();
    let mut body = Vec::new();
    let reply = match (head.read(&mut reader)?, head.framing()) {
        (Incoming::Request, Ok(framing)) => {
            read_body(&mut reader, framing, |piece| body.extend_from_slice(piece))?;
            let answered = command(host, head.method(), &Target::parse(head.target()), &body);
            answered.map_or_else(|e| Reply::json(400, &json!({"error": e})), |value| Reply::json(200, &value))
        }
        (Incoming::End, _) => return Ok(()),
        _ => Reply::json(400, &json!({"error": "bad request"})),
    };
    let shape = Shape { head: false, http10: head.http10, keep_alive: false };
    send(stream, &mut Vec::new(), &reply.then(After::Close), shape, &date::format(host.now())).map(drop)
}

/// Carries out one command of the control port.
///
/// # Errors
/// A sentence about what cannot be done.
pub fn command(host: &Host, method: &str, target: &Target, body: &[u8]) -> Result<Value, String> {
    let done = Ok(json!({"done": true}));
    let number = |name: &str| -> Result<i64, String> {
        let text = target.get(name).ok_or_else(|| format!("parameter {name} is missing"))?;
        text.parse().map_err(|_| format!("{name}={text} is not a number"))
    };
    let positive = |name: &str| u64::try_from(number(name)?).map_err(|_| format!("{name} must not be negative"));
    match (method, target.path.as_str()) {
        ("GET", "/requests") => Ok(host.records.all().iter().map(Record::to_json).collect()),
        ("DELETE", "/requests") => {
            host.records.clear();
            done
        }
        ("GET", "/keys") => Ok(host.keys(|k| k.to_json())),
        ("GET", "/status") => Ok(host.status_document()),
        ("POST", "/mode") => {
            host.set_mode(target.get("to").ok_or("parameter to is missing")?.parse()?);
            done
        }
        ("POST", "/rules") => {
            let rules =
                if body.trim_ascii().is_empty() { None } else { Some(serde_json::from_slice(body).map_err(|e| e.to_string())?) };
            host.set_rules(rules);
            done
        }
        ("POST", "/rotate") => {
            let guid = match target.get("to") {
                Some("none") => host.keys(|k| k.unlatch()).map(|()| None),
                _ => host.rotate().map(Some),
            };
            let guid = guid.map_err(|e| e.to_string())?;
            if target.number("revoke", 0) != 0 {
                host.keys(|k| k.revoke_previous()).map_err(|e| e.to_string())?;
            }
            Ok(json!({"keyGuid": guid}))
        }
        ("POST", "/skew") => {
            host.set_skew(number("seconds")?);
            done
        }
        ("POST", "/delay") => {
            host.faults.delay(target.get("what").unwrap_or("all"), Duration::from_millis(positive("ms")?));
            done
        }
        ("POST", "/fail") => {
            let how: Failure = target.get("how").unwrap_or("500").parse()?;
            host.fail(target.get("what").unwrap_or("status"), how, positive("count")?);
            done
        }
        _ => Err(format!("no command {method} {}", target.path)),
    }
}
