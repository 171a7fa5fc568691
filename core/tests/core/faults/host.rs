//! A host that knows what it wants and does not always say it well. Every byte of it passes through [`Exchange`].

use azure_proxy_agent_core::effect::{ConnectError, Recv};
use azure_proxy_agent_core::exchange::{Exchange, FetchError, HostRequest, HostResponse};
use azure_proxy_agent_core::identity::{PerDestination, TargetMode};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::replay::XorShift;
use azure_proxy_agent_core::time::Now;
use std::collections::BTreeSet;

const SECOND: u64 = 1_000_000_000;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    /// Another key with every answer.
    Rotating,
    Slow,
    Silent,
    /// The shell loses the job: no answer at all.
    Lost,
    Refusing,
    Status(u16),
    Garbage,
    Huge,
    Truncated,
    EndlessInterim,
    BadDocument,
    /// Any of them, each time.
    Moody,
}

impl Mood {
    const ALL: [Self; 15] = [
        Self::Good,
        Self::Good,
        Self::Rotating,
        Self::Slow,
        Self::Silent,
        Self::Lost,
        Self::Refusing,
        Self::Status(302),
        Self::Status(500),
        Self::Garbage,
        Self::Huge,
        Self::Truncated,
        Self::EndlessInterim,
        Self::BadDocument,
        Self::Moody,
    ];

    pub(super) fn random(random: &mut XorShift) -> Self {
        Self::ALL[random.below(Self::ALL.len() as u64) as usize]
    }
}

/// What it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Disabled,
    WireServer,
    WireServerAndImds,
    /// Version 2.0; the audit of IMDS, and the number of the rules.
    Rules(bool, u64),
    Vtpm,
}

impl Channel {
    const fn is_latched(self) -> bool {
        !matches!(self, Self::Disabled)
    }

    fn targets(self) -> PerDestination<TargetMode> {
        use TargetMode::{Audit, Enforce, Off};
        let (imds, wireserver) = match self {
            Self::Disabled => (Off, Off),
            Self::WireServer | Self::Vtpm => (Audit, Enforce),
            Self::WireServerAndImds => (Enforce, Enforce),
            Self::Rules(audit, _) => (if audit { Audit } else { Enforce }, Enforce),
        };
        PerDestination { imds, wireserver, hostga: wireserver }
    }
}

pub(super) struct Host {
    pub(super) mood: Mood,
    channel: Channel,
    named: Option<String>,
    handed_out: u64,
    /// Every key that it named or took an attestation of.
    known: BTreeSet<String>,
    /// Whether the last good status that the agent heard wants a key; the one on its way.
    pub(super) last_served_latched: bool,
    on_its_way: bool,
}

/// What becomes of a call.
pub(super) struct After {
    /// Nanoseconds.
    pub(super) takes: u64,
    pub(super) lost: bool,
    pub(super) attested: bool,
    /// A good status was given, with these targets.
    pub(super) targets: Option<PerDestination<TargetMode>>,
}

fn guid(number: u64) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

impl Host {
    pub(super) fn new() -> Self {
        Self {
            mood: Mood::Good,
            channel: Channel::WireServer,
            named: None,
            handed_out: 0,
            known: BTreeSet::new(),
            last_served_latched: false,
            on_its_way: false,
        }
    }

    pub(super) fn change_mind(&mut self, random: &mut XorShift) {
        self.channel = match random.below(6) {
            0 => Channel::Disabled,
            1 => Channel::WireServer,
            2 => Channel::WireServerAndImds,
            3 => Channel::Vtpm,
            _ => Channel::Rules(random.below(2) == 0, random.below(1000)),
        };
        if random.below(3) == 0 {
            self.rotate();
        }
    }

    pub(super) fn want_latched(&mut self) {
        self.channel = Channel::Rules(false, 1);
    }

    /// A key that nobody has yet is wanted (W-97).
    fn rotate(&mut self) {
        self.handed_out += 1;
        let next = guid(self.handed_out);
        self.known.insert(next.clone());
        self.named = Some(next);
    }

    pub(super) fn named(&self) -> Option<&str> {
        self.named.as_deref()
    }

    pub(super) fn knows(&self, guid: &str) -> bool {
        self.known.contains(guid)
    }

    /// The agent has heard the status that was on its way.
    pub(super) const fn heard(&mut self) {
        self.last_served_latched = self.on_its_way;
    }

    pub(super) fn answer(
        &mut self,
        random: &mut XorShift,
        now: Now,
        request: &HostRequest,
    ) -> (Result<HostResponse, FetchError>, After) {
        let mood = match self.mood {
            Mood::Moody => Mood::random(random),
            mood => mood,
        };
        let mut after = After { takes: random.below(SECOND / 20), lost: false, attested: false, targets: None };
        if mood == Mood::Rotating && request.target() == "/secure-channel/status" {
            self.rotate();
        }
        let raw = match mood {
            Mood::Good | Mood::Rotating | Mood::Moody => self.good(request, &mut after),
            Mood::Slow => {
                after.takes = random.below(30 * SECOND);
                self.good(request, &mut after)
            }
            Mood::Silent => {
                after.takes = 30 * SECOND;
                return (Err(FetchError::TimedOut), after);
            }
            Mood::Lost => {
                after.lost = true;
                return (Err(FetchError::TimedOut), after);
            }
            Mood::Refusing => return (Err(FetchError::Connect(ConnectError::Refused)), after),
            Mood::Status(code) => format!("HTTP/1.1 {code} X\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n").into(),
            Mood::Garbage => (0..200).map(|_| random.next() as u8).collect(),
            Mood::Huge => [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'{'; 2 << 20]].concat(),
            Mood::Truncated => {
                let whole = self.document(request);
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", whole.len() + 1, &whole[..whole.len() / 2]).into()
            }
            Mood::EndlessInterim => b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
            Mood::BadDocument => {
                let whole = self.document(request).replace("Azure-HMAC-SHA256", "Azure-HMAC-MD5");
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{whole}", whole.len().max(1)).into()
            }
        };
        (read(now, request, &raw), after)
    }

    /// As it should be; with what that means.
    fn good(&mut self, request: &HostRequest, after: &mut After) -> Vec<u8> {
        if let Some(key) = request.target().strip_suffix("/key-attestation").and_then(|t| t.rsplit('/').next()) {
            self.named = Some(key.to_owned());
            self.known.insert(key.to_owned());
            after.attested = true;
        }
        let document = self.document(request);
        if request.target() == "/secure-channel/status" {
            after.targets = Some(self.channel.targets());
            self.on_its_way = self.channel.is_latched();
        }
        format!("HTTP/1.1 200 OK\r\nDate: Tue, 06 Jan 2026 08:15:30 GMT\r\nContent-Length: {}\r\n\r\n{document}", document.len())
            .into()
    }

    fn document(&mut self, request: &HostRequest) -> String {
        let named = self.named.as_ref().map_or("null".to_owned(), |guid| format!("\"{guid}\""));
        match request.target() {
            "/secure-channel/status" => {
                let head = |delivery: &str| {
                    format!(r#"{{"authorizationScheme":"Azure-HMAC-SHA256","keyDeliveryMethod":"{delivery}","keyGuid":{named},"#)
                };
                let v1 = |state: &str| format!(r#"{}"version":"1.0","secureChannelState":"{state}"}}"#, head("http"));
                match self.channel {
                    Channel::Disabled => v1("Disabled"),
                    Channel::WireServer => v1("Wireserver"),
                    Channel::WireServerAndImds => v1("WireserverAndImds"),
                    Channel::Vtpm => v1("Wireserver").replace("\"http\"", "\"vtpm\""),
                    Channel::Rules(audit, id) => {
                        let mode = if audit { "audit" } else { "enforce" };
                        format!(
                            r#"{}"version":"2.0","secureChannelEnabled":true,"authorizationRules":{{
                            "imds":{{"defaultAccess":"allow","mode":"{mode}","id":"i{id}"}},
                            "wireserver":{{"defaultAccess":"deny","mode":"enforce","id":"w{id}"}}}}}}"#,
                            head("http")
                        )
                    }
                }
            }
            "/secure-channel/key" => {
                // The one that it wants, or another one.
                let guid = self.named.clone().unwrap_or_else(|| {
                    self.handed_out += 1;
                    guid(self.handed_out)
                });
                let key = "00112233".repeat(8);
                format!(r#"{{"authorizationScheme":"Azure-HMAC-SHA256","guid":"{guid}","issued":"now","key":"{key}"}}"#)
            }
            _ => String::new(),
        }
    }
}

/// What the client machine makes of these bytes.
fn read(now: Now, request: &HostRequest, mut raw: &[u8]) -> Result<HostResponse, FetchError> {
    let mut exchange = Exchange::new(now, request.clone(), Limits::DEFAULT);
    exchange.transmitted(exchange.transmit().len());
    exchange.transmitted(exchange.transmit().len());
    loop {
        if let Some(result) = exchange.poll() {
            return result;
        }
        let space = exchange.recv_space();
        let n = raw.len().min(space.len());
        space[..n].copy_from_slice(&raw[..n]);
        raw = &raw[n..];
        exchange.handle_recv(now, if n == 0 { Recv::Eof } else { Recv::Data(n) });
    }
}
