//! Rules as a document: what nothing needs is left out, the rest gets names, and the daemon's own decision is asked about every request.

use super::names::{self, Taken};
use super::observe::Ask;
use super::report::{Grant, Learned};
use super::{Options, Origin, Rules, What, Who};
use crate::authz::{
    self, Decision, Document, Identity, Mode, Privilege, QueryParameters, Role, RoleAssignment, RuleLists, Scratch,
};
use crate::identity::{Destination, PerDestination};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) struct Builder<'a> {
    pub(super) destination: Destination,
    pub(super) options: &'a Options,
    pub(super) origins: &'a BTreeMap<(Destination, What), Origin>,
}

impl Builder<'_> {
    pub(super) fn build(&self, mut rules: Rules) -> Learned {
        self.prune(&mut rules);
        let plan = self.plan(&rules);
        let document = plan.document(self.options, &self.id());
        let enforced = Self::enforced(&document);
        let missed = rules.values().flatten().filter(|ask| !Self::allows(&enforced, ask)).map(|ask| ask.requests).sum();
        let grants = self.grants(&rules, &plan);
        Learned {
            destination: self.destination,
            local: self.options.local,
            notes: self.notes(&rules, &plan),
            grants,
            missed,
            document,
        }
    }

    fn id(&self) -> String {
        self.options.id.clone().unwrap_or_else(|| format!("learned-{}", self.destination.name().to_ascii_lowercase()))
    }

    fn origin(&self, what: &What) -> Option<&Origin> {
        self.origins.get(&(self.destination, what.clone()))
    }

    /// Takes rules away as long as nothing that was asked for is denied without them; what fewest requests support goes first.
    fn prune(&self, rules: &mut Rules) {
        let strict = Options { default_allow: false, mode: Mode::Enforce, ..self.options.clone() };
        let mut candidates: Vec<(Who, What)> = rules.keys().cloned().collect();
        let support =
            |rules: &Rules, key: &(Who, What)| rules.get(key).into_iter().flatten().map(|ask| ask.requests).sum::<u64>();
        candidates.sort_by_key(|key| (support(rules, key), std::cmp::Reverse(key.1.segments.len())));
        for key in candidates {
            // Only where something else reaches the same place.
            let rival = |(who, what): &(Who, What)| {
                let overlap = who.covers(&key.0) || key.0.covers(who);
                let short = what.segments.len().min(key.1.segments.len());
                // No request has two values where each rule wants its own: tokens for a thousand audiences are no rivals.
                let agree = |(name, value)| key.1.constraints.get(name).is_none_or(|other: &String| other == value);
                overlap && what.segments.get(..short) == key.1.segments.get(..short) && what.constraints.iter().all(agree)
            };
            if !rules.keys().any(|other| *other != key && rival(other)) {
                continue;
            }
            let Some(asks) = rules.remove(&key) else { continue };
            let enforced = Self::enforced(&self.plan(rules).document(&strict, ""));
            if asks.iter().all(|ask| Self::allows(&enforced, ask)) {
                self.hand_over(rules, asks);
            } else {
                rules.insert(key, asks);
            }
        }
    }

    /// Counts requests for the rules that allow them now.
    fn hand_over(&self, rules: &mut Rules, asks: Vec<Ask>) {
        let strict = Options { default_allow: false, mode: Mode::Enforce, ..self.options.clone() };
        for ask in asks {
            let keys: Vec<(Who, What)> = rules.keys().cloned().collect();
            let key = keys.into_iter().find(|key| {
                let alone = Rules::from([(key.clone(), Vec::new())]);
                Self::allows(&Self::enforced(&self.plan(&alone).document(&strict, "")), &ask)
            });
            if let Some(asks) = key.and_then(|key| rules.get_mut(&key)) {
                asks.push(ask);
            }
        }
    }

    /// The document as the daemon would enforce it.
    fn enforced(document: &Document) -> PerDestination<Option<Arc<authz::Rules>>> {
        let enforced = Document { mode: Mode::Enforce.word().to_owned(), ..document.clone() };
        let rules = Arc::new(authz::Rules::compile(&enforced).0);
        PerDestination::<()>::default().map(|_, ()| Some(Arc::clone(&rules)))
    }

    /// Whether the daemon would allow the request.
    fn allows(rules: &PerDestination<Option<Arc<authz::Rules>>>, ask: &Ask) -> bool {
        matches!(
            authz::decide(rules, ask.to.addr(), &ask.caller.claims(), ask.request(), &mut Scratch::new()),
            Decision::Allow(_)
        )
    }

    /// Names, roles, and who has which.
    fn plan(&self, rules: &Rules) -> Plan {
        let mut taken = Taken::default();
        let mut privileges = BTreeMap::new();
        // The shorter path first: it gets the shorter name.
        let distinct: BTreeSet<&What> = rules.keys().map(|(_, what)| what).collect();
        for what in distinct {
            let wish = self.origin(what).map_or("privilege", |origin| origin.name.as_str());
            privileges.insert(what.clone(), taken.name(wish));
        }
        let mut scripts: BTreeMap<&Who, BTreeSet<String>> = BTreeMap::new();
        let mut sets: BTreeMap<&Who, BTreeSet<&What>> = BTreeMap::new();
        for ((who, what), asks) in rules {
            scripts.entry(who).or_default().extend(asks.iter().flat_map(|ask| ask.scripts.iter().cloned()));
            sets.entry(who).or_default().insert(what);
        }
        let mut taken = Taken::default();
        let mut identities = BTreeMap::new();
        for (who, scripts) in scripts {
            identities.insert(who.clone(), taken.name(&names::of_identity(who, &scripts)));
        }
        let mut roles: BTreeMap<BTreeSet<&What>, Vec<&Who>> = BTreeMap::new();
        for (who, set) in sets {
            roles.entry(set).or_default().push(who);
        }
        // A role is called by what it is good for, if that is little and only one is; else by whose it is.
        let purpose = |set: &BTreeSet<&What>| match set.first().and_then(|what| privileges.get(*what)) {
            Some(privilege) if set.len() == 1 => Some(privilege.clone()),
            _ => names::of_role(&set.iter().filter_map(|what| self.origin(what)).map(|origin| origin.purpose).collect()),
        };
        let purposes: Vec<Option<String>> = roles.keys().map(purpose).collect();
        let mut taken = Taken::default();
        let roles = roles.into_iter().zip(&purposes).map(|((set, whose), purpose)| {
            let unique = purpose.as_ref().filter(|name| purposes.iter().flatten().filter(|other| other == name).count() == 1);
            let identity = || whose.first().and_then(|who| identities.get(*who)).cloned().unwrap_or_default();
            let name = taken.name(&unique.cloned().unwrap_or_else(identity));
            (name, set.into_iter().cloned().collect(), whose.into_iter().cloned().collect())
        });
        let roles: Vec<(String, BTreeSet<What>, Vec<Who>)> = roles.collect();
        let paths = privileges.keys().map(|what| {
            let path = self.origin(what).map_or_else(|| format!("/{}", what.segments.join("/")), |origin| origin.path.clone());
            (what.clone(), path)
        });
        Plan { paths: paths.collect(), privileges, identities, roles }
    }

    fn grants(&self, rules: &Rules, plan: &Plan) -> Vec<Grant> {
        let mut grants: Vec<Grant> = rules
            .iter()
            .map(|((who, what), asks)| {
                let sum = |count: fn(&Ask) -> u64| asks.iter().map(count).sum();
                Grant {
                    identity: plan.identities.get(who).cloned().unwrap_or_default(),
                    user: who.user.clone(),
                    program: who.program.clone(),
                    privilege: plan.privileges.get(what).cloned().unwrap_or_default(),
                    destinations: asks.iter().map(|ask| ask.to.name()).collect(),
                    allows: names::in_words(plan.paths.get(what).map_or("/", String::as_str), what),
                    requests: sum(|ask| ask.requests),
                    answered: sum(|ask| ask.answered),
                    denied: sum(|ask| ask.denied),
                    first: asks.iter().filter_map(|ask| ask.first).min(),
                    last: asks.iter().filter_map(|ask| ask.last).max(),
                    scripts: asks.iter().flat_map(|ask| ask.scripts.iter().cloned()).collect(),
                    wider: self.origin(what).and_then(|origin| origin.wider.clone()),
                }
            })
            .collect();
        grants.sort_by(|a, b| {
            (&a.identity, std::cmp::Reverse(a.requests), &a.allows).cmp(&(&b.identity, std::cmp::Reverse(b.requests), &b.allows))
        });
        grants
    }

    /// Where the rules say more than the recording did.
    fn notes(&self, rules: &Rules, plan: &Plan) -> Vec<String> {
        let mut notes = Vec::new();
        let mut seen: BTreeMap<&Who, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
        for ((who, _), asks) in rules {
            let (users, scripts) = seen.entry(who).or_default();
            users.extend(asks.iter().map(|ask| ask.caller.user.as_str()));
            scripts.extend(asks.iter().flat_map(|ask| &ask.scripts).map(String::as_str));
        }
        let list = |texts: &BTreeSet<&str>| texts.iter().copied().collect::<Vec<_>>().join(", ");
        for (who, (users, scripts)) in seen {
            let identity = plan.identities.get(who).map_or("", String::as_str);
            match (&who.user, &who.program) {
                (None, _) => {
                    notes.push(format!("{identity} is every user who runs the program; in the recording: {}", list(&users)))
                }
                (Some(user), None) => notes.push(format!(
                    "{identity} is every program of {user}: some of its requests came from programs that had ended, or run in a \
                     container of their own, before anybody could look, and no rule can name those"
                )),
                (Some(_), Some(_)) => {}
            }
            if who.user.as_deref() == Some("undefined") {
                notes.push(format!("{identity}: \"undefined\" is every user id without an account"));
            }
            if let Some(path) = who.program.as_deref().filter(|path| names::is_interpreter(path)) {
                let ran = if scripts.is_empty() { String::new() } else { format!("; in the recording: {}", list(&scripts)) };
                notes.push(format!("{identity}: {path} is an interpreter, and every script that it runs is meant{ran}"));
            }
        }
        if rules.values().flatten().any(|ask| ask.to != self.destination) {
            notes.push(
                "the host plug-in has the WireServer's document: a privilege for one of them is one for the same path of the other"
                    .to_owned(),
            );
        }
        for (what, path) in &plan.paths {
            let privilege = plan.privileges.get(what).map_or("", String::as_str);
            if what.segments.is_empty() {
                let but = if what.constraints.is_empty() { "" } else { " with these parameters" };
                notes.push(format!("{privilege}: a rule for / is one for every path{but}"));
            }
            if let Some(wider) = self.origin(what).and_then(|origin| origin.wider.as_ref()) {
                notes.push(format!("{privilege} ({path}) is {wider}"));
            }
        }
        notes
    }
}

/// A document before it is one.
struct Plan {
    privileges: BTreeMap<What, String>,
    paths: BTreeMap<What, String>,
    identities: BTreeMap<Who, String>,
    roles: Vec<(String, BTreeSet<What>, Vec<Who>)>,
}

impl Plan {
    fn document(&self, options: &Options, id: &str) -> Document {
        let privileges = self.privileges.iter().map(|(what, name)| {
            let written = |(name, value): (&String, &String)| (super::observe::escaped(name, b"%+"), names::value(name, value));
            let parameters: BTreeMap<String, String> = what.constraints.iter().map(written).collect();
            Privilege {
                name: name.clone(),
                path: self.paths.get(what).cloned().unwrap_or_default(),
                query_parameters: Some(parameters).filter(|parameters| !parameters.is_empty()).map(QueryParameters),
                ..Privilege::default()
            }
        });
        let roles = self.roles.iter().map(|(name, set, _)| Role {
            name: name.clone(),
            privileges: set.iter().filter_map(|what| self.privileges.get(what)).cloned().collect(),
            ..Role::default()
        });
        let identities = self.identities.iter().map(|(who, name)| Identity {
            name: name.clone(),
            user_name: who.user.clone(),
            exe_path: who.program.clone(),
            ..Identity::default()
        });
        let assignments = self.roles.iter().map(|(role, _, whose)| RoleAssignment {
            role: role.clone(),
            identities: whose.iter().filter_map(|who| self.identities.get(who)).cloned().collect(),
            ..RoleAssignment::default()
        });
        let lists = RuleLists {
            privileges: Some(privileges.collect()),
            roles: Some(roles.collect()),
            identities: Some(identities.collect()),
            role_assignments: Some(assignments.collect()),
            ..RuleLists::default()
        };
        Document {
            default_access: if options.default_allow { "allow" } else { "deny" }.to_owned(),
            mode: options.mode.word().to_owned(),
            id: id.to_owned(),
            rules: Some(lists),
            ..Document::default()
        }
    }
}
