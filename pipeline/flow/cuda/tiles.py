"""How an image is cut into tiles that iterate on chip, and the index scheme inside a tile.

A thread keeps a patch of 4 x 4 pixels in registers; a block of threads keeps a tile of patches and runs
several iterations on it before anything goes back to memory. An iteration needs one more pixel on each
side than it yields, so tiles overlap by a halo on each inner side, and a tile owns what lies between.
All of it is counted in whole patches: loads stay 16 bytes wide, and a patch is owned as a whole or not.

The plan depends on the image's size alone, never on the number of pairs or on free memory, so that a pair
has the same result in every batch.

Legend: a length in patches unless its name says px; t the thread's index in its block.
"""

import dataclasses

PATCH_PX = 4
WARP = 32
"""Threads that a GPU runs together: a tile costs whole warps."""
MOST_STEPS = 8
"""Iterations on chip: at 4 the memory of an H200 would be the limit, at 16 most of a tile would be halo."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TilePlan:
    """The tiling of one pyramid level.

    Attributes:
        height_px: Height of the level.
        width_px: Width of the level.
        patches_x: Patches that cover a row.
        patches_y: Patches that cover a column.
        tile_x: Width of a tile.
        tile_y: Height of a tile.
        halo: Overlap with a neighbouring tile, on each inner side.
        tiles_x: Tiles side by side.
        tiles_y: Tiles one above another.
        steps: Iterations that the halo allows on chip.
    """

    height_px: int
    width_px: int
    patches_x: int
    patches_y: int
    tile_x: int
    tile_y: int
    halo: int
    tiles_x: int
    tiles_y: int
    steps: int

    @property
    def num_tiles(self) -> int:
        """Tiles of one image."""
        return self.tiles_x * self.tiles_y

    @property
    def plane_size(self) -> int:
        """Floats of one plane of this level, padded to whole patches."""
        return self.patches_x * self.patches_y * PATCH_PX**2

    @property
    def pitch_px(self) -> int:
        """Floats from a row to the next."""
        return self.patches_x * PATCH_PX

    @property
    def useful_share(self) -> float:
        """Share of a tile's pixels that are the image's own, neither halo nor beyond the border."""
        computed = self.num_tiles * self.tile_x * self.tile_y * PATCH_PX**2
        return self.height_px * self.width_px / computed


def plan_tiles(height_px: int, width_px: int, *, threads: int, steps: int) -> TilePlan:
    """Choose the tile shape that costs the fewest warps in all.

    Args:
        height_px: Height of the level.
        width_px: Width of the level.
        threads: Threads of a block, and so most patches of a tile.
        steps: Iterations to do on chip at most. An image that fits into one tile has no halo and takes any
            number; for others it is cut to `MOST_STEPS`.

    Raises:
        ValueError: If no tile with its halo fits into the block.
    """
    patches_x, patches_y = -(-width_px // PATCH_PX), -(-height_px // PATCH_PX)
    shape = {"height_px": height_px, "width_px": width_px, "patches_x": patches_x, "patches_y": patches_y}
    if patches_x * patches_y <= threads:
        whole = {"tile_x": patches_x, "tile_y": patches_y, "halo": 0, "tiles_x": 1, "tiles_y": 1}
        return TilePlan(**shape, **whole, steps=steps)

    steps = min(steps, MOST_STEPS)
    halo = -(-steps // PATCH_PX)
    candidates = []
    narrowest = 2 * halo + 1
    for tile_x in range(min(narrowest, patches_x), min(threads // min(narrowest, patches_y), patches_x) + 1):
        tile_y = min(threads // tile_x, patches_y)
        if tile_y < min(narrowest, patches_y):
            continue
        tiles_x, tiles_y = _count_tiles(patches_x, tile_x, halo), _count_tiles(patches_y, tile_y, halo)
        # A row of patches that is shorter than 128 bytes wastes part of every memory transaction.
        cost = tiles_x * tiles_y * -(-tile_x * tile_y // WARP) * (1 if tile_x >= 8 else 8 / tile_x)
        candidates.append((cost, tiles_x * tiles_y, tile_x, tile_y, tiles_x, tiles_y))

    if not candidates:
        raise ValueError(f"threads must allow a tile wider than its halo of {halo} patches, got {threads}")
    _, _, tile_x, tile_y, tiles_x, tiles_y = min(candidates)
    tile = {"tile_x": tile_x, "tile_y": tile_y, "halo": halo, "tiles_x": tiles_x, "tiles_y": tiles_y}
    return TilePlan(**shape, **tile, steps=steps)


def _count_tiles(patches: int, tile: int, halo: int) -> int:
    """Tiles that own a whole side; the first and the last have no halo at the image's border."""
    return 1 if tile >= patches else -(-(patches - 2 * halo) // (tile - 2 * halo))


# The functions below are compiled for the device and, in the tests, for the processor.


def tile_start(index, tile, halo):
    """First patch of tile `index` along one side."""
    return index * (tile - 2 * halo)


def owns(patch, index, count, tile, halo):
    """Whether tile `index` of `count` owns the patch at `patch` (counted in the image) along one side."""
    start = index * (tile - 2 * halo)
    first = start + halo if index > 0 else start
    end = start + tile - halo if index < count - 1 else start + tile
    return first <= patch < end


def neighbour_slots(t, x, y, tile_x, tile_y, threads):
    """Where thread `t`, at (x, y) of its tile, finds its neighbours' published edges: left, up, down.

    The first column and row of a tile read slot `threads`, which holds zeros: right at the image's border,
    and inside a halo anything will do. The right neighbour is always t + 1: whatever the last column
    reads is replaced at the image's border, and is halo elsewhere.
    """
    left = t - 1 if x > 0 else threads
    up = t - tile_x if y > 0 else threads
    down = t + tile_x if y < tile_y - 1 else t
    return left, up, down
