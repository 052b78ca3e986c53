"""`python -m stin_pipe`: the command `stin-pipe`."""

from stin_pipe.workflows.cli import main

if __name__ == "__main__":
    main()
