//! Against a scripted listener on loopback.

use super::*;
use std::net::TcpListener;
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
        answers
            .iter()
            .map(|answer| {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("read") == 1 {
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).expect("write");
                String::from_utf8(request).expect("text")
            })
            .collect()
    };
    (addr, std::thread::spawn(script))
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
        "GET /provision HTTP/1.1\r\nHost: {addr}\r\nMetadata: true\r\nx-ms-azure-time-tick: {}\r\nx-ms-azure-notify: true\r\nConnection: close\r\n\r\n",
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
fn one_tick_for_all_queries_and_the_notification_in_the_first_only() {
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
            "Failed to query the current provision state with error: the answer is not HTTP.",
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
fn answers_in_pieces_without_length_and_endless_ones() {
    for end in 1..ok(FINISHED).len() {
        assert!(complete(&ok(FINISHED).as_bytes()[..end], false).expect("a beginning").is_none(), "{end}");
    }
    let open_ended = format!("HTTP/1.0 200 OK\r\n\r\n{FINISHED}");
    assert!(complete(open_ended.as_bytes(), false).expect("a beginning").is_none());
    assert_eq!(complete(open_ended.as_bytes(), true).expect("complete"), Some(FINISHED.as_bytes()));
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
