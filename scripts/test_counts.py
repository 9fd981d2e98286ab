#!/usr/bin/env python3
"""Runs test commands one after another, shows their output immediately, and ends with one line of totals.

    test_counts.py COMMAND...       each COMMAND is one shell command line

The last line is `N passed, N failed, N skipped`, over all commands; before it, the output of failed tests is repeated, in part.
The counts come from the `test result:` lines of cargo and the closing lines of Python's unittest (which writes them to standard
error: add `2>&1`). A command that fails without having run any tests, such as a build, ends the run; after failed tests, the other
commands still run. The exit status is that of the first command that failed.

If a `cargo test` prints nothing for ARES_TEST_SILENCE_SECS (900) seconds after its first tests began, it counts as hung, which is
one failure. Its processes are listed, with the slow tests that have not ended, and the processes without children are killed:
tests that wait for one of them fail, and the run goes on.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time

CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ")
UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?$")
RUNNING = re.compile(r"^running \d+ tests?$")
SLOW = re.compile(r"^test (\S+) has been running for over \d+ seconds")
ENDED = re.compile(r"^test (\S+) \.\.\. ")
SECTION = re.compile(r"^(?:---- .+ stdout ----|(?:FAIL|ERROR): .*)$")
SECTION_END = re.compile(r"^(?:failures:|test result: .*|Ran \d+ tests? in .*)$")
CRASH = re.compile(r"^error: test failed, |^ +process didn't exit successfully: ")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# Of the output of each failed test: the first and the last lines, and characters of a line.
FIRST_LINES, LAST_LINES = 20, 40
CHARACTERS = 600


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.sections = []
        self.in_section = False
        self.ran = None
        self.slow = []

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    def total(self):
        return self.passed + self.failed + self.skipped

    def read(self, line):
        line = COLOUR.sub("", line).rstrip()
        self.keep(line)
        if found := SLOW.match(line):
            self.slow.append(found[1])
        elif (found := ENDED.match(line)) and found[1] in self.slow:
            self.slow.remove(found[1])
        elif found := CARGO.match(line):
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

    def keep(self, line):
        """Keeps what failed tests printed, which cargo and unittest show after all tests of a program."""
        if SECTION.match(line):
            self.sections.append([line])
            self.in_section = True
        elif CRASH.match(line):
            self.sections.append([line])
            self.in_section = False
        elif SECTION_END.match(line):
            self.in_section = False
        elif self.in_section:
            self.sections[-1].append(line)

    def failures(self):
        for lines in self.sections:
            left_out = len(lines) - FIRST_LINES - LAST_LINES
            if left_out > 0:
                lines = [*lines[:FIRST_LINES], f"({left_out} lines left out)", *lines[-LAST_LINES:]]
            yield from (line[:CHARACTERS] for line in lines)

    def add(self, passed, failed, skipped):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


class Silence:
    """Ends what hangs in a command that has printed nothing for too long since its first test began."""

    def __init__(self, process, counts):
        self.limit = float(os.environ.get("ARES_TEST_SILENCE_SECS", "900"))
        self.process, self.counts = process, counts
        self.began = None  # compiling takes long, and prints nothing here
        self.over = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def heard(self, line):
        if self.began is not None or RUNNING.match(line):
            self.began = time.monotonic()

    def watch(self):
        while not self.over.wait(min(1.0, self.limit / 2)):
            if self.began is not None and time.monotonic() - self.began > self.limit and self.process.poll() is None:
                self.end()
                self.began = time.monotonic()

    def end(self):
        slow = ", ".join(self.counts.slow) or "none"
        hangs = f"hangs: nothing was printed for {self.limit:.0f} s; slow tests: {slow}"
        print(hangs)
        self.counts.sections.append([hangs])
        self.counts.failed += 1
        found = descendants(self.process.pid)
        for pid in found:
            print(f"  {pid}: {of_process(pid, 'wchan')}: {of_process(pid, 'cmdline')}", flush=True)
        for pid in (pid for pid, children in found.items() if not children):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def of_process(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""


def descendants(pid):
    """A process and all that it has started, itself first, with the children of each."""
    children = {}
    for other in filter(str.isdigit, os.listdir("/proc")):
        # `pid (name) state parent …`; a name may hold anything.
        fields = of_process(other, "stat").rpartition(")")[2].split()
        if len(fields) > 1 and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(other))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return {pid: children.get(pid, []) for pid in found}


def run(command, counts):
    counts.in_section = False
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        silence = Silence(process, counts)
        try:
            for line in process.stdout:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
                line = line.decode(errors="replace")
                silence.heard(line)
                counts.read(line)
        finally:
            silence.over.set()
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def main(commands):
    if not commands:
        print("usage: test_counts.py COMMAND...", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="replace")
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
    if status or counts.failed:
        print("what failed:")
        for line in counts.failures():
            print(line)
    print(counts, flush=True)
    return status or (1 if counts.failed else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
