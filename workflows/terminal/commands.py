"""The commands of `stin-pipe`, in the order in which a user meets them."""

PROGRAM = "stin-pipe"
PACKAGE = "stin_pipe.workflows.commands"
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("run", "run_chain", "Run the whole chain from one configuration file."),
    "extract": ("extract", "extract", "Extract frames and optical flow of videos into shards."),
    "import": ("import_", "import_", "Turn folders of frame and flow images into shards."),
    "export": ("export", "export", "Write frames and flow as folders of images."),
    "train-spatial": ("train", "train_spatial", "Train the spatial stream (RGB frames)."),
    "train-temporal": ("train", "train_temporal", "Train the temporal stream (optical flow)."),
    "ablate": ("ablate", "ablate", "Compare variants of the streams over several seeds."),
    "fuse-eval": ("fuse_eval", "fuse_eval", "Score the test videos, fuse the streams, write the report."),
    "job": ("job", "job", "Turn the chain into Slurm, Ray or Kubernetes jobs."),
    "compare": ("compare", "compare", "Compare results side by side, with paired differences."),
    "predict": ("predict", "predict", "Classify videos with trained streams."),
    "status": ("status", "status", "Show how far a run is."),
    "verify": ("verify", "verify", "Re-read and check every shard of a run."),
    "completion": ("completion", "completion", "Print a script that lets a shell complete commands."),
    "doctor": ("doctor", "doctor", "Check what works on this machine."),
    "demo": ("demo", "demo", "Run the whole pipeline on videos that it makes itself."),
}
"""Name -> module, function, one line of help; a table, so that `stin-pipe --help` imports no command."""

RESUMABLE = frozenset(
    (
        *("run", "extract", "import", "export", "demo"),
        *("train-spatial", "train-temporal", "ablate", "fuse-eval"),
    )
)
"""The commands that keep what they have finished when they are stopped; the others start over."""
