#!/usr/bin/env python3
"""Runs test commands one after another, shows their output immediately, and ends with one line of totals.

    test_counts.py COMMAND...       each COMMAND is one shell command line

The last line is `N passed, N failed, N skipped`, over all commands. The counts come from the `test result:` lines of
cargo and the closing lines of Python's unittest (which writes them to standard error: add `2>&1`). A command that fails
without having run any tests, such as a build, ends the run; after failed tests, the other commands still run. The exit
status is that of the first command that failed.
"""

import os
import re
import subprocess
import sys

CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ")
UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.ran = None

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    def total(self):
        return self.passed + self.failed + self.skipped

    def read(self, line):
        line = COLOUR.sub("", line).rstrip()
        if found := CARGO.match(line):
            passed, failed, skipped = map(int, found.groups())
            self.add(passed, failed, skipped)
        elif found := UNITTEST_RAN.match(line):
            self.ran = int(found[1])
        elif self.ran is not None and (found := UNITTEST_END.match(line)):
            notes = {name: int(number) for name, number in re.findall(r"([a-z ]+)=(\d+)", found[1] or "")}
            notes = {name.strip(): number for name, number in notes.items()}
            failed = sum(notes.get(name, 0) for name in ("failures", "errors", "unexpected successes"))
            skipped = notes.get("skipped", 0)
            # One test with several failed subtests counts once per subtest.
            self.add(max(0, self.ran - failed - skipped), failed, skipped)
            self.ran = None

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


def run(command, counts):
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            counts.read(line.decode(errors="replace"))
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def main(commands):
    if not commands:
        print("usage: test_counts.py COMMAND...", file=sys.stderr)
        return 2
    if sys.stdout.isatty():
        os.environ.setdefault("CARGO_TERM_COLOR", "always")
    counts, status = Counts(), 0
    try:
        for command in commands:
            before = counts.total()
            print(f"$ {command}", flush=True)
            result = run(command, counts)
            status = status or result
            if result != 0 and counts.total() == before:
                print(f"stopped: `{command}` failed before any test ran")
                break
    except KeyboardInterrupt:
        status = 130
    print(counts, flush=True)
    return status or (1 if counts.failed else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
