import pathlib
import re
import unittest

from sru import plan

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Plan(unittest.TestCase):
    def test_the_cases_are_those_of_debian_tests_and_all_of_them(self):
        control = (ROOT / "debian/tests/control").read_text()
        named = [name for line in re.findall(r"(?m)^Tests: (.*)$", control) for name in line.replace(",", " ").split()]
        self.assertEqual(sorted(named), sorted(plan.CASES))
        for name in named:
            self.assertTrue((ROOT / "debian/tests" / name).stat().st_mode & 0o111, name)

    def test_everything_that_differs_is_in_the_matrix(self):
        here = [c for c in plan.MATRIX if c.kernel]
        self.assertEqual({c.kernel for c in here}, {"5.10", "6.1", "6.12"})
        self.assertEqual({c.package for c in here}, {plan.FULL, plan.MINIMAL})
        self.assertIn((1, "512M"), {(c.cpus, c.memory) for c in here})
        self.assertTrue(any(set(c.cases) == set(plan.CASES) for c in here))
        # "These are the test cases that all azure-proxy-agent are subjected to".
        for value in ("kernel", "package", "size"):
            for kind in {getattr(c, value) for c in here}:
                self.assertTrue(any(set(plan.PRE_UPDATE) <= set(c.cases) for c in here if getattr(c, value) == kind), kind)
        self.assertEqual(len({c.name for c in plan.MATRIX}), len(plan.MATRIX))
        for c in plan.MATRIX:
            self.assertEqual(c.kernel is None, c.pending is not None, c.name)
            self.assertLessEqual(set(c.cases), set(plan.CASES))

    def test_the_manual_names_every_step_and_every_case_that_the_process_documents(self):
        text = (ROOT / "docs/releasing.md").read_text()
        for name in [*plan.EXTERNAL, *plan.PRE_UPDATE, "first-boot"]:
            self.assertIn(f"`{name}`", text)


if __name__ == "__main__":
    unittest.main()
