"""TV-L1 optical flow: one meaning, four back ends. Importing it loads no back end."""

from stin_pipe.pipeline.flow.api import resolve_backend, trace_tvl1, trace_tvl1_clip, tvl1, tvl1_clip
from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import MIN_SIDE_PX, TVL1Params, pyramid_sizes

__all__ = [
    "MIN_SIDE_PX",
    "TVL1Params",
    "TracedFlow",
    "pyramid_sizes",
    "resolve_backend",
    "trace_tvl1",
    "trace_tvl1_clip",
    "tvl1",
    "tvl1_clip",
]
