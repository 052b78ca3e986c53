"""The one error of the project that is meant for the person at the keyboard."""


class StinPipeError(Exception):
    """Data or a run is not as it must be; the message names value, rule, place and next step.

    Attributes:
        problem: the message without the next step, for a caller that has a better one.
    """

    def __init__(self, problem: str, *, next_step: str = "") -> None:
        super().__init__(f"{problem}; {next_step}" if next_step else problem)
        self.problem = problem


class ShardError(StinPipeError):
    """A shard cannot be read, or what it holds differs from its checksums."""


REBUILD = "`stin-pipe verify --run RUN --repair`, then the same extract again, makes this shard anew"
"""What a person does about a damaged shard."""
