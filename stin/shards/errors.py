"""The one error of the project that is meant for the person at the keyboard."""


class StinPipeError(Exception):
    """Data or a run is not as it must be; the message names value, rule, place and next step."""


class ShardError(StinPipeError):
    """A shard cannot be read, or what it holds differs from its checksums."""


REBUILD = "`stin-pipe verify --run RUN --repair`, then the same extract again, makes this shard anew"
"""What a person does about a damaged shard."""
