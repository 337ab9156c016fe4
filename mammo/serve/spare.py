"""A process that waits with its libraries loaded to become a worker of some version, and then runs that version's code.

A script of its own that imports nothing of this package: `python -P spare.py LIBRARY …`. The first line on standard
input is JSON; its `code` is the folder of the version's package, and its worker reads the rest.
"""

import importlib
import json
import os
import sys


def main() -> None:
    """Load the libraries that the arguments name, wait for the order, become the worker."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    for library in sys.argv[1:]:
        importlib.import_module(library)
    line = sys.stdin.buffer.readline()
    if line:
        order = json.loads(line)
        sys.path.insert(0, order["code"])
        try:
            importlib.import_module("mammo.serve.worker").run(order, sys.stdin.buffer, answers)
        except BrokenPipeError:  # whoever asked has ended
            os._exit(1)


if __name__ == "__main__":
    main()
