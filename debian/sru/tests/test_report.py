import copy
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree as xml

from sru import changelog, plan, report, results, version
from sru.results import Fault, Result, Results


def complete():
    """A run in which everything that can run here passed."""
    run = Results("0.1.0-0", "0.2.0-0", {"azure-proxy-agent_0.2.0-0_amd64.deb": "ab" * 32}, "c0ffee", "2026-01-02T03:04:05Z", [])
    for combination in plan.MATRIX:
        for case in combination.cases:
            if combination.kernel:
                run.results.append(Result(combination.name, case, "passed", 1.5, log=f"{case}.log"))
            else:
                run.results.append(Result(combination.name, case, "pending", detail=combination.pending))
    return run


VERSION = changelog.Version("0.2.0", "2026-01-02", 1, [changelog.Entry(2, "Fixed", "Something (LP: #77). Test: `debian/tests/purge`.")])

# The process's template; in it " * " stands for the TODO: list any LP.
TEMPLATE = """\
== Begin SRU Template ==
[Impact]
This release contains both bug-fixes and new
features and we would like to make sure all of our supported customers have
access to these improvements. The notable ones are:

 * LP: #77: Something (LP: #77).

See the changelog entry below for a full list of changes and bugs.

[Test Case]
The following development and SRU process was followed:
https://documentation.ubuntu.com/sru/en/latest/reference/exception-azure-proxy-agent-Updates

The Microsoft team will execute their testsuite, against the azure-proxy-agent
that is in -proposed. A successful run will be required before the proposed
azure-proxy-agent can be let into -updates.

The CPC team will be in charge of attaching a summary of testing to the bug.
CPC team members will not mark ‘verification-done’ until this has happened.

[Where problems could occur]
[Other Info]
== End SRU Template ==
"""


class Report(unittest.TestCase):
    def test_a_complete_run_is_reported_point_by_point(self):
        run = complete()
        report.check(run, "0.2.0-0")
        text = report.text(run, [VERSION], "azure-proxy-agent (0.2.0-0) …\n")
        for words in [
            "== Begin SRU Template ==",
            "[Impact]",
            " * LP: #77: Something (LP: #77).",
            "[Test Case]",
            "[Where problems could occur]",
            "[Other Info]",
            "== End SRU Template ==",
            "azure-proxy-agent (0.2.0-0) …",
            "ab" * 32 + "  azure-proxy-agent_0.2.0-0_amd64.deb",
            "PENDING in the cloud",
            " * Something (LP: #77). debian/tests/purge",
            "[vendor-proposed-run] PENDING",
            "is required before the package is let into",
            "only after the summary of testing is attached",
            "may not be waived yet",
        ]:
            self.assertIn(words, text)
        for combination in plan.MATRIX:
            self.assertIn(combination.name, text)

    def test_the_template_is_there_line_by_line(self):
        text = report.text(complete(), [VERSION], "azure-proxy-agent (0.2.0-0) …\n")
        rest = text
        for line in TEMPLATE.splitlines():
            self.assertIn(line + "\n", rest)
            rest = rest.split(line + "\n", 1)[1]
        # <TODO: Paste in change log entry>
        self.assertIn("azure-proxy-agent (0.2.0-0) …", rest)
        self.assertNotIn("TODO", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 120)

    def test_without_bugs_the_changes_are_what_is_notable(self):
        entries = [changelog.Entry(n, "Added", f"Thing `{n}`: more of it. Test: `debian/tests/purge`.") for n in range(20)]
        text = report.text(complete(), [changelog.Version("0.2.0", None, 1, entries)], "")
        self.assertIn("\n * Thing 0.\n * Thing 1.\n", text)
        self.assertIn(" * Thing 11.\n * and 8 more\nNo Launchpad bug is named in the changelog.\n", text)

    def test_the_entry_has_all_that_is_new_to_the_old_version(self):
        entry = "azure-proxy-agent ({}) unstable; urgency=medium\n\n  * X.\n\n -- A B <a@b.example>  Wed, 04 Mar 2026 05:06:07 +0000\n"
        text = "\n".join(entry.format(name) for name in ("0.3.0-0", "0.2.0-0", "0.1.0-0"))
        names, stanzas = version.since(text, "0.1.0-0")
        self.assertEqual((names, stanzas), (["0.3.0-0", "0.2.0-0"], "\n".join(entry.format(name) for name in names)))

    def test_what_would_not_be_true_is_refused(self):
        def failed(run):
            run.results[3].outcome = "failed"

        def missing(run):
            del run.results[3]

        def skipped(run):
            run.results[3].outcome = "pending"

        def other(run):
            run.new = "0.1.9-0"

        for change, words in [(failed, "1 case"), (missing, "no result"), (skipped, "can run here did not"), (other, "0.1.9-0")]:
            run = complete()
            change(run)
            with self.assertRaisesRegex(Fault, words):
                report.check(run, "0.2.0-0")

    def test_the_waiver_needs_every_step(self):
        run = complete()
        said = [{"version": run.new, "step": step, "by": "A <a@b.example>", "outcome": "passed", "when": "2026-01-03", "link": ""} for step in plan.steps()]
        run.attestations = said
        self.assertIn("may be waived.", report.text(run, [VERSION], ""))
        for change in ({"outcome": "failed"}, {"version": "0.1.9-0"}, None):
            run.attestations = copy.deepcopy(said[:-1]) + ([{**said[-1], **change}] if change else [])
            self.assertIn("may not be waived yet", report.text(run, [VERSION], ""))

    def test_results_are_stored_and_read_back_in_every_form(self):
        with tempfile.TemporaryDirectory() as folder:
            run = complete()
            run.results[0].outcome, run.results[0].detail = "failed", "it said <no> & \x1b[31m"
            results.store(folder, run)
            self.assertEqual(results.load(folder), run)
            root = xml.parse(pathlib.Path(folder) / "junit.xml").getroot()
            self.assertEqual(len(root.findall("testsuite")), len(plan.MATRIX))
            self.assertEqual(len(root.findall(".//failure")), 1)
            self.assertEqual(len(root.findall(".//skipped")), len(run.of("pending")))
            self.assertIn("## Failures", (pathlib.Path(folder) / "report.md").read_text())

    def test_attestations_name_a_step_and_a_person_and_the_last_word_holds(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(Fault, "does not exist"):
                results.attest(folder, "testing-summary", "A", "passed", "2026-01-03", "")
            results.store(folder, complete())
            for step, by, outcome, words in [("no-such", "A", "passed", "unknown step"), ("testing-summary", " ", "passed", "who says")]:
                with self.assertRaisesRegex(Fault, words):
                    results.attest(folder, step, by, outcome, "2026-01-03", "")
            results.attest(folder, "testing-summary", "A", "failed", "2026-01-03", "")
            results.attest(folder, "testing-summary", "B", "passed", "2026-01-04", "")
            self.assertEqual(report.steps(results.load(folder))["testing-summary"]["by"], "B")
            with self.assertRaisesRegex(Fault, "is not what make sru-test writes"):
                (pathlib.Path(folder) / "results.json").write_text("{}")
                results.load(folder)


if __name__ == "__main__":
    unittest.main()
