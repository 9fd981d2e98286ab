"""The runner of the test suite: its totals, and what it does about a test that hangs."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

RUNNER = Path(__file__).parents[2] / "scripts" / "test_counts.py"


def run(*commands, silence="60"):
    environment = {**os.environ, "ARES_TEST_SILENCE_SECS": silence}
    done = subprocess.run(
        [sys.executable, RUNNER, *commands], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    return done.returncode, done.stdout.splitlines()


class Counts(unittest.TestCase):
    def test_totals_are_over_all_commands(self):
        cargo = "echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured'"
        python = "printf 'Ran 4 tests in 0.1s\\n\\nFAILED (failures=1, skipped=2)\\n'; exit 1"
        status, lines = run(cargo, python)
        self.assertEqual((status, lines[-1]), (1, "4 passed, 1 failed, 3 skipped"))

    def test_what_failed_is_repeated_at_the_end(self):
        cargo = (
            "printf 'test a::b ... FAILED\\n\\nfailures:\\n\\n---- a::b stdout ----\\nthread panicked at x.rs:1\\n\\nfailures:\\n    a::b\\n';"
            "echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured'; exit 1"
        )
        python = "printf 'FAIL: test_c\\n-----\\nAssertionError: 1\\nRan 1 test in 0.1s\\n\\nFAILED (failures=1)\\n'; exit 1"
        status, lines = run(cargo, python)
        self.assertEqual(status, 1)
        again = lines[lines.index("what failed:") :]
        self.assertEqual([line for line in again if "panicked" in line or "Assertion" in line or "::" in line],
                         ["---- a::b stdout ----", "thread panicked at x.rs:1", "AssertionError: 1"])
        self.assertEqual(again[-1], "3 passed, 2 failed, 0 skipped")

    def test_the_end_of_a_long_output_and_crashes_are_repeated_too(self):
        long = (
            "echo '---- a::b stdout ----'; seq 1000; echo 'thread panicked at x.rs:1';"
            "echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured'"
        )
        crash = "echo \"  process didn't exit successfully: it (signal: 11, SIGSEGV)\"; exit 101"
        status, lines = run(long, "echo 'ERROR: of no test'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'", crash)
        again = lines[lines.index("what failed:") :]
        self.assertIn("(942 lines left out)", again)
        self.assertIn("thread panicked at x.rs:1", again)
        self.assertIn("  process didn't exit successfully: it (signal: 11, SIGSEGV)", again)
        self.assertEqual(status, 101)
        _, lines = run("echo 'ERROR: of no test'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'")
        self.assertNotIn("what failed:", lines)

    def test_a_command_that_fails_without_tests_ends_the_run(self):
        status, lines = run("exit 3", "echo never")
        self.assertEqual((status, lines[-1]), (3, "0 passed, 0 failed, 0 skipped"))
        self.assertNotIn("never", lines)

    def test_what_hangs_is_named_and_ended(self):
        command = (
            "echo 'running 2 tests';"
            "echo 'test a::slow has been running for over 60 seconds';"
            "sleep 600 || echo 'test a::slow ... FAILED';"
            "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'"
        )
        status, lines = run(command, "echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'", silence="4")
        self.assertIn("hangs: nothing was printed for 4 s; slow tests: a::slow", lines)
        self.assertTrue(any(line.startswith("  ") and line.endswith(": sleep 600") for line in lines), lines)
        self.assertEqual((status, lines[-1]), (1, "2 passed, 2 failed, 0 skipped"))


if __name__ == "__main__":
    unittest.main()
