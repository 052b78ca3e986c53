"""TV-L1 optical flow: one meaning, four back ends. Importing it loads no back end."""

from stin_pipe.pipeline.flow.api import tvl1, tvl1_clip
from stin_pipe.pipeline.flow.backends import require_support, resolve_backend
from stin_pipe.pipeline.flow.colour import flow_to_colour
from stin_pipe.pipeline.flow.params import MIN_SIDE_PX, TVL1Params, pyramid_sizes, set_params

__all__ = [
    "MIN_SIDE_PX",
    "TVL1Params",
    "flow_to_colour",
    "pyramid_sizes",
    "require_support",
    "resolve_backend",
    "set_params",
    "tvl1",
    "tvl1_clip",
]
