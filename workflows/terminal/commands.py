"""The commands of `stin-pipe`, in the order in which a user meets them."""

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": (
        "stin_pipe.workflows.commands.run",
        "run_chain",
        "Run the whole chain from one configuration file.",
    ),
    "extract": (
        "stin_pipe.workflows.commands.extract",
        "extract",
        "Extract frames and optical flow of videos into shards.",
    ),
    "import": (
        "stin_pipe.workflows.commands.import_",
        "import_",
        "Turn folders of frame and flow images into shards.",
    ),
    "export": (
        "stin_pipe.workflows.commands.export",
        "export",
        "Write frames and flow as folders of images.",
    ),
    "train-spatial": (
        "stin_pipe.workflows.commands.train",
        "train_spatial",
        "Train the spatial stream (RGB frames).",
    ),
    "train-temporal": (
        "stin_pipe.workflows.commands.train",
        "train_temporal",
        "Train the temporal stream (optical flow).",
    ),
    "ablate": (
        "stin_pipe.workflows.commands.ablate",
        "ablate",
        "Compare variants of the streams over several seeds.",
    ),
    "fuse-eval": (
        "stin_pipe.workflows.commands.fuse_eval",
        "fuse_eval",
        "Score the test videos, fuse the streams, write the report.",
    ),
    "job": ("stin_pipe.workflows.commands.job", "job", "Turn the chain into Slurm, Ray or Kubernetes jobs."),
    "compare": (
        "stin_pipe.workflows.commands.compare",
        "compare",
        "Compare results side by side, with paired differences.",
    ),
    "predict": ("stin_pipe.workflows.commands.predict", "predict", "Classify videos with trained streams."),
    "status": ("stin_pipe.workflows.commands.status", "status", "Show how far a run is."),
    "verify": ("stin_pipe.workflows.commands.verify", "verify", "Re-read and check every shard of a run."),
    "completion": (
        "stin_pipe.workflows.commands.completion",
        "completion",
        "Print a script that lets a shell complete commands.",
    ),
    "doctor": ("stin_pipe.workflows.commands.doctor", "doctor", "Check what works on this machine."),
    "demo": (
        "stin_pipe.workflows.commands.demo",
        "demo",
        "Run the whole pipeline on videos that it makes itself.",
    ),
}
"""Name -> module, function, one line of help; a table, so that `stin-pipe --help` imports no command."""

RESUMABLE = frozenset(
    (
        *("run", "extract", "import", "export", "demo"),
        *("train-spatial", "train-temporal", "ablate", "fuse-eval"),
    )
)
"""The commands that keep what they have finished when they are stopped; the others start over."""
