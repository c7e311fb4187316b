#!/usr/bin/env python3
"""Runs the tests under conditions of machines that we do not have, and names those whose outcome depends on it.

    cargo test --no-run && python3 tests/alone.py [MODE…] [--only PART] [--limit SECONDS]

MODE is one or several of (default: all of them):
  alone    every test by itself, several at a time
  onecore  all tests on one core
  busy     all tests at nice 19 on one core, beside a loop that never rests
  serial   --test-threads 1
  crowd    --test-threads 16

It prints one line for each failure with the end of what the test said, and ends with exit code 1 if there was any.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time

MODES = ["alone", "onecore", "busy", "serial", "crowd"]


def binaries():
    """The test programs that cargo built, by the name of their target."""
    told = subprocess.run(
        ["cargo", "test", "--no-run", "--message-format", "json"], capture_output=True, text=True, check=True
    )
    for line in told.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            yield message["target"]["name"], message["executable"]


def names(program):
    told = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    return [line[: -len(": test")] for line in told.stdout.splitlines() if line.endswith(": test")]


def run(command, limit):
    """Exit code, output and seconds; a test that hangs fails."""
    began = time.monotonic()
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
        return ended.returncode, ended.stdout + ended.stderr, time.monotonic() - began
    except subprocess.TimeoutExpired as expired:
        said = (expired.stdout or b"").decode(errors="replace")
        return 124, f"{said}\nno end after {limit} s", time.monotonic() - began


def alone(programs, options):
    jobs = [(target, program, name) for target, program in programs for name in names(program) if options.only in name]
    failed = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {pool.submit(run, [program, "--exact", name], options.limit): (target, name) for target, program, name in jobs}
        for ended in concurrent.futures.as_completed(started):
            code, output, _ = ended.result()
            if code != 0:
                failed.append((*started[ended], output))
    return len(jobs), failed


def together(programs, options, before, arguments, beside=None):
    count, failed = 0, []
    loop = subprocess.Popen(beside) if beside else None
    try:
        for target, program in programs:
            code, output, _ = run([*before, program, options.only, *arguments], options.limit * 30)
            count += sum(line.endswith("... ok") or line.endswith("... FAILED") for line in output.splitlines())
            lines = output.splitlines()
            named = [line.split()[1] for line in lines if line.startswith("test ") and line.endswith("... FAILED")]
            failed += [(target, name, output.split(f"---- {name} stdout ----")[-1][:2000]) for name in named]
            if code != 0 and not named:
                failed.append((target, "(as a whole)", output))
    finally:
        if loop:
            loop.kill()
            loop.wait()
    return count, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="MODE")
    parser.add_argument("--only", default="", help="tests whose name holds this")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one test")
    options = parser.parse_args()
    unknown = set(options.modes) - set(MODES)
    if unknown:
        parser.error(f"no such mode: {', '.join(sorted(unknown))}")
    programs = list(binaries())
    one_core = ["taskset", "-c", "0"]
    ways = {
        "alone": lambda: alone(programs, options),
        "onecore": lambda: together(programs, options, one_core, []),
        "busy": lambda: together(
            programs,
            options,
            ["nice", "-n", "19", *one_core],
            [],
            beside=[*one_core, sys.executable, "-c", "while True: pass"],
        ),
        "serial": lambda: together(programs, options, [], ["--test-threads", "1"]),
        "crowd": lambda: together(programs, options, [], ["--test-threads", "16"]),
    }
    any_failed = False
    for mode in options.modes or MODES:
        began = time.monotonic()
        count, failed = ways[mode]()
        any_failed |= bool(failed)
        print(f"{mode}: {count} tests, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
        for target, name, output in failed:
            said = [line for line in output.strip().splitlines() if "panicked at" in line or "assert" in line or "no end" in line]
            print(f"  {target} {name}\n    " + "\n    ".join(said[-3:] or output.strip().splitlines()[-3:]), flush=True)
    sys.exit(any_failed)


if __name__ == "__main__":
    main()
