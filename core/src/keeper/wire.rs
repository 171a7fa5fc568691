//! The status document (wire.md section 2): its shape, what of it is accepted, and what it means.
//!
//! Texts become closed sets here, once (S-23); whoever reads a [`HostStatus`] cannot meet a word that it does not know.

use super::object::Object;
use crate::authz::{Document, Mode};
use crate::identity::{Destination, PerDestination, TargetMode};
use crate::sign::{self, KeyGuid};
use core::fmt;
use serde::Deserialize;
use std::sync::Arc;

/// A status that may be acted upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostStatus {
    /// How keys are handed out.
    pub(crate) delivery: Delivery,
    /// The key that the host expects (W-27).
    pub(crate) key: Option<KeyGuid>,
    /// W-28; shown, never evaluated.
    pub(crate) incarnation: Option<u32>,
    /// W-39.
    pub(crate) state: ChannelState,
    /// What is redirected (W-40, W-84).
    pub(crate) targets: PerDestination<TargetMode>,
    /// Whose rules apply where: the host plug-in has the WireServer's (W-41), nobody has any in a disabled channel (W-44).
    pub(crate) documents: PerDestination<Option<Arc<Document>>>,
}

/// W-25.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// By the calls of W-17 and W-18.
    Http,
    /// Not defined: no key can be acquired (W-36).
    Vtpm,
}

/// The state of the secure channel. Its text is W-39.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelState {
    /// No good status yet, or none since the last fresh question (W-87).
    Unknown,
    /// Nobody wants anything of us.
    Disabled,
    /// Version 1.0.
    WireServer,
    /// Version 1.0.
    WireServerAndImds,
    /// Version 2.0, enabled and with rules.
    Rules {
        /// Mode of the WireServer and of the host plug-in.
        wireserver: Mode,
        /// Mode of IMDS.
        imds: Mode,
    },
}

impl ChannelState {
    /// Whether a key is wanted: the channel is neither disabled nor unknown (PX-55).
    pub(crate) const fn is_latched(self) -> bool {
        !matches!(self, Self::Unknown | Self::Disabled)
    }
}

impl fmt::Display for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("Unknown"),
            Self::Disabled => f.write_str("disabled"),
            Self::WireServer => f.write_str("wireserver"),
            Self::WireServerAndImds => f.write_str("wireserverandimds"),
            // Two blanks before IMDS: deployed checks compare the text (W-39).
            Self::Rules { wireserver, imds } => {
                write!(f, "WireServer {0} -  IMDS {1} - HostGA {0}", wireserver.name(), imds.name())
            }
        }
    }
}

/// Why a status is not acted upon; nothing changes then (W-38).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Not JSON, or not the members of W-24 to W-32. The text is serde's; a status holds no secrets.
    Shape(String),
    /// W-36.
    Scheme,
    /// W-36.
    Delivery,
    /// W-33.
    NoState,
    /// W-34.
    State,
    /// W-35.
    NoStateOfVersion,
    /// W-51.
    Guid,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text) => write!(f, "not a status document: {text}"),
            Self::Scheme => f.write_str("authorizationScheme is not Azure-HMAC-SHA256"),
            Self::Delivery => f.write_str("keyDeliveryMethod is neither http nor vtpm"),
            Self::NoState => f.write_str("neither secureChannelState nor secureChannelEnabled is given"),
            Self::State => f.write_str("secureChannelState is not Disabled, Wireserver or WireserverAndImds"),
            Self::NoStateOfVersion => f.write_str("the member that tells the state in this version is missing"),
            Self::Guid => f.write_str("keyGuid is malformed"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusDocument {
    authorization_scheme: String,
    key_delivery_method: String,
    version: String,
    key_guid: Option<String>,
    key_incarnation_id: Option<u32>,
    /// Not evaluated (W-29), but it must have its type.
    #[expect(dead_code, reason = "read for its type")]
    required_claims_header_pairs: Option<Vec<String>>,
    secure_channel_state: Option<String>,
    secure_channel_enabled: Option<bool>,
    authorization_rules: Option<Object<RulesDocument>>,
}

#[derive(Deserialize)]
struct RulesDocument {
    imds: Option<Object<Document>>,
    wireserver: Option<Object<Document>>,
    /// Read and not used (W-41).
    #[expect(dead_code, reason = "read for its type")]
    hostga: Option<Object<Document>>,
}

impl HostStatus {
    /// Reads and judges a status document.
    pub(super) fn from_json(text: &str) -> Result<Self, Rejected> {
        let Object(document): Object<StatusDocument> = serde_json::from_str(text).map_err(|e| Rejected::Shape(e.to_string()))?;
        if document.authorization_scheme != sign::SCHEME {
            return Err(Rejected::Scheme);
        }
        let delivery = match document.key_delivery_method.as_str() {
            "http" => Delivery::Http,
            "vtpm" => Delivery::Vtpm,
            _ => return Err(Rejected::Delivery),
        };
        let key = document.key_guid.as_deref().map(KeyGuid::parse).transpose().map_err(|_| Rejected::Guid)?;
        let word = document.secure_channel_state.as_deref().map(state_word).transpose()?;
        let rules = document.authorization_rules.map(|Object(rules)| rules);
        let state = match (document.version.as_str(), word, document.secure_channel_enabled) {
            (_, None, None) => return Err(Rejected::NoState),
            ("2.0", _, None) => return Err(Rejected::NoStateOfVersion),
            ("2.0", _, Some(enabled)) => match &rules {
                Some(rules) if enabled => ChannelState::Rules {
                    wireserver: mode_in_state(rules.wireserver.as_ref()),
                    imds: mode_in_state(rules.imds.as_ref()),
                },
                _ => ChannelState::Disabled,
            },
            // 1.0, and all that we do not know (W-37).
            (_, None, _) => return Err(Rejected::NoStateOfVersion),
            (_, Some(state), _) => state,
        };
        let (wireserver, imds) = match (state, rules) {
            (ChannelState::Disabled | ChannelState::Unknown, _) | (_, None) => (None, None),
            (_, Some(rules)) => (rules.wireserver, rules.imds),
        };
        let (wireserver, imds) = (wireserver.map(|Object(d)| Arc::new(d)), imds.map(|Object(d)| Arc::new(d)));
        let (ws, im) = match state {
            ChannelState::Unknown | ChannelState::Disabled => (TargetMode::Off, TargetMode::Off),
            ChannelState::WireServer => (TargetMode::Enforce, TargetMode::Audit),
            ChannelState::WireServerAndImds => (TargetMode::Enforce, TargetMode::Enforce),
            ChannelState::Rules { .. } => (target(wireserver.as_deref()), target(imds.as_deref())),
        };
        Ok(Self {
            delivery,
            key,
            incarnation: document.key_incarnation_id,
            state,
            targets: PerDestination { imds: im, wireserver: ws, hostga: ws },
            documents: PerDestination { imds, wireserver: wireserver.clone(), hostga: wireserver },
        })
    }

    /// The raw id of a document, empty if there is none (FS-53).
    pub(crate) fn rule_id(&self, destination: Destination) -> &str {
        self.documents.get(destination).as_ref().map_or("", |d| &d.id)
    }
}

/// W-30; any other word rejects the document, whatever its version (W-34).
fn state_word(word: &str) -> Result<ChannelState, Rejected> {
    [
        ("disabled", ChannelState::Disabled),
        ("wireserver", ChannelState::WireServer),
        ("wireserverandimds", ChannelState::WireServerAndImds),
    ]
    .into_iter()
    .find_map(|(known, state)| word.eq_ignore_ascii_case(known).then_some(state))
    .ok_or(Rejected::State)
}

/// The mode as W-39 prints it: an absent document or an unknown word counts as disabled.
fn mode_in_state(document: Option<&Object<Document>>) -> Mode {
    document.and_then(|Object(d)| Mode::parse(&d.mode)).unwrap_or(Mode::Disabled)
}

/// The redirect of W-40: an unknown word is not `disabled`, so traffic is redirected, but nothing is denied by rule.
fn target(document: Option<&Document>) -> TargetMode {
    match document.map(|d| Mode::parse(&d.mode)) {
        None | Some(Some(Mode::Disabled)) => TargetMode::Off,
        Some(Some(Mode::Enforce)) => TargetMode::Enforce,
        Some(Some(Mode::Audit) | None) => TargetMode::Audit,
    }
}

#[cfg(test)]
mod tests;
