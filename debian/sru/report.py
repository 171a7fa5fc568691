"""The text of the tracking bug, from the template of the process; refuses to make one that would not be true."""

import re
import textwrap

from . import plan
from .results import Fault

PROCESS = "https://documentation.ubuntu.com/sru/en/latest/reference/exception-azure-proxy-agent-Updates"
#: How many changes are told under [Impact] when no bug says what is notable; the changelog entry has all.
NOTABLE = 12

RISKS = """\
The agent stands between every program of the machine and the metadata services of its host. If it fails, these programs
are refused (nothing is ever let through instead), so a regression would show as:

 * no provisioning at first boot (cloud-init waits for `azure-proxy-agent --status --wait`), or no goal state for the
   guest agent: cases first-boot, service-running, reboot;
 * an authorized program that is refused, or an unauthorized one that is served: cases authorized-call,
   unauthorized-call;
 * connections that fail while the package is upgraded or the agent restarted: cases upgrade-from-previous, downgrade
   and killed run under load;
 * an upgrade that stops halfway, with a configuration or a disk that does not allow it: case broken-upgrade;
 * kernels that the eBPF half does not load on: case old-kernel-fallback, and each kernel of the matrix;
 * an agent that cannot be stopped, or starts by itself: case stop-and-start;
 * a machine outside Azure that is busy or noisy for nothing: case no-host.

The way back is the old package (case downgrade) or removal (case purge)."""

# What the process says beyond its template.
RULES = """\
 * A successful run of the Microsoft team's testsuite against -proposed is required before the package is let into
   -updates.
 * The tag verification-done is set only after the summary of testing is attached to this bug.
 * Since the only consumer of the package is the Azure cloud, it may be released without meeting the ageing period of
   7 days provided all steps have been completed."""


def check(results, package_version):
    """Refuses results that do not show what the report says."""
    if results.new != package_version:
        raise Fault(f"the results are of version {results.new}, this tree is {package_version}: run make sru-test again")
    failed = results.of("failed")
    if failed:
        cases = ", ".join(f"{r.case} on {r.combination}" for r in failed)
        raise Fault(f"{len(failed)} case(s) failed, so there is nothing to report: {cases}")
    missing = results.missing()
    if missing:
        cases = ", ".join(f"{case} on {name}" for name, case in missing[:5])
        raise Fault(f"{len(missing)} case(s) of the plan have no result: {cases}{', …' if len(missing) > 5 else ''}")
    here = {c.name for c in plan.MATRIX if c.kernel}
    skipped = [r for r in results.of("pending") if r.combination in here]
    if skipped:
        cases = ", ".join(f"{r.case} on {r.combination}" for r in skipped[:5])
        raise Fault(f"{len(skipped)} case(s) that can run here did not: {cases}")
    if not results.of("passed"):
        raise Fault("no case passed, because none ran")


def steps(results):
    """What people attested: step to its last word, or None. Of this version only: what was said of another says nothing here."""
    said = {attested["step"]: attested for attested in results.attestations if attested["version"] == results.new}
    return {step: said.get(step) for step in plan.steps()}


def text(results, versions, stanzas):
    """The bug's description. `versions`: what CHANGELOG.md has of what is new; `stanzas`: the same from debian/changelog."""
    # A failed step elsewhere is no reason for silence: the bug is where it must be read.
    said = steps(results)
    complete = all(word and word["outcome"] == "passed" for word in said.values())
    waiver = (
        "All steps are complete: the ageing period may be waived."
        if complete
        else "Not all steps are complete: the ageing period may not be waived yet."
    )
    return f"""\
== Begin SRU Template ==
[Impact]
This release contains both bug-fixes and new
features and we would like to make sure all of our supported customers have
access to these improvements. The notable ones are:

{_notable(versions)}

See the changelog entry below for a full list of changes and bugs.

[Test Case]
The following development and SRU process was followed:
{PROCESS}

Before the upload these cases were run on the installed packages, from {results.old}
to {results.new} (commit {results.commit}), started {results.started}.
The machines are emulated ones with a simulated Azure host, a fresh one for each case; none is in Azure.
{len(results.of('passed'))} cases passed, none failed:

{_ran(results, said)}

The packages that were tested:

{chr(10).join(f'    {sha}  {name}' for name, sha in results.packages.items())}

Automated tests that cover what is new:

{_tests(versions)}

What each case shows:

{_wrapped(f' * {case}: {what}' for case, what in plan.CASES.items())}

Steps taken elsewhere, and by whom they are to be verified:

{_people(said)}

The Microsoft team will execute their testsuite, against the azure-proxy-agent
that is in -proposed. A successful run will be required before the proposed
azure-proxy-agent can be let into -updates.

The CPC team will be in charge of attaching a summary of testing to the bug.
CPC team members will not mark ‘verification-done’ until this has happened.

[Where problems could occur]
{RISKS}

[Other Info]
The rules that hold:

{RULES}

{waiver}

== End SRU Template ==

{stanzas}"""


def _wrapped(lines):
    return "\n".join(line for words in lines for line in textwrap.wrap(words, 120, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False))


def _notable(versions):
    """The Launchpad bugs, each with what the changelog says of it."""
    entries = [entry for version in versions for entry in version.entries]
    bugs = dict.fromkeys(bug for entry in entries for bug in entry.bugs)
    if bugs:
        return _wrapped(f" * LP: #{bug}: {next(entry.told for entry in entries if bug in entry.bugs)}" for bug in bugs)
    lines = [f" * {_first_sentence(entry.told)}" for entry in entries[:NOTABLE]]
    lines += [f" * and {len(entries) - NOTABLE} more"] if len(entries) > NOTABLE else []
    return _wrapped(lines + ["No Launchpad bug is named in the changelog."])


def _first_sentence(told):
    return re.split(r"(?<=[.;:])(?<!LP:)\s", told.replace("`", ""), maxsplit=1)[0].rstrip(".;:") + "."


def _ran(results, said):
    lines = []
    for combination in plan.MATRIX:
        outcomes = [r for r in results.results if r.combination == combination.name]
        passed = [r.case for r in outcomes if r.outcome == "passed"]
        machine = f"{combination.cpus} CPU, {combination.memory}"
        if passed:
            lines.append(f" * {combination.name} ({machine}): passed: {_cases(passed)}")
        elif outcomes:
            state = _state(said[combination.name], "PENDING in the cloud")
            lines.append(f" * {combination.name} ({machine}): {state} ({combination.pending}): {_cases([r.case for r in outcomes])}")
    return _wrapped(lines)


def _cases(names):
    return f"all {len(names)} cases" if set(names) == set(plan.CASES) else ", ".join(names)


def _tests(versions):
    entries = [entry for version in versions for entry in version.entries if entry.tests]
    return _wrapped(f" * {_first_sentence(entry.told)} {', '.join(entry.tests)}" for entry in entries) or " * nothing that can be tested is new"


def _people(said):
    lines = []
    for step, (whose, words) in plan.EXTERNAL.items():
        lines.append(f" * [{step}] {_state(said[step], f'PENDING, to be verified by {whose}')}: {words}")
    return _wrapped(lines)


def _state(word, pending):
    """What was attested."""
    return f"{word['outcome'].upper()} {word['when']}, says {word['by']} {word['link']}".rstrip() if word else pending
