#!/usr/bin/env python3
"""Portcullis beside the proxies people would otherwise use, on one machine, in one run.

    cargo build --profile dist
    python3 benches/compare/compare.py --out benches/compare/results.md

Everything an architecture needs, the origin and the load run on one core (`--core`), saturated, so that CPU per request
repeats; the systems take turns, round by round, and a cell is the median of the rounds with its spread. Nothing is
installed: a peer that is not found is named and left out. Load goes to 127.0.0.1 only; what was started is ended by pid.
"""
import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import floods
import measure
import origins
import systems

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("authenticated", "public", "unix", "rate", "bodies", "tls", "http2", "memory", "floods", "origins")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--portcullis", default=str(ROOT / "target/dist/portcullis"))
    arguments.add_argument("--against", help="another build of Portcullis, measured in the same run as `portcullis-before`")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=3.0, help="how long each system is driven in a round")
    arguments.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments.add_argument("--tasks", default=",".join(TASKS), help="which of: " + ", ".join(TASKS))
    arguments.add_argument("--systems", help="only these, by name, comma separated")
    arguments.add_argument("--connections", type=int, default=9000, help="idle connections to hold")
    arguments.add_argument("--bin", action="append", default=[], help="where else to look for peers")
    arguments.add_argument("--out", help="where the Markdown goes; absent: the screen only")
    options = arguments.parse_args()
    path = os.pathsep.join([*options.bin, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

    missing = [tool for tool in ("wrk", "h2load", "nginx", "openssl", "taskset") if not shutil.which(tool, path=path)]
    if missing:
        sys.exit(f"the load and the origin need {', '.join(missing)} "
                 "(Debian: apt-get install wrk nghttp2-client nginx openssl util-linux)")
    if not Path(options.portcullis).exists():
        sys.exit(f"`{options.portcullis}` is not there: cargo build --profile dist")

    tasks = options.tasks.split(",")
    report = measure.Report(options)
    with tempfile.TemporaryDirectory(prefix="portcullis-compare-") as directory:
        rig = systems.Rig(Path(directory), path, options)
        try:
            rig.start_origin()
            rig.start_emulator()
            report.note(f"{len(rig.tokens)} tokens of {statistics.mean(map(len, rig.tokens)):.0f} bytes")
            for name, why in rig.not_found():
                report.note(f"not found, left out: {name} ({why})")
            for task in tasks:
                apart = {"floods": floods.floods, "origins": origins.origins}
                (apart.get(task) or getattr(measure, task))(rig, report, options)
            for failure in dict.fromkeys(rig.left_out):
                report.note(f"left out of a table, since it did not answer: {failure}")
        finally:
            rig.stop()
    text = report.markdown()
    print(text)
    if options.out:
        Path(options.out).write_text(text)


if __name__ == "__main__":
    main()
