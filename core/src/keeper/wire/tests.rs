use super::*;

const V2: &str = r#"{
  "authorizationScheme": "Azure-HMAC-SHA256",
  "keyDeliveryMethod": "http",
  "keyGuid": "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11",
  "keyIncarnationId": 3,
  "requiredClaimsHeaderPairs": ["isRoot"],
  "secureChannelEnabled": true,
  "version": "2.0",
  "authorizationRules": {
    "imds":       {"defaultAccess": "allow", "mode": "audit",   "id": "imds-rules-17"},
    "wireserver": {"defaultAccess": "deny",  "mode": "enforce", "id": "ws-rules-4"},
    "hostga":     {"defaultAccess": "deny",  "mode": "disabled", "id": "hostga-1"}
  }
}"#;

const V1: &str = r#"{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"http","keyGuid":null,
 "requiredClaimsHeaderPairs":null,"secureChannelState":"Wireserver","version":"1.0"}"#;

use TargetMode::{Audit, Enforce, Off};

const fn targets(imds: TargetMode, wireserver: TargetMode) -> PerDestination<TargetMode> {
    PerDestination { imds, wireserver, hostga: wireserver }
}

fn read(base: &str, from: &str, to: &str) -> Result<HostStatus, Rejected> {
    assert!(base.contains(from), "{from}");
    HostStatus::from_json(&base.replacen(from, to, 1))
}

/// W-25, W-27, W-28, W-32
#[test]
fn the_examples_of_section_2_1() {
    let v2 = HostStatus::from_json(V2).unwrap();
    assert_eq!(v2.state.to_string(), "WireServer Enforce -  IMDS Audit - HostGA Enforce");
    assert_eq!(v2.key.as_ref().map(KeyGuid::as_str), Some("7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11"));
    assert_eq!((v2.incarnation, v2.delivery), (Some(3), Delivery::Http));
    assert_eq!(v2.targets, targets(Audit, Enforce));
    assert_eq!(v2.documents.hostga, v2.documents.wireserver, "W-41");
    assert_eq!(Destination::ALL.map(|d| v2.rule_id(d)), ["imds-rules-17", "ws-rules-4", "ws-rules-4"]);

    let v1 = HostStatus::from_json(V1).unwrap();
    assert_eq!((v1.state.to_string().as_str(), v1.key, v1.targets), ("wireserver", None, targets(Audit, Enforce)));
    assert_eq!(v1.documents, PerDestination::default(), "W-43");
}

/// W-24, W-25, S-29, S-33
#[test]
fn rejected_by_w33_to_w37_and_w51() {
    for (base, from, to, why) in [
        (V1, r#""secureChannelState":"Wireserver","#, "", Rejected::NoState),
        (V1, r#""Wireserver""#, "null", Rejected::NoState),
        (V1, "Wireserver", "Audit", Rejected::State),
        (V1, "Wireserver", "Wireserver ", Rejected::State),
        (V2, r#""version""#, r#""secureChannelState": "on", "version""#, Rejected::State),
        (V1, r#""secureChannelState":"Wireserver""#, r#""secureChannelEnabled":true"#, Rejected::NoStateOfVersion),
        (V2, r#""secureChannelEnabled": true"#, r#""secureChannelState": "Wireserver""#, Rejected::NoStateOfVersion),
        (V2, r#""version": "2.0""#, r#""version": "3.0""#, Rejected::NoStateOfVersion),
        (V1, "Azure-HMAC-SHA256", "Azure-HMAC-SHA512", Rejected::Scheme),
        (V1, r#""http""#, r#""https""#, Rejected::Delivery),
        (V2, "7f9c2ba4", "../../etc/7f9c2ba4", Rejected::Guid),
        (V2, "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11", "", Rejected::Guid),
    ] {
        assert_eq!(read(base, from, to), Err(why), "{from} -> {to}");
    }
}

/// W-24 to W-26, W-28, W-29, W-31, W-32
#[test]
fn wrong_shapes_are_unusable() {
    for (base, from, to) in [
        (V1, r#""version":"1.0""#, r#""ver":"1.0""#),
        (V1, r#""authorizationScheme":"Azure-HMAC-SHA256","#, ""),
        (V1, r#""keyDeliveryMethod":"http","#, ""),
        (V2, "3,", "4294967296,"),
        (V2, "3,", "-1,"),
        (V2, "3,", "3.0,"),
        (V2, "true", "\"true\""),
        (V2, r#"["isRoot"]"#, r#""isRoot""#),
        (V2, r#""hostga":     {"defaultAccess": "deny","#, r#""hostga":     {"#),
        (V2, r#""version": "2.0","#, r#""version": "2.0", "version": "2.0","#),
        (V2, r#""authorizationRules": {"#, r#""authorizationRules": [], "x": {"#),
        (V2, "{\n", "[{"),
        (V1, "}", ""),
    ] {
        assert!(matches!(read(base, from, to), Err(Rejected::Shape(_))), "{from} -> {to}");
    }
    for text in ["", "null", "[]", "<status/>", r#"["Azure-HMAC-SHA256","http","2.0",null,null,null,null,true,null]"#] {
        assert!(matches!(HostStatus::from_json(text), Err(Rejected::Shape(_))), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(read(V2, r#"["isRoot"]"#, &deep), Err(Rejected::Shape(_))), "SEC-D4");
    assert!(read(V2, r#""version""#, r#""news": {"a": [1]}, "version""#).is_ok(), "unknown members are ignored");
}

#[test]
fn vtpm_is_accepted_and_gives_no_key_w36() {
    assert_eq!(read(V1, r#""http""#, r#""vtpm""#).unwrap().delivery, Delivery::Vtpm);
}

/// W-26, W-30
#[test]
fn version_1_states_w39_w40() {
    for (word, text, wanted) in [
        ("Disabled", "disabled", targets(Off, Off)),
        ("WIRESERVER", "wireserver", targets(Audit, Enforce)),
        ("wireserverandIMDS", "wireserverandimds", targets(Enforce, Enforce)),
    ] {
        let status = read(V1, "Wireserver", word).unwrap();
        assert_eq!((status.state.to_string().as_str(), status.targets), (text, wanted));
    }
    let other = read(V1, r#""1.0""#, r#""7""#).unwrap();
    assert_eq!(other.state, ChannelState::WireServer, "W-37");
}

/// W-31, S-30
#[test]
fn version_2_modes_w40_and_w44() {
    let status = read(V2, r#""enforce""#, r#""ENFORCE""#).unwrap();
    assert_eq!(status.targets, targets(Audit, Enforce), "letter case");

    let off = read(V2, "true", "false").unwrap();
    assert_eq!((off.state, off.targets, off.documents), (ChannelState::Disabled, targets(Off, Off), PerDestination::default()));

    let without = read(V2, r#""authorizationRules": {"#, r#""authorizationRules": null, "x": {"#).unwrap();
    assert_eq!(without.state, ChannelState::Disabled);

    let empty = read(V2, r#""authorizationRules": {"#, r#""authorizationRules": {}, "x": {"#).unwrap();
    assert_eq!(empty.state.to_string(), "WireServer Disabled -  IMDS Disabled - HostGA Disabled");
    assert!(empty.state.is_latched(), "enabled: a key is wanted although nothing is redirected");
    assert_eq!(empty.targets, targets(Off, Off));
}

#[test]
fn an_unknown_mode_is_redirected_and_prints_disabled_r12() {
    let status = read(V2, r#""enforce""#, r#""inform""#).unwrap();
    assert_eq!(status.state.to_string(), "WireServer Disabled -  IMDS Audit - HostGA Disabled");
    assert_eq!(status.targets, targets(Audit, Audit));
}
