"""The text of the tracking bug, from the template of the process; refuses to make one that would not be true."""

import textwrap

from . import plan
from .results import Fault

PROCESS = "https://documentation.ubuntu.com/sru/en/latest/reference/exception-azure-proxy-agent-Updates"

RISKS = """\
The agent stands between every program of the machine and the metadata services of its host. If it fails, these programs are refused
(nothing is ever let through instead), so a regression would show as:

 * no provisioning at first boot (cloud-init waits for `azure-proxy-agent --status --wait`), or no goal state for the guest agent:
   cases first-boot, service-running, reboot;
 * an authorized program that is refused, or an unauthorized one that is served: cases authorized-call, unauthorized-call;
 * connections that fail while the package is upgraded: case upgrade-from-previous runs under load;
 * kernels that the eBPF half does not load on: case old-kernel-fallback, and each kernel of the matrix;
 * a machine outside Azure that is busy or noisy for nothing: case no-host.

The way back is the old package (case downgrade) or removal (case purge)."""

RULES = """\
 * The vendor's test run against -proposed must succeed before the package is let into -updates.
 * verification-done is set only after the summary of testing is attached to this bug.
 * The ageing period of 7 days may be waived when all steps are complete: the only consumer of the package is the Azure cloud."""


def check(results, package_version):
    """Refuses results that do not show what the report says."""
    if results.new != package_version:
        raise Fault(f"the results are of version {results.new}, debian/changelog says {package_version}: run make sru-test again")
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
    """What people attested: step to its last word, or None."""
    said = {attested["step"]: attested for attested in results.attestations}
    return {step: said.get(step) for step in plan.EXTERNAL}


def text(results, version, stanza):
    """The bug's description."""
    # A failed step elsewhere is no reason for silence: the bug is where it must be read.
    bugs = "\n".join(f" * LP: #{bug}" for bug in version.bugs) or " * none: no Launchpad bug is named in the changelog"
    ran = []
    for combination in plan.MATRIX:
        outcomes = [r for r in results.results if r.combination == combination.name]
        passed = [r.case for r in outcomes if r.outcome == "passed"]
        if passed:
            ran.append(f" * {combination.name}: passed: {', '.join(passed)}")
        elif outcomes:
            ran.append(f" * {combination.name}: PENDING in the cloud ({combination.pending}): {', '.join(r.case for r in outcomes)}")
    people = []
    said = steps(results)
    for step, words in plan.EXTERNAL.items():
        word = said[step]
        state = f"{word['outcome'].upper()} {word['when']}, says {word['by']} {word['link']}".rstrip() if word else "PENDING"
        people += textwrap.wrap(f" * [{step}] {state}: {words}", 120, subsequent_indent="   ")
    complete = all(word and word["outcome"] == "passed" for word in said.values()) and not results.of("pending")
    waiver = (
        "All steps are complete: the ageing period may be waived."
        if complete
        else "Not all steps are complete: the ageing period may not be waived yet."
    )
    return f"""\
== Begin SRU Template ==
[Impact]
This release contains both bug-fixes and new features and we would like to make sure all of our supported customers have
access to these improvements. The notable ones are:

{bugs}

See the changelog entry below for a full list of changes and bugs.

[Test Case]
The following development and SRU process was followed:
{PROCESS}

Run before the upload, from {results.old} to {results.new} (commit {results.commit}, package sha256
{results.package_sha256}), started {results.started}; {len(results.of('passed'))} cases passed, none failed:

{chr(10).join(ran)}

To be run, and verified by whom (pending until that is written here):

{chr(10).join(people)}

The vendor's team will execute its test suite against the azure-proxy-agent that is in -proposed. A successful run is required
before the proposed azure-proxy-agent can be let into -updates.

The image team is in charge of attaching a summary of testing to the bug, and does not mark 'verification-done' until this has
happened.

[Where problems could occur]
{RISKS}

[Rules that hold]
{RULES}
{waiver}

== End SRU Template ==

[Changelog]
{stanza}"""
