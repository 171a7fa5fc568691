use super::{Cuts, Fixture, Input, play};
use crate::limits::Limits;

const TEXT: &str = r#"replay 1
# A comment.
core-only because
epoch Tue, 06 Jan 2026 08:15:30 GMT
policy p {"signer":"k1"}
claims bob
    {"userId":7,
    "userName":"bob\\xff"}
    .

0s     < accept 127.0.0.1:40112
0s     > identify
90us   < identified redirected imds bob
# Another.
1ms    < client
    GET /\x00\(50*a)\\ HTTP/1.1

    no end\
    .
1ms    > report normal request=1 method=GET url=/a b status=400 elapsed=0s decision=none epoch=0 user=- to=- details=a b c
1ms    > shutdown client close
2s     < reply unavailable
"#;

#[test]
fn text_round_trips() {
    let fixture: Fixture = TEXT.parse().unwrap();
    assert_eq!(fixture.to_string(), TEXT);
    assert_eq!(fixture.to_string().parse::<Fixture>().unwrap(), fixture);
    let Input::Bytes(_, bytes) = &fixture.steps[2].input else { panic!("{:?}", fixture.steps[2]) };
    assert!(bytes.starts_with(b"GET /\0aaaa") && bytes.ends_with(b"a\\ HTTP/1.1\r\n\r\nno end"));
}

#[test]
fn every_byte_has_a_text() {
    let all: Vec<u8> = (0..=255).chain(*b"\r\n.\r\n \r\n\r\r\n\n").collect();
    let mut fixture: Fixture = TEXT.parse().unwrap();
    fixture.steps[2].input = Input::Bytes(crate::effect::Side::Client, all);
    assert_eq!(fixture.to_string().parse::<Fixture>().unwrap(), fixture);
}

#[test]
fn errors_have_a_line() {
    for (text, line) in [
        ("", 0),
        ("replay 2\n", 1),
        ("replay 1\n", 1),
        ("replay 1\n0s < client\n", 2),
        ("replay 1\n0s < accept 127.0.0.1:1\n0s < client\nx\n", 4),
        ("replay 1\n0s < accept 127.0.0.1:1\n0s < identified redirected imds nobody\n", 3),
        ("replay 1\n0s < accept 127.0.0.1:1\n0s < client\n    \\(99999999999*a)\n    .\n", 5),
        ("replay 1\n9999999999999s < accept 127.0.0.1:1\n", 2),
        ("replay 1\npolicy p {\"signer\":\"k2\"}\n", 2),
    ] {
        assert_eq!(text.parse::<Fixture>().unwrap_err().line, line, "{text}");
    }
}

#[test]
fn damaged_text_never_panics() {
    for cut in 0..TEXT.len() {
        let _ = TEXT[..cut].parse::<Fixture>();
        for damage in ["\\", "\n", "(", "9"] {
            let text = format!("{}{damage}{}", &TEXT[..cut], &TEXT[cut + 1..]);
            if let Ok(fixture) = text.parse::<Fixture>() {
                let _ = play(&fixture, Limits::DEFAULT, Cuts::Whole);
            }
        }
    }
}
