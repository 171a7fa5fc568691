import copy
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree as xml

from sru import changelog, plan, report, results
from sru.results import Fault, Result, Results


def complete():
    """A run in which everything that can run here passed."""
    run = Results("0.1.0-1", "0.2.0-1", "ab" * 32, "c0ffee", "2026-01-02T03:04:05Z", [])
    for combination in plan.MATRIX:
        for case in combination.cases:
            if combination.kernel:
                run.results.append(Result(combination.name, case, "passed", 1.5, log=f"{case}.log"))
            else:
                run.results.append(Result(combination.name, case, "pending", detail=combination.pending))
    return run


VERSION = changelog.Version("0.2.0", "2026-01-02", 1, [changelog.Entry(2, "Fixed", "Something (LP: #77). Test: `debian/tests/purge`.")])


class Report(unittest.TestCase):
    def test_a_complete_run_is_reported_point_by_point(self):
        run = complete()
        report.check(run, "0.2.0-1")
        text = report.text(run, VERSION, "azure-proxy-agent (0.2.0-1) …\n")
        for words in [
            "== Begin SRU Template ==",
            "[Impact]",
            " * LP: #77",
            "[Test Case]",
            "[Where problems could occur]",
            "[Rules that hold]",
            "== End SRU Template ==",
            "azure-proxy-agent (0.2.0-1) …",
            "PENDING in the cloud",
            "[vendor-proposed-run] PENDING",
            "must succeed before the package is let into -updates",
            "only after the summary of testing is attached",
            "may not be waived yet",
        ]:
            self.assertIn(words, text)
        for combination in plan.MATRIX:
            self.assertIn(combination.name, text)

    def test_what_would_not_be_true_is_refused(self):
        def failed(run):
            run.results[3].outcome = "failed"

        def missing(run):
            del run.results[3]

        def skipped(run):
            run.results[3].outcome = "pending"

        def other(run):
            run.new = "0.1.9-1"

        for change, words in [(failed, "1 case"), (missing, "no result"), (skipped, "can run here did not"), (other, "0.1.9-1")]:
            run = complete()
            change(run)
            with self.assertRaisesRegex(Fault, words):
                report.check(run, "0.2.0-1")

    def test_the_waiver_needs_every_step(self):
        run = complete()
        run.results = [r for r in run.results if r.outcome == "passed"]
        said = [{"step": step, "by": "A <a@b.example>", "outcome": "passed", "when": "2026-01-03", "link": ""} for step in plan.EXTERNAL]
        run.attestations = said
        self.assertIn("may be waived.", report.text(run, VERSION, ""))
        for change in ({"outcome": "failed"}, None):
            run.attestations = copy.deepcopy(said[:-1]) + ([{**said[-1], **change}] if change else [])
            self.assertIn("may not be waived yet", report.text(run, VERSION, ""))

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
