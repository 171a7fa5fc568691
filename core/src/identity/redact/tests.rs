use super::*;

mod properties;

/// Text of `length` base64 characters.
fn base64(length: usize) -> String {
    "Ab3+/xYz".chars().cycle().take(length).collect()
}

fn check(cases: &[(&str, &str)]) {
    for (input, output) in cases {
        assert_eq!(redact(input), *output, "{input}");
    }
}

#[test]
fn examples_of_the_specification() {
    check(&[
        ("server=db;pwd=abc;user=x", "server=db;[REDACTED];user=x"),
        ("?sv=1&sig=abc%3D&se=2", "?sv=1&[REDACTED]&se=2"),
        ("AccountKey=abc;EndpointSuffix=x", "[REDACTED];EndpointSuffix=x"),
        ("token=abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst", "[REDACTED]"),
        ("client_secret=abcdefgh12345678", "[REDACTED]"),
        ("-H Authorization:Bearer abcdefgh", "-H [REDACTED]"),
        ("eyJabc.eyJdef.sig", "[REDACTED]def.sig"),
        ("nothing to see here", "nothing to see here"),
    ]);
}

/// I-34, with what I-49 adds: ordinary command lines come back as they are, without a copy.
#[test]
fn ordinary_text_is_not_touched() {
    for text in [
        "",
        "curl -s -H Metadata:true http://169.254.169.254/metadata/instance?api-version=2021-02-01",
        "/usr/bin/python3 -u /usr/sbin/waagent -run-exthandlers",
        "ssh -p 22 user@host",
        "psql -p 5432 -U x",
        "keyboard secretary tokenizer patience --passwordless",
        "cat /etc/ssh/ssh_host_rsa_key.pub",
        "http://host:80/a@b",
        "mysql -P 3306 -h pat",
        "\u{e9}\u{4e2d}key\u{1F511}token",
    ] {
        assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{text}: {}", redact(text));
    }
}

#[test]
fn i35_to_i38_assignments() {
    check(&[
        ("a;PWD=x y;b;Pwd=", "a;[REDACTED];b;[REDACTED]"),
        ("Password=x&y;b PASSWORD=z", "[REDACTED];b [REDACTED]"),
        ("accountkey=x", "accountkey=x"),
        ("PrimaryKey=a;SecondaryKey=b;c", "[REDACTED];[REDACTED];c"),
        ("sig=a;b&c&sig=&d", "[REDACTED]&c&[REDACTED]&d"),
        ("SIG=a", "SIG=a"),
        ("pwd=\u{4e2d};\u{e9}", "[REDACTED];\u{e9}"),
    ]);
}

#[test]
fn i39_cache_keys() {
    let (short, long) = ("a1B".repeat(11), "a1B2".repeat(11));
    check(&[
        (&format!("--id {short}AzCaBcdEf0=x"), "--id [REDACTED]x"),
        // Of two patterns that find it, the one that finds more counts: here I-42.
        (&format!("--key {short}AzCaBcdEf0=x"), "--[REDACTED]x"),
        (&format!("-{long}AzCaabcd5wx"), "-[REDACTED]x"),
        // Not in the range, too short in front, another last letter.
        (&format!("-{short}AzCaQcdEf0="), &format!("-{short}AzCaQcdEf0=")),
        (&format!("-{}AzCaBcdEf0=", &short[1..]), &format!("-{}AzCaBcdEf0=", &short[1..])),
        (&format!("-{long}AzCaabcd5B"), &format!("-{long}AzCaabcd5B")),
    ]);
}

#[test]
fn i40_private_keys() {
    check(&[
        (
            "x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- y -----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
            "x -----[REDACTED]----- y -----[REDACTED]-----",
        ),
        ("BEGIN CERTIFICATE----- PRIVATE KEY", "BEGIN CERTIFICATE----- PRIVATE KEY"),
        ("BEGIN EC PRIVATE KEY-----\nabc", "[REDACTED]"),
        ("BEGIN PRIVATE KEY-----a-----END CERTIFICATE-----b-----END PRIVATE KEY-----", "[REDACTED]-----"),
    ]);
}

#[test]
fn i41_access_tokens() {
    let value = "abcdefghijklmnopqrstuvwxyz234567ABCDEFGHIJKLMNOPQRST";
    assert_eq!(value.len(), 52);
    for word in ["token", "ADO", "vsts", "AzureDevOps", "PAT"] {
        for joint in ["=", " ", "_", "\u{4e2d}"] {
            assert_eq!(redact(&format!("a-{word}{joint}{value}-b")), "a-[REDACTED]-b");
        }
        let short = format!("{word}={}", &value[1..]);
        assert_eq!(redact(&short), short);
    }
}

#[test]
fn i42_and_i43_base64_keys() {
    for length in [43, 86] {
        let key = base64(length);
        for word in ["key", "ACCESS", "sas", "shared", "secret", "password", "pwd", "pswd", "Credential"] {
            assert_eq!(redact(&format!("x {word}, {key}=y")), "x [REDACTED]y", "{word} {length}");
        }
        let far = |gap: usize| format!("key{}:{key}=", "\u{e9}".repeat(gap));
        assert_eq!(redact(&far(200)), "[REDACTED]");
        assert_eq!(redact(&far(201)), far(201));
        assert_eq!(redact(&format!("key a:{key}= b:{key}= c")), "[REDACTED] c", "as far as the last value within reach");
        let [longer, plain] = [format!("key:{key}A="), format!("key:{key}")];
        check(&[(&longer, &longer), (&plain, &plain)]);
    }
}

#[test]
fn i44_cloud_secrets() {
    let value = base64(40);
    check(&[
        (&format!("AWS_SECRET_ACCESS_KEY={value}"), "[REDACTED]"),
        (&format!("x amazon secret = {value} y"), "x [REDACTED]y"),
        (&format!("\"access key\": \"{value}\", y"), "\"[REDACTED], y"),
        (&format!("access-token:{value};y"), "[REDACTED]y"),
        (&format!("secret{}:{value}\u{4e2d}", "-".repeat(10)), &format!("secret{}:{value}\u{4e2d}", "-".repeat(10))),
        (&format!("secret{}:{value}\u{2014}y", "-".repeat(10)), "[REDACTED]y"),
        (&format!("secret{}:{value}", "-".repeat(11)), &format!("secret{}:{value}", "-".repeat(11))),
        (&format!("secret:{value}_"), &format!("secret:{value}_")),
    ]);
}

#[test]
fn i45_client_secrets() {
    check(&[
        ("application-secret: abcdefgh&x", "[REDACTED]&x"),
        // None of these words is among those of the quick check, I-34: we try them nevertheless.
        ("x appSct=abcdefg\u{e9} y", "x [REDACTED] y"),
        ("x api_key=abcdefg\u{e9} y", "x [REDACTED] y"),
        ("{\"clientSecret\" : \"a b c\"}", "{\"[REDACTED]}"),
        ("client_secret 'abcde' x", "[REDACTED] x"),
        ("client_secret='abcd'", "client_secret='abcd'"),
        ("api key => abcdefgh", "[REDACTED]"),
        ("refresh_token=abcdefgh;x", "[REDACTED];x"),
        ("token account-sid:abcdefgh", "token [REDACTED]"),
        ("client_secret=abcdefg", "client_secret=abcdefg"),
        ("apikey abcdefghij", "apikey abcdefghij"),
        ("api_key=\"cut off here", "[REDACTED]"),
    ]);
}

#[test]
fn i46_json_web_tokens() {
    check(&[
        ("a.eyJx.eyJy.eyJz", "a.[REDACTED]y.eyJz"),
        ("-eyJ-_1.eyJ", "-[REDACTED]"),
        ("eyJabc.def", "eyJabc.def"),
        ("x.eyJabc", "x.eyJabc"),
    ]);
}

#[test]
fn i47_urls() {
    check(&[
        ("git clone https://user:p@ss@host.example/repo x", "git clone [REDACTED]/repo x"),
        ("'redis://:pw@[::1]:6379/0'", "'[REDACTED]:6379/0'"),
        ("postgres://u:p@db:5432", "[REDACTED]:5432"),
        ("https://user@host/ http://host/?a:b@c", "https://user@host/ http://host/?a:b@c"),
    ]);
}

#[test]
fn i48_authorization() {
    check(&[
        ("'Proxy-authorization: Basic YTpi' x\ny", "'Proxy-[REDACTED]\ny"),
        ("\"Authorization\": \"token abc\"\r\ny", "\"[REDACTED]\r\ny"),
        ("x-ms-azure-host-authorization: Azure-HMAC-SHA256 g s", "x-ms-azure-host-[REDACTED]"),
        ("AUTHORIZATION=AWS4-HMAC-SHA256 Credential=x", "[REDACTED]"),
        ("--authorization-mode=basic authorization: none", "--authorization-mode=basic authorization: none"),
    ]);
}

#[test]
fn i49_password_options() {
    check(&[
        ("mytool --password s3cret --verbose", "mytool [REDACTED] --verbose"),
        ("password: s3cret x", "[REDACTED] x"),
        ("{\"password\" : \"a\" }", "{\"[REDACTED] }"),
        ("a PASSWORD:x y", "a [REDACTED] y"),
        ("--password", "--password"),
        ("the password is lost", "the password is lost"),
        ("/usr/bin/mysql -u root -ps3cret db -p", "/usr/bin/mysql -u root [REDACTED] db -p"),
        ("mysqldump -pa -pb", "mysqldump [REDACTED] [REDACTED]"),
        ("mongosh -u x -p s3cret db", "mongosh -u x [REDACTED] db"),
        ("sqlcmd -P s3cret -pno", "sqlcmd [REDACTED] -pno"),
    ]);
}

/// I-17, I-18
#[test]
fn command_lines_i32_and_i33() {
    assert_eq!(&*command_line(None), "undefined");
    for empty in [&b""[..], b"\0", b"\0\0\0"] {
        assert_eq!(&*command_line(Some(empty)), "");
    }
    assert_eq!(&*command_line(Some(b"a\0\0b c\0d\xFF\0e\0f\0")), "a b c d\u{FFFD} e");
    // The words of a secret may be in two arguments.
    assert_eq!(&*command_line(Some(b"x\0--password\0y\0z")), "x [REDACTED] z");
    assert_eq!(&*command_line(Some(b"x\0-H\0Authorization: Bearer abc\0z")), "x -H [REDACTED]");
}

#[test]
fn long_command_lines_are_cut_after_redaction_i33a() {
    let text = command_line(Some("\u{4e2d}".repeat(400).as_bytes()));
    assert_eq!((text.len(), text.chars().count()), (1023, 341));
    let secret = format!("{}\0password={}\0\0x", "a".repeat(1010), "b".repeat(100));
    assert_eq!(&*command_line(Some(secret.as_bytes())), format!("{} [REDACTED]", "a".repeat(1010)));
    let huge = "b".repeat(1 << 20);
    assert_eq!(command_line(Some(huge.as_bytes())).len(), LIMIT);
}

/// What a caller could write to keep us busy. Quadratic work on any of these is seen at once.
#[test]
fn hostile_text_takes_linear_time() {
    let key = format!("{}=", base64(43));
    for piece in [
        "pwd=",
        "pwd=;",
        "password",
        "password ",
        "password:",
        "--password ",
        "sig=&",
        "AzCa",
        "aAzCaAbcdef=",
        "BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "BEGIN PRIVATE KEY-----",
        "-----END ",
        "-----END PRIVATE KEY",
        "token",
        "token=",
        "pat ",
        "key",
        "key:",
        "key =",
        &key,
        &format!("key{key}"),
        &format!("key {key}"),
        "secret",
        "secret:",
        "secret=a",
        "access key:",
        "client_secret",
        "client_secret=",
        "api_key='",
        "api_key ",
        "api key:\"\"",
        "eyJ",
        ".eyJ",
        "eyJ.",
        "eyJ.eyJ",
        "://",
        "a://b:c@",
        "a://:@d ",
        ":@",
        "authorization",
        "authorization: ",
        "authorization: basic\n",
        "mysql ",
        "mysql -pa ",
        " -p",
        "mongo -p ",
        "mongo -p a ",
        "\"",
        "'",
        " ",
        "=",
        "\u{e9}key",
        "\u{1F511}",
    ] {
        for hint in ["", "key token secret pwd= password sig= AzCa PRIVATE KEY eyJ :// authorization -p BEGIN PRIVATE KEY-----"] {
            let text = format!("{}{hint}", piece.repeat(RAW_LIMIT / 2 / piece.len()));
            let _ = redact(&text);
        }
    }
}

/// Whatever the text is, the result is text, and redacting it again finds nothing new to hide in the replacement itself.
#[test]
fn any_text_can_be_redacted() {
    const PIECES: [&str; 24] = [
        "pwd=",
        ";",
        "password",
        ":",
        " ",
        "=",
        "\u{e9}",
        "\u{4e2d}",
        "key",
        "secret",
        "client_",
        "\"",
        "eyJ",
        ".",
        "://",
        "@",
        "a",
        "authorization",
        "basic",
        "\n",
        "mysql",
        "-p",
        "access",
        "token",
    ];
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    for _ in 0..20_000 {
        let text: String = (0..next(16)).map(|_| PIECES[next(PIECES.len())]).collect();
        let redacted = redact(&text);
        assert!(redacted.len() <= text.len() * 3 + 10, "{text} -> {redacted}");
        assert!(!redacted.contains("pwd=") && !redacted.contains("password="), "{text} -> {redacted}");
    }
}
