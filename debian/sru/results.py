"""What ran, on what, and how it ended: one JSON document per run of `make sru-test`, and its forms for people and for other programs."""

import dataclasses
import json
import os
import pathlib
import xml.etree.ElementTree as xml

from . import plan


class Fault(Exception):
    """Why results cannot be used."""


@dataclasses.dataclass
class Result:
    """One case on one combination."""

    combination: str
    case: str
    #: `passed`, `failed`, or `pending`: it could not run here.
    outcome: str
    seconds: float = 0.0
    #: Why it failed, or why it must wait.
    detail: str = ""
    #: Name of its log beside the results; empty if there is none.
    log: str = ""
    #: What machine, packages and tests it ran on: what passed with the same need not run again.
    inputs: str = ""


@dataclasses.dataclass
class Results:
    """One run."""

    old: str
    new: str
    #: Files and SHA-256 of the packages that were tested: what is uploaded must be these.
    packages: dict[str, str]
    commit: str
    started: str
    results: list[Result]
    attestations: list[dict] = dataclasses.field(default_factory=list)

    def of(self, outcome):
        """Those that ended so."""
        return [result for result in self.results if result.outcome == outcome]

    def todo(self, combination):
        """Its cases that have no result yet."""
        ran = {result.case for result in self.results if result.combination == combination.name}
        return [case for case in combination.cases if case not in ran]

    def missing(self):
        """What the plan has and the run has not."""
        return [(c.name, case) for c in plan.MATRIX for case in self.todo(c)]

    def in_order(self):
        """All results in the order of the plan, whenever they came."""
        order = {(c.name, case): n for n, (c, case) in enumerate((c, case) for c in plan.MATRIX for case in c.cases)}
        return sorted(self.results, key=lambda r: order.get((r.combination, r.case), len(order)))


def load(folder):
    """Reads `results.json`, and what people attested since."""
    path = pathlib.Path(folder) / "results.json"
    try:
        value = json.loads(path.read_text())
        results = Results(**{**value, "results": [Result(**result) for result in value["results"]]})
    except FileNotFoundError:
        raise Fault(f"{path} does not exist; make sru-test writes it") from None
    except (ValueError, TypeError, KeyError) as e:
        raise Fault(f"{path} is not what make sru-test writes: {e}") from None
    attested = pathlib.Path(folder) / "attested.jsonl"
    if attested.exists():
        results.attestations = [json.loads(line) for line in attested.read_text().splitlines() if line.strip()]
    return results


def store(folder, results):
    """Writes all forms: results.json, junit.xml, report.md."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results.results = results.in_order()
    value = dataclasses.asdict(results)
    del value["attestations"]
    _replace(folder / "results.json", json.dumps(value, indent=2) + "\n")
    _replace(folder / "junit.xml", junit(results))
    _replace(folder / "report.md", markdown(results))


def attest(folder, step, by, outcome, when, link):
    """Adds what somebody says of a step that is taken elsewhere. Nothing is ever taken back: the last word on a step holds."""
    version = load(folder).new
    if step not in plan.steps():
        raise Fault(f"unknown step {step!r}; one of {', '.join(plan.steps())}")
    if outcome not in ("passed", "failed"):
        raise Fault(f"a step has passed or failed, not {outcome!r}")
    if not by.strip():
        raise Fault("who says so? BY='Name <mail>'")
    with open(pathlib.Path(folder) / "attested.jsonl", "a") as file:
        file.write(json.dumps({"version": version, "step": step, "by": by, "outcome": outcome, "when": when, "link": link}) + "\n")


def _replace(path, text):
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text)
    os.replace(new, path)


def junit(results):
    """As JUnit XML: one suite per combination; what is pending counts as skipped."""
    root = xml.Element("testsuites", name=f"azure-proxy-agent {results.new}")
    for name in dict.fromkeys(result.combination for result in results.results):
        cases = [result for result in results.results if result.combination == name]
        suite = xml.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(cases)),
            failures=str(sum(c.outcome == "failed" for c in cases)),
            skipped=str(sum(c.outcome == "pending" for c in cases)),
            time=f"{sum(c.seconds for c in cases):.3f}",
            timestamp=results.started,
        )
        for case in cases:
            element = xml.SubElement(suite, "testcase", classname=name.replace("/", "."), name=case.case, time=f"{case.seconds:.3f}")
            if case.outcome == "failed":
                xml.SubElement(element, "failure", message=_printable(case.detail))
            elif case.outcome == "pending":
                xml.SubElement(element, "skipped", message=_printable(case.detail))
            if case.log:
                xml.SubElement(element, "system-out").text = case.log
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text):
    """XML 1.0 has no words for control characters, not even escaped."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 0x20 else f"\\x{ord(c):02x}" for c in text)


def markdown(results):
    """For people."""
    lines = [
        f"# Test results: azure-proxy-agent {results.old} to {results.new}",
        "",
        f"Commit {results.commit}, started {results.started}.",
        "",
        *(f"    {sha}  {name}" for name, sha in results.packages.items()),
        "",
        f"{len(results.of('passed'))} passed, {len(results.of('failed'))} failed, {len(results.of('pending'))} pending in the cloud.",
        "",
        "| combination | case | result | seconds | log |",
        "|---|---|---|---|---|",
    ]
    for r in results.results:
        log = f"[{r.log}]({r.log})" if r.log else ""
        seconds = f"{r.seconds:.1f}" if r.outcome != "pending" else ""
        lines.append(f"| {r.combination} | {r.case} | {r.outcome} | {seconds} | {log} |")
    failed = results.of("failed")
    if failed:
        lines += ["", "## Failures", ""] + [f"- {r.combination}, {r.case}: {r.detail}" for r in failed]
    waiting = {r.combination: r.detail for r in results.of("pending")}
    if waiting:
        lines += ["", "## Pending in the cloud", ""] + [f"- {name}: {why}" for name, why in waiting.items()]
    return "\n".join(lines) + "\n"
