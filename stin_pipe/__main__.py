"""`python -m stin_pipe`: the command `stin-pipe`."""

import sys
from pathlib import Path

# `python -m` puts the current folder first, where a user's click.py or numpy.py would hide the library.
if not sys.flags.safe_path and sys.path[0] != str(Path(__file__).absolute().parents[1]):
    del sys.path[0]

from stin_pipe.workflows.cli import main

if __name__ == "__main__":
    main()
