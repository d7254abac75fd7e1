"""``python -m fuzz [TARGET...]`` fuzzes targets; ``--try FILE`` runs one input without the fuzzer."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import campaign, target


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(target.NAMES)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="libFuzzer's seed; 0: a new one each time")
    parser.add_argument("--try", type=Path, dest="input", metavar="FILE", help="try this input without the fuzzer")
    arguments = parser.parse_args()
    names = arguments.targets or target.NAMES
    if unknown := set(names) - set(target.NAMES):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if arguments.input is not None:
        if len(names) > 1:
            parser.error("--try needs one target")
        print(target.load(names[0]).run(arguments.input.read_bytes()))
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error(
            "atheris is not installed: there are wheels of it for Linux on x86_64 and some Pythons, see pyproject.toml"
        )
    return fuzz(names, arguments.seconds, arguments.seed)


def fuzz(names: list[str], seconds: int, seed: int) -> int:
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for run in pool.map(lambda name: campaign.run(name, seconds, seed=seed), names):
            print(f"{run.name:<22}", run.summary if not run.failure else f"FAILED\n{run.failure}\n", flush=True)
            failed += [run.name] if run.failure else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
