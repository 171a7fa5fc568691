//! Against a scripted listener on loopback.

use super::query::{MAX_ANSWER, Whole, complete};
use super::*;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

const FINISHED: &str = r#"{"finished":true,"errorMessage":""}"#;
const PENDING: &str = r#"{"finished":false,"errorMessage":"keyLatchStatus - Status unknown.\r\n"}"#;

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers one connection after the other, each with one text; gives back the requests.
fn listener(answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    let script = move || {
        let one = |answer: &String| {
            let (mut stream, _) = listener.accept().expect("accept");
            answered(&mut stream, answer).expect("a question")
        };
        answers.iter().map(one).collect()
    };
    (addr, std::thread::spawn(script))
}

/// Reads one request and answers it; `None` if the other side is done.
fn answered(stream: &mut TcpStream, answer: &str) -> Option<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).expect("read") == 0 {
            assert!(request.is_empty(), "half a request");
            return None;
        }
        request.push(byte[0]);
    }
    stream.write_all(answer.as_bytes()).expect("write");
    Some(String::from_utf8(request).expect("text"))
}

fn client(agent: SocketAddr, wait: Duration) -> StatusClient {
    StatusClient { pause: Duration::from_millis(1), ..StatusClient::new(wait, Instant::now()).at(agent) }
}

/// Exit status, standard output, standard error.
fn run(client: &StatusClient) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = client.run(&mut out, &mut err);
    (status, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

/// Long enough never to be reached.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn cli16_finished_is_0_and_silent() {
    let (addr, requests) = listener(vec![ok(FINISHED)]);
    let client = client(addr, Duration::ZERO);
    assert_eq!(run(&client), (0, String::new(), String::new()));
    let expected = format!(
        "GET /provision HTTP/1.1\r\nHost: {addr}\r\nMetadata: true\r\nx-ms-azure-time-tick: {}\r\nx-ms-azure-notify: true\r\n\r\n",
        client.tick
    );
    assert_eq!(requests.join().expect("script"), [expected]);
    assert!(client.tick > 1_700_000_000_000_000_000, "wall-clock nanoseconds");
}

#[test]
fn cli18_finished_with_errors_is_2_and_prints_the_message() {
    let (addr, requests) = listener(vec![ok(r#"{"finished":true,"errorMessage":"keyLatchStatus - bad\r\n"}"#)]);
    assert_eq!(run(&client(addr, LONG)), (2, "keyLatchStatus - bad\r\n\n".into(), String::new()));
    requests.join().expect("script");
}

#[test]
fn cli24_one_tick_for_all_queries_and_the_notification_in_the_first_only() {
    let (addr, requests) = listener(vec![ok(PENDING), ok(PENDING), ok(FINISHED)]);
    let client = client(addr, LONG);
    assert_eq!(run(&client).0, 0);
    let requests = requests.join().expect("script");
    let tick = format!("x-ms-azure-time-tick: {}\r\n", client.tick);
    assert!(requests.iter().all(|r| r.contains(&tick)));
    let notified: Vec<bool> = requests.iter().map(|r| r.contains("x-ms-azure-notify: true\r\n")).collect();
    assert_eq!(notified, [true, false, false]);
}

#[test]
fn cli21_the_notification_is_repeated_until_a_query_is_answered() {
    let refused = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (addr, requests) = listener(vec![String::new(), refused, ok("{}"), ok(PENDING), ok(FINISHED)]);
    let (status, _, err) = run(&client(addr, LONG));
    assert_eq!(status, 0);
    assert_eq!(
        err.lines().collect::<Vec<_>>(),
        [
            "Failed to query the current provision state with error: the connection was closed before the answer was complete.",
            "Failed to query the current provision state with error: the answer is status 503.",
            "Failed to query the current provision state with error: the answer is not the expected JSON."
        ]
    );
    let notified: Vec<bool> = requests.join().expect("script").iter().map(|r| r.contains("x-ms-azure-notify")).collect();
    assert_eq!(notified, [true, true, true, true, false]);
}

#[test]
fn cli17_cli19_nobody_listens_is_1_and_one_line_however_many_queries() {
    let addr = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr");
    let line = "Failed to query the current provision state with error: Connection refused (os error 111).\n";
    assert_eq!(run(&client(addr, Duration::from_millis(30))), (1, String::new(), line.into()));
}

#[test]
fn cli20_a_wait_of_0_is_exactly_one_query() {
    let (addr, requests) = listener(vec![ok(PENDING)]);
    assert_eq!(run(&client(addr, Duration::ZERO)), (1, String::new(), String::new()));
    assert_eq!(requests.join().expect("script").len(), 1);
}

#[test]
fn cli22_a_listener_that_never_answers_does_not_hang_us() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = silent.local_addr().expect("addr");
    let hurried = StatusClient { grace: Duration::from_millis(40), ..client(addr, Duration::ZERO) };
    let (status, _, err) = run(&hurried);
    assert_eq!((status, err.as_str()), (1, "Failed to query the current provision state with error: no answer in time.\n"));

    // The limit of one query is below what is left of the wait.
    let hurried = StatusClient { query_limit: Duration::from_millis(10), ..client(addr, Duration::from_millis(30)) };
    assert_eq!(run(&hurried).0, 1);
    assert!(hurried.started.elapsed() < Duration::from_secs(1));
}

#[test]
fn cli16_all_questions_go_over_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        // What the agent says of its own accord changes nothing.
        let told = ok(PENDING).replacen("\r\n", "\r\nConnection: Keep-Alive\r\n", 1);
        let questions =
            [ok(PENDING), told, ok(PENDING), ok(FINISHED)].iter().filter(|a| answered(&mut stream, a).is_some()).count();
        (questions, answered(&mut stream, ""))
    });
    assert_eq!(run(&client(addr, LONG)), (0, String::new(), String::new()));
    assert_eq!(answering.join().expect("script"), (4, None));
}

#[test]
fn cli19_an_agent_that_is_started_again_in_the_middle_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("addr");
    let (refused, wait_for_refused) = std::sync::mpsc::channel();
    let restarting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        answered(&mut stream, &ok(PENDING)).expect("a question");
        // Nobody listens first: the question that finds its connection closed must not find a listener that is about to go.
        drop(listener);
        drop(stream);
        wait_for_refused.recv().expect("it goes on asking");
        let again = TcpListener::bind(addr).expect("the port is free");
        let (mut stream, _) = again.accept().expect("accept");
        answered(&mut stream, &ok(PENDING)).expect("a question");
        // This time it is only the connection that ends: nothing to tell.
        drop(stream);
        let (mut stream, _) = again.accept().expect("accept");
        answered(&mut stream, &ok(FINISHED)).expect("a question")
    });
    /// Standard error that says when something arrives.
    struct Told(Vec<u8>, std::sync::mpsc::Sender<()>);
    impl Write for Told {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            let _ = self.1.send(());
            self.0.write(text)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (mut out, mut err) = (Vec::new(), Told(Vec::new(), refused));
    assert_eq!(client(addr, LONG).run(&mut out, &mut err), 0);
    let told = "Failed to query the current provision state with error: Connection refused (os error 111).\n";
    assert_eq!((out.as_slice(), String::from_utf8_lossy(&err.0).as_ref()), (&b""[..], told));
    assert!(!restarting.join().expect("script").contains("x-ms-azure-notify"), "one query was answered (CLI-21)");
}

#[test]
fn answers_in_pieces_without_length_and_endless_ones() {
    for end in 1..ok(FINISHED).len() {
        assert!(complete(&ok(FINISHED).as_bytes()[..end], false).expect("a beginning").is_none(), "{end}");
    }
    let whole = |answer: &str, ended| {
        let whole = complete(answer.as_bytes(), ended).expect("an answer");
        whole.map(|Whole { body, persists }| (body == FINISHED.as_bytes(), persists))
    };
    assert_eq!(whole(&ok(FINISHED), false), Some((true, true)));
    assert_eq!(whole(&ok(FINISHED).replace("HTTP/1.1", "HTTP/1.0"), false), Some((true, false)));
    assert_eq!(whole(&ok(FINISHED).replacen("\r\n", "\r\nConnection: close\r\n", 1), false), Some((true, false)));
    assert_eq!(whole(&(ok(FINISHED) + "HTTP"), false), Some((true, false)), "what follows belongs to no question");
    let open_ended = format!("HTTP/1.0 200 OK\r\n\r\n{FINISHED}");
    assert_eq!(whole(&open_ended, false), None);
    assert_eq!(whole(&open_ended, true), Some((true, false)));
    let (addr, _requests) =
        listener(vec![format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", " ".repeat(MAX_ANSWER))]);
    let (status, _, err) = run(&client(addr, Duration::ZERO));
    assert_eq!((status, err.lines().count()), (1, 1));
}

#[test]
fn a_wait_beyond_all_clocks_is_a_long_wait() {
    let (addr, requests) = listener(vec![ok(FINISHED)]);
    assert_eq!(run(&client(addr, Duration::from_secs(u64::MAX))).0, 0);
    requests.join().expect("script");
}
