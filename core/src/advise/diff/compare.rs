//! The representatives, and what both documents say about them.

use crate::identity::{ExeHash, Fact, OnDemand};

use super::{
    Allowed, Arc, BTreeMap, BTreeSet, Change, Claims, Confidence, Decision, Denial, Destination, Diff, Document, Executable,
    Identity, Mode, PerDestination, Request, Rules, Scratch, decide, only,
};

/// No more than so many are put before the documents; what is beyond is said.
const MOST: usize = 4_000_000;
/// No more regions than so many are looked for where others overlap.
const MOST_REGIONS: usize = 100_000;
/// No more than so many exceptions are told of a change.
const EXCEPTIONS: usize = 4;

/// Compares what two documents of an endpoint allow.
#[must_use]
pub fn compare(old: &Document, new: &Document, destination: Destination) -> Diff {
    let sides = [old, new].map(Side::new);
    let [before, after] = &sides;
    let mut notes: Vec<String> = [("old", before), ("new", after)]
        .into_iter()
        .flat_map(|(which, side)| side.findings.iter().map(move |finding| format!("{which} document: {finding}")))
        .collect();
    let (mut regions, mut incomplete) = regions(&sides);
    let callers = callers(&sides, destination, &mut notes);
    if regions.len().saturating_mul(callers.len()) > MOST {
        regions.truncate((MOST / callers.len()).max(1));
        incomplete = true;
    }
    if incomplete {
        notes.push(format!("the documents are too large to compare all: only the first {} places were looked at", regions.len()));
    }
    let seen = look(&sides, destination, &regions, &callers);
    let order = Order::of(&regions, &callers);
    let mut changes = Vec::new();
    for allowed in [true, false] {
        let changed = seen.iter().filter(|s| s.after.is_ok() == allowed && s.before.is_ok() != allowed);
        for point in order.widest(changed) {
            let except = exceptions(point, allowed, &seen, &order, &regions, &callers);
            let (Some(region), Some(caller)) = (regions.get(point.region), callers.get(point.caller)) else { continue };
            changes.push(Change {
                allowed,
                who: caller.label.clone(),
                what: region.label(),
                was: before.reason(point.before),
                becomes: after.reason(point.after),
                except,
            });
        }
    }
    if !changes.is_empty() {
        if changes.iter().any(|change| change.allowed) && changes.iter().any(|change| !change.allowed) {
            notes.push("a caller who is several of these may have from one what another loses".into());
        }
        if regions.iter().any(|region| !region.constraints.is_empty()) {
            notes.push("requests that repeat a parameter with different values are not compared".into());
        }
    }
    let [old, new] = sides.map(|side| side.mode);
    Diff { destination: destination.name(), mode: (old != new).then(|| (old.word(), new.word())), changes, incomplete, notes }
}

struct Side<'a> {
    document: &'a Document,
    mode: Mode,
    /// As enforced, unless it is disabled.
    rules: Arc<Rules>,
    findings: Vec<String>,
}

impl<'a> Side<'a> {
    fn new(document: &'a Document) -> Self {
        let (rules, findings) = Rules::compile(document);
        let mode = rules.mode();
        let rules = match mode {
            Mode::Audit => Rules::compile(&Document { mode: Mode::Enforce.word().to_owned(), ..document.clone() }).0,
            Mode::Disabled | Mode::Enforce => rules,
        };
        Self { document, mode, rules: Arc::new(rules), findings: findings.iter().map(ToString::to_string).collect() }
    }

    /// In a few words.
    fn reason(&self, verdict: Result<Allowed, Denial>) -> String {
        let privilege = |id| self.rules.privilege_name(id).unwrap_or_default();
        match verdict {
            Ok(Allowed::Privilege(id, by)) => {
                format!("allowed by {:?} to {:?}", privilege(id), self.rules.identity_name(by).unwrap_or_default())
            }
            Ok(Allowed::Default) => "allowed by default".to_owned(),
            Ok(Allowed::Disabled) => "allowed, because the mode is disabled".to_owned(),
            Ok(allowed) => format!("allowed ({allowed})"),
            Err(Denial::Default) => "denied by default".to_owned(),
            Err(Denial::NotAssigned(id)) => format!("denied: {:?} is for others", privilege(id)),
            Err(denial) => format!("denied ({denial})"),
        }
    }
}

/// A path with everything below it, and parameters, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Region {
    segments: Vec<String>,
    constraints: BTreeMap<String, String>,
    /// A path that no privilege names stands for all of them.
    rest: bool,
}

impl Region {
    fn label(&self) -> String {
        if self.rest {
            return "what no privilege names".to_owned();
        }
        let mut text = format!("/{}", self.segments.join("/"));
        for (at, (name, value)) in self.constraints.iter().enumerate() {
            text.push_str(&format!("{}{name}={value}", if at == 0 { '?' } else { '&' }));
        }
        text
    }

    fn covers(&self, other: &Self) -> bool {
        self.rest
            || (!other.rest
                && other.segments.starts_with(&self.segments)
                && self.constraints.iter().all(|(name, value)| other.constraints.get(name) == Some(value)))
    }

    /// A request that is just inside.
    fn target(&self) -> String {
        let mut target = String::new();
        for segment in &self.segments {
            target.push('/');
            encode(segment, &mut target);
        }
        if target.is_empty() {
            target.push('/');
        }
        for (at, (name, value)) in self.constraints.iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            encode(name, &mut target);
            target.push('=');
            encode(value, &mut target);
        }
        target
    }
}

/// Percent-encodes everything that could mean something.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// All regions of both documents, where two of them overlap, and one that none of them names; and whether there are more.
fn regions(sides: &[Side<'_>; 2]) -> (Vec<Region>, bool) {
    let mut named: BTreeMap<Vec<String>, BTreeSet<BTreeMap<String, String>>> = BTreeMap::new();
    for privilege in sides.iter().flat_map(|side| side.rules.privileges()) {
        let segments = privilege.path().split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let constraints = privilege.constraints().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        named.entry(segments).or_default().insert(constraints);
    }
    let mut all = BTreeSet::new();
    // Each at once: what comes later, and may be left out, is where they overlap.
    for (segments, own) in &named {
        all.extend(own.iter().map(|own| Region { segments: segments.clone(), constraints: own.clone(), rest: false }));
    }
    let most = MOST_REGIONS.max(all.len());
    for (segments, own) in &named {
        for length in 0..=segments.len() {
            for outer in segments.get(..length).and_then(|prefix| named.get(prefix)).into_iter().flatten() {
                for inner in own {
                    if all.len() > most {
                        break;
                    }
                    // Both at once, if no parameter would need two values.
                    if outer.iter().all(|(name, value)| inner.get(name).is_none_or(|other| other == value)) {
                        let constraints = outer.iter().chain(inner).map(|(n, v)| (n.clone(), v.clone())).collect();
                        all.insert(Region { segments: segments.clone(), constraints, rest: false });
                    }
                }
            }
        }
    }
    let free = (0..).map(|n| format!("unlisted{n}")).find(|name| !named.keys().any(|path| path.first() == Some(name)));
    let rest = Region { segments: free.into_iter().collect(), constraints: BTreeMap::new(), rest: true };
    let incomplete = all.len() > most;
    // What is wider comes first.
    let mut all: Vec<Region> = std::iter::once(rest).chain(all).collect();
    all.sort_by_key(|region| (!region.rest, region.segments.len(), region.constraints.len()));
    (all, incomplete)
}

/// A caller who is one identity, or none, and nothing more.
struct Representative {
    label: String,
    /// The selectors: those of one who has fewer of the same are wider.
    selectors: BTreeSet<(&'static str, String)>,
    claims: Claims,
}

fn callers(sides: &[Side<'_>; 2], destination: Destination, notes: &mut Vec<String>) -> Vec<Representative> {
    let nobody = Identity::default();
    let identities = sides.iter().filter_map(|side| side.document.rules.as_ref()?.identities.as_ref()).flatten();
    let mut all: BTreeMap<BTreeSet<(&'static str, String)>, Representative> = BTreeMap::new();
    for identity in identities.chain([&nobody]) {
        match representative(identity, destination) {
            Ok(caller) => drop(all.insert(caller.selectors.clone(), caller)),
            Err(why) => notes.push(format!("identity {:?} is nobody's: {why}", identity.name)),
        }
    }
    let mut all: Vec<Representative> = all.into_values().collect();
    all.sort_by_key(|caller| caller.selectors.len());
    notes.dedup();
    all
}

fn representative(identity: &Identity, destination: Destination) -> Result<Representative, String> {
    let Identity { user_name, group_name, exe_path, process_name, uid, gid, exe_sha256, cgroup_path, .. } = identity;
    let user = user_name.as_deref();
    let elevated = match (uid, user) {
        (Some(uid), _) => *uid == 0,
        (None, Some(user)) => user == "root",
        (None, None) => destination.elevated_only(),
    };
    if destination.elevated_only() && !elevated {
        return Err(format!("only root gets to {}, whatever rules say", destination.name()));
    }
    let executable = match (exe_path, process_name) {
        (Some(path), name) => {
            let path = path.trim_end_matches('/');
            let last = path.rsplit('/').next().unwrap_or(path);
            match name {
                Some(name) if name != last => return Err(format!("a process at {path:?} is called {last:?}, not {name:?}")),
                _ => Executable::Known(path.into()),
            }
        }
        // In a folder that no selector can name: it is not UTF-8.
        (None, Some(name)) => Executable::Known([&b"/\xFF/"[..], name.as_bytes()].concat().into()),
        // A hash is known of known executables only.
        (None, None) if exe_sha256.is_some() => Executable::Known(b"/\xFF".to_vec().into()),
        (None, None) => Executable::Unknown,
    };
    let number = |number: &Option<u32>| number.as_ref().map(u32::to_string);
    let (own_uid, own_gid) = (number(uid), number(gid));
    let texts = [
        ("user", user_name),
        ("user id", &own_uid),
        ("group", group_name),
        ("group id", &own_gid),
        ("program", exe_path),
        ("process", process_name),
        ("program with hash", exe_sha256),
        ("cgroup", cgroup_path),
    ];
    let selectors: BTreeSet<(&'static str, String)> =
        texts.into_iter().filter_map(|(what, selector)| Some((what, selector.clone()?))).collect();
    let said: Vec<String> = texts.into_iter().filter_map(|(what, text)| Some(format!("{what} {}", text.as_ref()?))).collect();
    let claims = Claims {
        // Ids that are nobody's, unless a selector names one.
        user_id: uid.unwrap_or(if elevated { 0 } else { u32::MAX }),
        group_id: gid.unwrap_or(u32::MAX),
        // An account that no selector can name.
        user_name: user.map_or_else(|| vec![0xFF].into(), Into::into),
        user_groups: group_name.iter().map(|group| group.as_str().into()).collect(),
        process_id: 0,
        executable,
        command_line: "".into(),
        cgroup: 0,
        confidence: Confidence::Verified,
        on_demand: OnDemand {
            exe_hash: exe_sha256.as_deref().and_then(ExeHash::from_hex).map_or(Fact::Unknown, Fact::Known),
            // Below a group and its name: in a group that no selector can name.
            cgroup_path: cgroup_path.as_ref().map_or(Fact::Unknown, |path| {
                Fact::Known(
                    path.strip_suffix('*')
                        .map_or_else(|| path.as_str().into(), |path| [path.as_bytes(), b"\xFF"].concat().into()),
                )
            }),
            ..OnDemand::default()
        },
    };
    Ok(Representative { label: if said.is_empty() { "everyone".to_owned() } else { said.join(", ") }, selectors, claims })
}

/// What both documents say about a representative.
struct Seen {
    region: usize,
    caller: usize,
    before: Result<Allowed, Denial>,
    after: Result<Allowed, Denial>,
}

fn look(sides: &[Side<'_>; 2], destination: Destination, regions: &[Region], callers: &[Representative]) -> Vec<Seen> {
    let rules: [PerDestination<Option<Arc<Rules>>>; 2] =
        sides.each_ref().map(|side| only(destination, Rules::clone(&side.rules)));
    let mut scratch = Scratch::new();
    let mut seen = Vec::with_capacity(regions.len() * callers.len());
    for (at, region) in regions.iter().enumerate() {
        let target = region.target();
        let request = Request { method: b"GET", target: target.as_bytes() };
        for (caller, representative) in callers.iter().enumerate() {
            let mut verdict = |rules| match decide(rules, destination.addr(), &representative.claims, request, &mut scratch) {
                Decision::Allow(allowed) => Ok(allowed),
                Decision::Audit(denial) | Decision::Deny(denial) => Err(denial),
            };
            let [old, new] = &rules;
            seen.push(Seen { region: at, caller, before: verdict(old), after: verdict(new) });
        }
    }
    seen
}

/// Which regions and callers contain which, each itself among them. Found by what could contain it, not by comparing each with each:
/// that would take hours for documents of a few thousand rules.
struct Order {
    /// What each region lies in.
    regions_around: Vec<Vec<usize>>,
    /// Whom each caller is one of.
    callers_around: Vec<Vec<usize>>,
    /// What lies in each region.
    regions_inside: Vec<Vec<usize>>,
    /// Who is like each caller, and more.
    callers_inside: Vec<Vec<usize>>,
}

/// Segments and constraints of a region.
type Place<'r> = (&'r [String], Vec<(&'r String, &'r String)>);

/// A set of more than so many is compared with each other one: it has too many subsets.
const FEW: usize = 8;

/// All subsets of a few; what comes out has the order of what goes in.
fn subsets<T: Copy>(of: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..1_usize << of.len()).map(|bits| of.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, t)| *t).collect())
}

impl Order {
    fn of(regions: &[Region], callers: &[Representative]) -> Self {
        let by_place: BTreeMap<Place<'_>, usize> = (0..)
            .zip(regions)
            .filter(|(_, region)| !region.rest)
            .map(|(at, region)| ((&*region.segments, region.constraints.iter().collect()), at))
            .collect();
        let regions_around = regions.iter().enumerate().map(|(own, region)| {
            let constraints: Vec<(&String, &String)> = region.constraints.iter().collect();
            if region.rest {
                return vec![own];
            }
            if constraints.len() > FEW {
                return regions.iter().enumerate().filter(|(_, outer)| outer.covers(region)).map(|(at, _)| at).collect();
            }
            let rest = regions.iter().take(1).position(|first| first.rest);
            let prefixes = (0..=region.segments.len()).filter_map(|length| region.segments.get(..length));
            let places = prefixes.flat_map(|prefix| subsets(&constraints).map(move |subset| (prefix, subset)));
            rest.into_iter().chain(places.filter_map(|place| by_place.get(&place).copied())).collect()
        });
        let by_selectors: BTreeMap<Vec<&(&'static str, String)>, usize> =
            (0..).zip(callers).map(|(at, caller)| (caller.selectors.iter().collect(), at)).collect();
        let callers_around = callers.iter().map(|caller| {
            let selectors: Vec<&(&'static str, String)> = caller.selectors.iter().collect();
            subsets(&selectors).filter_map(|subset| by_selectors.get(&subset).copied()).collect()
        });
        let (regions_around, callers_around): (Vec<_>, Vec<_>) = (regions_around.collect(), callers_around.collect());
        let (regions_inside, callers_inside) = (inverted(&regions_around), inverted(&callers_around));
        Self { regions_around, callers_around, regions_inside, callers_inside }
    }

    /// Those that no other contains. They come with the wider ones of one kind first.
    fn widest<'s>(&self, changed: impl Iterator<Item = &'s Seen>) -> Vec<&'s Seen> {
        let mut met = BTreeSet::new();
        let mut kept: Vec<&Seen> = Vec::new();
        for point in changed {
            let regions = self.regions_around.get(point.region).into_iter().flatten();
            let callers = || self.callers_around.get(point.caller).into_iter().flatten();
            if !regions.flat_map(|region| callers().map(move |caller| (*region, *caller))).any(|outer| met.contains(&outer)) {
                met.insert((point.region, point.caller));
                kept.push(point);
            }
        }
        kept
    }

    /// What lies in a point, in the order in which it was seen.
    fn inside<'s>(&self, point: &Seen, seen: &'s [Seen]) -> impl Iterator<Item = &'s Seen> {
        let callers = self.callers_around.len();
        let regions = self.regions_inside.get(point.region).into_iter().flatten();
        let whose = self.callers_inside.get(point.caller).map_or(&[][..], Vec::as_slice);
        regions.flat_map(move |region| whose.iter().filter_map(move |caller| seen.get(region * callers + caller)))
    }
}

/// Who is around whom, as who has whom inside.
fn inverted(around: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut inside = vec![Vec::new(); around.len()];
    for (inner, outer) in around.iter().enumerate().flat_map(|(inner, around)| around.iter().map(move |outer| (inner, *outer))) {
        if let Some(inside) = inside.get_mut(outer) {
            inside.push(inner);
        }
    }
    inside
}

/// Where, inside of a change, it remains denied (or allowed) what elsewhere is allowed (or denied) newly.
fn exceptions(
    change: &Seen,
    allowed: bool,
    seen: &[Seen],
    order: &Order,
    regions: &[Region],
    callers: &[Representative],
) -> Vec<String> {
    let all = order.widest(order.inside(change, seen).filter(|point| point.after.is_ok() != allowed));
    let mut told: Vec<String> = all
        .iter()
        .take(EXCEPTIONS)
        .filter_map(|point| {
            let (region, caller) = (regions.get(point.region)?, callers.get(point.caller)?);
            let what = if point.region == change.region { String::new() } else { region.label() };
            let who = if point.caller == change.caller { String::new() } else { caller.label.clone() };
            Some(if what.is_empty() || who.is_empty() { what + &who } else { format!("{what} for {who}") })
        })
        .collect();
    if all.len() > EXCEPTIONS {
        told.push(format!("{} more", all.len() - EXCEPTIONS));
    }
    told
}
