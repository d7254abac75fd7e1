"""What a decision costs, what the transports make of it, and what is left of it behind Envoy.

Law: one run, one machine, alternating order; figures of one run may be compared with each other and with nothing else.
Parts two and three need Debian's ``nghttp2-client``, and with ``--write`` they go into docs/performance.md.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from bench.behind_envoy import behind_envoy
from bench.decision import decision_alone
from bench.report import footprints, machine, table, write
from bench.servers import transports
from bench.subject import Subject


def main() -> int:
    """Run all parts; returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(Path(name))
        decision_alone(subject)
        if shutil.which("h2load") is None:
            print("NOT MEASURED: h2load is missing; apt-get install nghttp2-client", file=sys.stderr)
            return 1
        (direct, took), behind = transports(subject), behind_envoy(subject)
    if "--write" in sys.argv:
        parts = {"transports": table(direct), "footprint": footprints(took), "envoy": table(behind)}
        write({"machine": machine(), **parts}, direct)
    return 0


if __name__ == "__main__":
    sys.exit(main())
