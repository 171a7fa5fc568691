//! From the first question to a key in use (W-74 to W-99).

use super::*;
use TargetMode::{Audit, Enforce};

/// CLI-15c: the redirect is on, though there is no rule.
#[test]
fn version_1_latches_in_the_order_of_w96() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start_all();
    assert_eq!(
        rig.trace,
        [
            "remove ProvisionedTag",
            "remove StatusTag",
            "GET /secure-channel/status",
            "publish",
            "POST /secure-channel/key",
            "store",
            "load",
            &format!("POST /secure-channel/key/{GUID}/key-attestation"),
            "publish with key",
            // Settled (S-03): what an earlier agent's redirect brings is decided from now on.
            "publish with key",
            "redirect",
            "write ProvisionedTag",
            "write StatusTag",
        ]
    );
    assert!(rig.policy.settled);
    assert_eq!(rig.guid_in_use(), Some(GUID));
    assert_eq!(rig.redirects, [targets(Audit, Enforce)]);
    assert!(rig.policy.rules.imds.is_none() && rig.policy.rules.wireserver.is_none(), "W-43");
}

#[test]
fn version_2_latches_with_rules() {
    let mut rig = Rig::new(v2(Some(OTHER_GUID), RULES));
    rig.start_all();
    assert_eq!(rig.trace[3..6], ["publish", "publish", "load"], "clock, rules, then the local key that is not there");
    assert_eq!(rig.guid_in_use(), Some(GUID));
    assert_eq!(rig.redirects, [targets(Audit, Enforce)]);
    let modes =
        [&rig.policy.rules.imds, &rig.policy.rules.wireserver, &rig.policy.rules.hostga].map(|r| r.as_ref().unwrap().mode());
    assert_eq!(modes, [Mode::Audit, Mode::Enforce, Mode::Enforce], "W-41");
    let states = &rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"];
    assert_eq!(states["secureChannelState"], "WireServer Enforce -  IMDS Audit - HostGA Enforce");
    assert_eq!(states["hostGARuleId"], "ws-rules-4");
    assert_eq!(states["keyGuid"], GUID);
    assert_eq!(states["keyIncarnationId"], "3");
}

/// W-05, W-14, W-18
#[test]
fn attestation_is_vector_sig_22() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../../testdata/vectors/signature.json")).unwrap();
    let vector = vectors["vectors"].as_array().unwrap().iter().find(|v| v["id"] == "SIG-22").unwrap();
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start();
    let attest = rig.calls.last().unwrap();
    assert_eq!((attest.method(), attest.target()), ("POST", vector["target"].as_str().unwrap()));
    let mut expected = format!("POST {} HTTP/1.1\r\n", attest.target());
    for field in vector["headers"].as_array().unwrap() {
        expected.push_str(&format!("{}: {}\r\n", field[0].as_str().unwrap(), field[1].as_str().unwrap()));
    }
    expected.push_str(&format!("x-ms-azure-host-authorization: {}\r\n\r\n", vector["authorization_header"].as_str().unwrap()));
    assert_eq!(String::from_utf8_lossy(attest.head()), expected);
}

/// W-05, W-14
#[test]
fn calls_are_w16_and_w17() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start();
    let [status, key, _] = &rig.calls[..] else { panic!("{:?}", rig.calls) };
    let head = |c: &HostRequest| String::from_utf8_lossy(c.head()).to_ascii_lowercase();
    for call in [status, key] {
        assert_eq!(call.destination(), Destination::WireServer);
        assert!(!head(call).contains("authorization:"), "never signed");
        assert!(head(call).contains("\r\nmetadata: true \r\n"), "W-12");
    }
    assert!(head(status).contains("\r\ncontent-length: 0\r\n"), "W-11");
    assert!(head(key).contains("\r\ncontent-type: application/json\r\n"));
    assert_eq!(key.body(), br#"{"authorizationScheme": "Azure-HMAC-SHA256"}"#);
    assert_eq!(key.body().len(), 44);
}

#[test]
fn a_key_on_disk_is_used_without_asking_w90() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.disk.insert(GUID.to_owned(), key_document(GUID, KEY).into_bytes());
    rig.start_all();
    assert_eq!((rig.guid_in_use(), rig.calls.len()), (Some(GUID), 1));
    assert_eq!(rig.key_message(), "Found key details from local and ready to use. - 0");
}

/// SEC-E5: also when it is an older key of this machine.
#[test]
fn a_key_file_under_a_wrong_name_counts_as_missing_w99() {
    for content in [key_document(OTHER_GUID, OTHER_KEY), key_document(GUID, "xyz"), String::new()] {
        let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
        rig.disk.insert(GUID.to_owned(), content.into_bytes());
        rig.start_all();
        assert_eq!(rig.guid_in_use(), Some(GUID));
        assert_eq!(rig.calls.len(), 3, "a new key was requested and attested");
        assert!(rig.notices.iter().any(|n| n.starts_with(&format!("Failed to check the key '{GUID}' details saved locally: "))));
    }
}

/// What spoils the rig, and the beginning of the message.
type Failure = (fn(&mut Rig), &'static str);

/// Everything that can go wrong.
fn failures() -> Vec<Failure> {
    vec![
        (|r| r.host.status = Err(FetchError::Connect(ConnectError::Refused)), "Failed to get key status - connection refused"),
        (|r| r.host.status = Err(FetchError::TimedOut), "Failed to get key status - no complete response in time"),
        (|r| r.host.status = Ok((503, String::new())), "Failed to get key status - the host answered 503"),
        (|r| r.host.status = Ok((200, "{}".to_owned())), "Failed to get key status - not a status document: missing field"),
        (|r| r.host.status = Ok((200, v1("Audit", None))), "Failed to get key status - secureChannelState is not"),
        (|r| r.host.key = Ok((201, key_document(GUID, KEY))), "Failed to acquire key details: the host answered 201"),
        (|r| r.host.key = Err(FetchError::Reset), "Failed to acquire key details: connection reset"),
        (|r| r.host.key = Ok((200, key_document("../x", KEY))), "Failed to acquire key details: malformed guid"),
        (|r| r.host.key = Ok((200, key_document(GUID, "0g"))), "Failed to acquire key details: the key is not hex text"),
        (|r| r.disk_error = Some("no space left"), "Failed to save key details to file: no space left"),
        (
            |r| r.misread = Some(key_document(GUID, OTHER_KEY)),
            "Failed to check the key '7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11' details saved locally: the file holds another key",
        ),
        (
            |r| r.misread = Some(String::new()),
            "Failed to check the key '7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11' details saved locally: ",
        ),
        (|r| r.host.attest = Ok((403, String::new())), "Failed to attest the key: the host answered 403"),
        (|r| r.host.attest = Ok((204, String::new())), "Failed to attest the key: the host answered 204"),
    ]
}

#[test]
fn any_failure_uses_nothing_and_is_tried_again() {
    for (spoil, message) in failures() {
        let mut rig = Rig::new(v1("Wireserver", None));
        spoil(&mut rig);
        rig.start_all();
        assert!(rig.policy.signer.is_none(), "{message}");
        let shown = rig.key_message();
        assert!(shown.starts_with(message), "{shown}");
        assert!(!rig.provision(0, false).0, "{message}");
        let said = rig.notices.iter().filter(|n| n.starts_with(message)).count();
        rig.secs(31);
        assert_eq!(rig.notices.iter().filter(|n| n.starts_with(message)).count(), said, "W-83: each different message once");

        let fresh = Rig::new(v1("Wireserver", None));
        (rig.host, rig.disk_error, rig.misread) = (fresh.host, None, None);
        rig.secs(15);
        assert_eq!(rig.guid_in_use(), Some(GUID), "{message}");
        assert!(rig.key_message().starts_with("Successfully attest the key and ready to use. - "), "{message}");
    }
}

#[test]
fn no_attestation_without_a_stored_key_w96() {
    for (spoil, message) in failures().into_iter().filter(|(_, m)| !m.starts_with("Failed to attest")) {
        let mut rig = Rig::new(v1("Wireserver", None));
        spoil(&mut rig);
        rig.start_all();
        assert!(!rig.trace.iter().any(|t| t.ends_with("key-attestation")), "{message}");
    }
}

#[test]
fn a_wrong_status_changes_nothing_w38() {
    for (spoil, message) in failures().into_iter().filter(|(_, m)| m.starts_with("Failed to get key status")) {
        let mut rig = Rig::new(v2(Some(GUID), RULES));
        rig.start_all();
        rig.secs(15);
        let (policy, wanted, states) = (
            Arc::clone(&rig.policy),
            *rig.redirects.last().unwrap(),
            rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"].clone(),
        );
        spoil(&mut rig);
        rig.secs(60);
        assert!(Arc::ptr_eq(&policy, &rig.policy), "{message}: nothing was published");
        assert_eq!(rig.redirects.last(), Some(&wanted));
        assert_eq!(rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"], states);
        assert!(rig.key_message().starts_with(message));

        rig.host.status = Ok((200, v2(Some(GUID), RULES)));
        rig.secs(15);
        assert!(rig.key_message().starts_with("Successfully attest the key"), "the message recovers");
        assert!(Arc::ptr_eq(&policy, &rig.policy));
    }
}

#[test]
fn vtpm_gives_no_key_and_says_so_w36() {
    let mut rig = Rig::new(v1("Wireserver", None).replace("\"http\"", "\"vtpm\""));
    rig.start_all();
    assert_eq!((rig.guid_in_use(), rig.calls.len()), (None, 1));
    assert!(rig.key_message().starts_with("Failed to acquire key details: the host delivers keys by vtpm"));
}

#[test]
fn nothing_secret_crosses_the_seam_in_text_sec08() {
    let mut rig = Rig::new(v2(Some(GUID), RULES));
    rig.start_all();
    for (spoil, _) in failures() {
        spoil(&mut rig);
        rig.host.key = Ok((200, key_document(OTHER_GUID, OTHER_KEY).replace("\"issued\"", "\"x\"")));
        rig.secs(15);
        rig.status();
        rig.provision(i128::MAX, true);
    }
    let signature = String::from_utf8_lossy(rig.calls[2].head()).rsplit(' ').next().unwrap().trim().to_owned();
    assert_eq!(signature.len(), 64);
    let seen = [
        &rig.log,
        &format!("{:?}", rig.agent),
        &rig.notices.join("\n"),
        &format!("{:?}", rig.replies),
        &format!("{:?}", rig.files),
    ]
    .map(|s| s.to_ascii_lowercase())
    .concat();
    for secret in [KEY, OTHER_KEY, &signature, "hmac-sha256 7f9c"] {
        assert!(!seen.contains(&secret.to_ascii_lowercase()), "{secret}");
    }
}

#[test]
fn an_answer_to_another_call_is_ignored() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.agent.handle_start(rig.now);
    let fetch = core::iter::from_fn(|| rig.agent.poll_effect()).find_map(|e| match e {
        AgentEffect::Fetch { id, .. } => Some(id),
        _ => None,
    });
    let id = fetch.expect("the first iteration begins at once");
    assert!(core::iter::from_fn(|| rig.agent.poll_effect()).all(|e| matches!(e, AgentEffect::Status { .. })));
    let stale = AgentAnswer::Fetched { id: FetchId(id.0 + 1), result: Err(FetchError::Reset) };
    rig.agent.handle_answer(rig.now, stale);
    rig.agent.handle_answer(rig.now, AgentAnswer::KeyStored { id: StoreId(id.0), result: Ok(()) });
    rig.agent.handle_answer(rig.now, AgentAnswer::KeyLoaded { id: StoreId(id.0), result: Ok(None) });
    assert!(rig.agent.poll_effect().is_none());
    rig.agent.handle_answer(rig.now, AgentAnswer::Fetched { id, result: Err(FetchError::Reset) });
    assert!(matches!(rig.agent.poll_effect(), Some(AgentEffect::Notice { .. })));
}
