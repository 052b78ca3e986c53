"""TV-L1 optical flow in plain torch: the specification that the fast back ends are tested against.

Written to be read beside the paper, in the meaning of OpenCV's CUDA version, not for speed.

Legend: H, W sides of one pyramid level; all tensors are (H, W). u1, u2 flow in x and y (pixels a frame);
p1x, p1y, p2x, p2y duals of u1 and u2; gx, gy gradient of frame 1; a trailing w means warped by u.

Source: Zach et al. 2007; OpenCV contrib, module cudaoptflow, for the pyramid, the borders and the warp.
Differs: the stop rule is tested after every `check_interval` iterations of each pair by itself (OpenCV
skips tests in proportion to the last error); tested every 2, 4 or 8 iterations the end-point error is the
same.
"""

import numpy as np
import torch

from stin_pipe.pipeline.flow.frames import TracedFlow
from stin_pipe.pipeline.flow.params import TVL1Params, pyramid_sizes
from stin_pipe.pipeline.flow.steps import GRADIENT_FLOOR, catmull_rom

FLOOR = float(GRADIENT_FLOOR)


def solve_pairs(frames0: np.ndarray, frames1: np.ndarray, params: TVL1Params) -> TracedFlow:
    """Solve N pairs of checked (N, H, W) frames, one after another, in float32 on the CPU."""
    flows, iterations = [], []
    for frame0, frame1 in zip(torch.from_numpy(frames0), torch.from_numpy(frames1), strict=True):
        flow, counts = solve(frame0.float(), frame1.float(), params)
        flows.append(flow.numpy())
        iterations.append(counts)
    return TracedFlow(flow=np.stack(flows), iterations=np.array(iterations, np.int32))


def solve(
    frame0: torch.Tensor, frame1: torch.Tensor, params: TVL1Params
) -> tuple[torch.Tensor, list[list[int]]]:
    """Solve one pair in the frames' own precision and device.

    Args:
        frame0: (H, W) float32 or float64 grey values in 0..255.
        frame1: The next frame, alike.
        params: TV-L1 parameters.

    Returns:
        The flow (H, W, 2) in pixels a frame, x then y; and the iterations of each solve by level (finest
        first) and warp.
    """
    sizes = pyramid_sizes(frame0.shape[0], frame0.shape[1], params)
    pyramid0, pyramid1 = pyramid(frame0, sizes, params), pyramid(frame1, sizes, params)
    flow = frame0.new_zeros((2, *sizes[-1]))
    iterations: list[list[int]] = [[] for _ in sizes]
    for level in reversed(range(len(sizes))):
        if level < len(sizes) - 1:
            (height, width), coarse = sizes[level], sizes[level + 1]
            ratio = coarse[0] / height, coarse[1] / width
            flow = torch.stack([resize(u, sizes[level], ratio) for u in flow]) / params.scale_step
        flow, iterations[level] = solve_level(pyramid0[level], pyramid1[level], flow, params)
    return flow.movedim(0, -1).contiguous(), iterations


def pyramid(frame: torch.Tensor, sizes: list[tuple[int, int]], params: TVL1Params) -> list[torch.Tensor]:
    """Return the levels of a frame, each resized from the one before without smoothing."""
    levels = [frame]
    for size in sizes[1:]:
        levels.append(resize(levels[-1], size, 1 / params.scale_step))
    return levels


def resize(image: torch.Tensor, size: tuple[int, int], ratio: float | tuple[float, float]) -> torch.Tensor:
    """Sample `image` bilinearly at `ratio` times the target's coordinates, borders replicated.

    Pixel 0 stays at pixel 0, as in OpenCV's CUDA resize (its CPU one aligns the images' outer edges).
    """
    ratio_y, ratio_x = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    (y0, y1, ty), (x0, x1, tx) = (
        _two_samples(count, step, limit, image)
        for count, step, limit in zip(size, (ratio_y, ratio_x), image.shape, strict=True)
    )
    rows = image[y0] + ty[:, None] * (image[y1] - image[y0])
    return rows[:, x0] + tx * (rows[:, x1] - rows[:, x0])


def _two_samples(count: int, step: float, limit: int, like: torch.Tensor):
    """Indices of the two samples of each target coordinate, and the weight of the second."""
    position = torch.arange(count, dtype=torch.float64, device=like.device) * step
    first = position.floor().long()
    return first.clamp(max=limit - 1), (first + 1).clamp(max=limit - 1), (position - first).to(like.dtype)


def solve_level(frame0: torch.Tensor, frame1: torch.Tensor, flow: torch.Tensor, params: TVL1Params):
    """Warp `num_warps` times and iterate after each warp; return the flow (2, H, W) and the iterations."""
    gx, gy = centred_gradient(frame1)
    u1, u2 = flow
    p1x = p1y = p2x = p2y = torch.zeros_like(frame0)  # kept from warp to warp
    counts = []
    for _ in range(params.num_warps):
        frame1w, gxw, gyw = (warp(image, u1, u2) for image in (frame1, gx, gy))
        grad2 = gxw**2 + gyw**2
        inv_grad2 = torch.where(grad2 > FLOOR, 1 / grad2.clamp(min=FLOOR), 0)
        rho_c = frame1w - gxw * u1 - gyw * u2 - frame0

        count = 0
        for count in range(1, params.max_iterations + 1):
            rho = rho_c + gxw * u1 + gyw * u2
            along = (-rho * inv_grad2).clamp(-params.threshold, params.threshold)  # eq. 15
            last = u1, u2
            u1 = u1 + along * gxw + params.theta * divergence(p1x, p1y)  # eq. 14
            u2 = u2 + along * gyw + params.theta * divergence(p2x, p2y)
            p1x, p1y = update_dual(p1x, p1y, u1, params.dual_step)
            p2x, p2y = update_dual(p2x, p2y, u2, params.dual_step)
            if count % params.check_interval == 0:
                change = ((u1 - last[0]) ** 2 + (u2 - last[1]) ** 2).sum()
                if change <= params.epsilon**2 * u1.numel():
                    break

        counts.append(count)
        if params.median_filter:
            u1, u2 = median(u1, params.median_filter), median(u2, params.median_filter)
    return torch.stack((u1, u2)), counts


def centred_gradient(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the difference of the neighbours, with the border replicated."""
    wide = torch.cat((image[:, :1], image, image[:, -1:]), dim=1)
    high = torch.cat((image[:1], image, image[-1:]), dim=0)
    return 0.5 * (wide[:, 2:] - wide[:, :-2]), 0.5 * (high[2:] - high[:-2])


def warp(image: torch.Tensor, u1: torch.Tensor, u2: torch.Tensor) -> torch.Tensor:
    """Sample `image` bicubically (Catmull-Rom) at x + u, with the border replicated."""
    height, width = image.shape
    x = torch.arange(width, device=image.device) + u1
    y = torch.arange(height, device=image.device)[:, None] + u2
    x0, y0 = x.floor(), y.floor()
    weights_x, weights_y = catmull_rom(x - x0), catmull_rom(y - y0)
    total = torch.zeros_like(image)
    for j, weight_y in enumerate(weights_y):
        rows = (y0.long() + (j - 1)).clamp(0, height - 1)
        for i, weight_x in enumerate(weights_x):
            columns = (x0.long() + (i - 1)).clamp(0, width - 1)
            total = total + weight_y * weight_x * image[rows, columns]
    return total


def divergence(px: torch.Tensor, py: torch.Tensor) -> torch.Tensor:
    """Backward differences; a neighbour outside the image is zero."""
    left = torch.nn.functional.pad(px, (1, 0))[:, :-1]
    up = torch.nn.functional.pad(py, (0, 0, 1, 0))[:-1]
    return (px - left) + (py - up)


def update_dual(px: torch.Tensor, py: torch.Tensor, u: torch.Tensor, dual_step: float):
    """One step of the dual of `u`: forward differences, zero across the last column and row."""
    ux = torch.nn.functional.pad(u[:, 1:] - u[:, :-1], (0, 1))
    uy = torch.nn.functional.pad(u[1:] - u[:-1], (0, 0, 0, 1))
    shrink = 1 / (1 + dual_step * torch.sqrt(ux**2 + uy**2))
    return (px + dual_step * ux) * shrink, (py + dual_step * uy) * shrink


def median(image: torch.Tensor, side: int) -> torch.Tensor:
    """Median of each side x side neighbourhood, with the border replicated."""
    pad = side // 2
    padded = torch.nn.functional.pad(image[None, None], (pad, pad, pad, pad), mode="replicate")[0, 0]
    return padded.unfold(0, side, 1).unfold(1, side, 1).flatten(2).median(dim=2).values
