//! The simulated host over loopback sockets, asked by a client that signs as the agent will.

#![allow(clippy::unwrap_used, reason = "a failed expectation is the report")]
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use azure_host_sim::faults::Failure;
use azure_host_sim::reply::pattern;
use azure_host_sim::server::exchange;
use azure_host_sim::signature::{self, AUTHORIZATION, CLAIMS, DATE, SCHEME};
use azure_host_sim::{Endpoint, Options, Server, date};
use serde_json::Value;

fn server() -> Server {
    Server::start(&Options::loopback()).unwrap()
}

struct Agent {
    guid: String,
    key: Vec<u8>,
}

impl Agent {
    /// A complete signed request.
    fn request(&self, now: i64, line: &str, extra: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let (method, target) = line.split_once(' ').unwrap();
        let (date, length) = (date::format(now), body.len().to_string());
        let mut fields = vec![("Host", "h"), ("Content-Length", &length), (CLAIMS, "{ \"isRoot\": \"true\"}"), (DATE, &date)];
        fields.extend_from_slice(extra);
        let bytes: Vec<signature::Field<'_>> = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        let mac = signature::sign(&self.key, method, &bytes, target.as_bytes(), body);
        let mut text = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in fields {
            write!(text, "{name}: {value}\r\n").unwrap();
        }
        write!(text, "{AUTHORIZATION}: {SCHEME} {} {mac}\r\n\r\n", self.guid).unwrap();
        text.extend_from_slice(body);
        text
    }

    /// Takes and attests a key (W-91, W-94).
    fn latch(server: &Server) -> Self {
        let body = "{\"authorizationScheme\": \"Azure-HMAC-SHA256\"}";
        let text = format!(
            "POST /secure-channel/key HTTP/1.1\r\nMetadata: True \r\nContent-Length: 44\r\nConnection: close\r\n\r\n{body}"
        );
        let key: Value = serde_json::from_str(&body_of(&ask(server, Endpoint::WireServer, text.as_bytes()))).unwrap();
        let agent = Self {
            guid: key["guid"].as_str().unwrap().to_owned(),
            key: signature::from_hex(key["key"].as_str().unwrap()).unwrap(),
        };
        let line = format!("POST /secure-channel/key/{}/key-attestation", agent.guid);
        let text = agent.request(server.host().now(), &line, &[("Metadata", "True"), ("Connection", "close")], b"");
        assert!(ask(server, Endpoint::WireServer, &text).starts_with("HTTP/1.1 200 "));
        agent
    }

    fn get(&self, server: &Server, line: &str) -> String {
        let text = self.request(server.host().now(), line, &[("Metadata", "true"), ("Connection", "close")], b"");
        ask(server, Endpoint::Imds, &text)
    }
}

fn ask(server: &Server, endpoint: Endpoint, request: &[u8]) -> String {
    String::from_utf8(exchange(server.address(endpoint), request).unwrap()).unwrap()
}

fn body_of(answer: &str) -> String {
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn key_life_cycle_and_a_signed_request() {
    let server = server();
    let agent = Agent::latch(&server);
    assert_eq!(server.host().status_document()["keyGuid"], agent.guid);
    assert!(agent.get(&server, "GET /metadata/instance?api-version=2021-02-01").contains("demo-vm"));
    let mut changed = agent.request(server.host().now(), "PUT /test/echo", &[("Connection", "close")], b"body");
    *changed.last_mut().unwrap() = b'Y';
    let refused = ask(&server, Endpoint::HostGAPlugin, &changed);
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("signature does not match"), "{refused}");
    let verified: Vec<String> = server.host().records.all().into_iter().map(|r| r.verified).collect();
    assert_eq!(verified, ["exempt", "signed", "signed", "refused:signature does not match"]);
}

#[test]
fn keys_survive_a_restart_of_the_host() {
    let directory = std::env::temp_dir().join(format!("azure-host-sim-test-{}", std::process::id()));
    let options = Options { state_dir: Some(directory.clone()), ..Options::loopback() };
    let first = Server::start(&options).unwrap();
    let agent = Agent::latch(&first);
    drop(first);
    let second = Server::start(&options).unwrap();
    assert_eq!(second.host().status_document()["keyGuid"], agent.guid);
    assert!(agent.get(&second, "GET /metadata/versions").starts_with("HTTP/1.1 200 "));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn chunked_bodies_are_verified_decoded() {
    let server = server();
    let agent = Agent::latch(&server);
    let date = date::format(server.host().now());
    let fields: [(&str, &str); 4] =
        [("Transfer-Encoding", "chunked"), (CLAIMS, "{ \"isRoot\": \"false\"}"), (DATE, &date), ("Connection", "close")];
    let bytes: Vec<signature::Field<'_>> = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
    let mac = signature::sign(&agent.key, "POST", &bytes, b"/test/echo", b"hello world");
    let lines: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let chunks = "5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nT: u\r\n\r\n";
    let text = format!("POST /test/echo HTTP/1.1\r\n{lines}{AUTHORIZATION}: {SCHEME} {} {mac}\r\n\r\n{chunks}", agent.guid);
    let echo: Value = serde_json::from_str(&body_of(&ask(&server, Endpoint::Imds, text.as_bytes()))).unwrap();
    assert_eq!(echo["bodyLength"], 11);
    assert_eq!(echo["bodySha256"], "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
}

#[test]
fn framings() {
    let server = Server::start(&Options { mode: azure_host_sim::Mode::Audit, ..Options::loopback() }).unwrap();
    let get =
        |what: &str| ask(&server, Endpoint::Imds, format!("GET /test/{what} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes());
    let text: String = (0..200_000).map(|at| pattern(at) as char).collect();
    assert_eq!(body_of(&get("bytes?n=200000")), text);
    assert_eq!(body_of(&get("close?n=200000")), text);
    assert_eq!(body_of(&get("chunked?n=5&chunk=3")), format!("3\r\n{}\r\n2\r\n{}\r\n0\r\n\r\n", &text[..3], &text[3..5]));
    assert!(get("chunked?n=5&chunk=3&ext=1&trailers=1").ends_with("\r\n0\r\nX-Trailer: 5\r\n\r\n"));
    let interim = get("informational");
    assert!(interim.starts_with("HTTP/1.1 100 ") && interim.contains("HTTP/1.1 103 ") && interim.contains("HTTP/1.1 200 "));
    assert_eq!(body_of(&get("204")), "");
    assert!(get("hugehead?n=70000").len() > 70_000);
    let head = ask(&server, Endpoint::Imds, b"HEAD /test/head HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(head.contains("Content-Length: 12345\r\n") && head.ends_with("\r\n\r\n"));
    let reset = exchange(server.address(Endpoint::Imds), b"GET /test/reset?after=0 HTTP/1.1\r\n\r\n");
    assert_eq!(reset.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let short = body_of(&get("truncated?n=10&says=20"));
    assert_eq!(short, &text[..10]);
}

#[test]
fn many_requests_on_one_connection_and_pipelined() {
    let server = server();
    let agent = Agent::latch(&server);
    let mut stream = TcpStream::connect(server.address(Endpoint::Imds)).unwrap();
    let one = agent.request(server.host().now(), "GET /test/bytes?n=10", &[], b"");
    stream.write_all(&one.repeat(50)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 50);
    let connections: std::collections::BTreeSet<u64> =
        server.host().records.all().iter().filter(|r| r.endpoint == "imds").map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let server = server();
    let stream = TcpStream::connect(server.address(Endpoint::HostGAPlugin)).unwrap();
    (&stream)
        .write_all(b"PUT /vmAgentLog HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    (&stream).write_all(b"log").unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200 OK"), "{rest}");
}

#[test]
fn faults_strike_as_often_as_told() {
    let server = server();
    server.host().fail("status", Failure::Status500, 1);
    let status = || {
        ask(&server, Endpoint::WireServer, b"GET /secure-channel/status HTTP/1.1\r\nMetadata: True \r\nConnection: close\r\n\r\n")
    };
    assert!(status().starts_with("HTTP/1.1 500 "));
    let good = status();
    assert!(good.starts_with("HTTP/1.1 200 ") && good.contains("x-ms-azure-host-date: "), "W-71: {good}");
}

/// The binary must not serve the platform's addresses on a network that others share.
#[test]
fn the_binary_refuses_a_shared_network_and_unknown_options() {
    for (arguments, why) in [(&["--imds", "192.0.2.1:80"][..], "refusing to start"), (&["--nonsense"], "unknown option")] {
        let out = Command::new(env!("CARGO_BIN_EXE_azure-host-sim")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn the_binary_says_ready_and_obeys_its_control_port() {
    let any = "127.0.0.1:0";
    let reserved = std::net::TcpListener::bind(any).unwrap().local_addr().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_azure-host-sim"))
        .args(["--imds", any, "--wireserver", any, "--hostga", any, "--control", &reserved.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let ask = |text: &str| String::from_utf8(exchange(reserved, text.as_bytes()).unwrap()).unwrap();
    assert!(ask("POST /mode?to=audit HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert!(ask("POST /mode?to=strict HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(ask("GET /status HTTP/1.1\r\n\r\n").contains("\"mode\":\"audit\""));
    assert!(ask("GET /requests HTTP/1.1\r\n\r\n").ends_with("[]"));
    child.kill().unwrap();
    child.wait().unwrap();
}
