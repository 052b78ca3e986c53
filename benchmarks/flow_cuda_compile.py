"""What the CUDA kernels cost, from their machine code; no GPU is needed.

    python benchmarks/flow_cuda_compile.py --json flow_cuda_compile.json

For each kernel and GPU generation: registers, spilled bytes and shared memory. For `iterate` also the
instructions of one iteration of a patch, from the disassembly (where `nvdisasm` is found: on the PATH, in the
CUDA toolkit, or from the package nvidia-cuda-nvdisasm), and what they allow on an H200: the rates at which
issue, the special-function units and the memory would each be full.
"""

import argparse
import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stin_pipe.pipeline.flow import TVL1Params, pyramid_sizes
from stin_pipe.pipeline.flow.cuda.compile import compile_ptx, link
from stin_pipe.pipeline.flow.cuda.patch import shared_floats
from stin_pipe.pipeline.flow.cuda.tiles import WARP, plan_tiles

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]
PIXELS_OF_A_PATCH = 16
# H200: multiprocessors, clock in GHz, warp instructions a clock and multiprocessor, special functions a clock
# and multiprocessor, bytes of shared memory a clock and multiprocessor, memory in GB/s (measured copy).
NUM_SMS, CLOCK_GHZ, ISSUE, SPECIAL, SHARED_BYTES, MEMORY_GB_S = 132, 1.98, 4, 16, 128, 4300
SHARED_BYTES_OF_A_PIXEL = 32
"""An iteration reads four constants of a pixel (16), and writes (8) and reads (8) its share of the edges."""
BYTES_OF_A_PIXEL = 60
"""Nine planes read and six written for each pixel of a tile's own, in a launch."""


def find_nvdisasm() -> str | None:
    """Find the disassembler."""
    if found := shutil.which("nvdisasm"):
        return found
    places = [Path(sys.prefix).glob("lib/python*/site-packages/nvidia/**/bin/nvdisasm")]
    places.append(Path("/usr/local").glob("cuda*/bin/nvdisasm"))
    return next((str(path) for found in places for path in found), None)


def disassemble(code: bytes, tool: str) -> list[tuple[str | None, str, str]]:
    """Give (label before it, operation, text) of each instruction."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    listing, label = [], None
    for line in text.splitlines():
        if found := re.match(r"\s*(\.L_x_\d+):", line):
            label = found.group(1)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_]*)", line):
            listing.append((label, found.group(1), line))
            label = None
    return listing


def count_iteration(listing: list[tuple[str | None, str, str]]) -> collections.Counter:
    """Count the instructions of one iteration of a patch away from the image's border, not the last one.

    The loop is the smallest that holds the 64 special functions of a patch. Stretches that are jumped over
    are told by what they do: selects at the border, stores to global memory at the last step.
    """
    at = {label: number for number, (label, _, _) in enumerate(listing) if label}
    loops = []
    for end, (_, operation, text) in enumerate(listing):
        target = re.search(r"\.L_x_\d+", text) if operation == "BRA" else None
        if target and at.get(target.group(0), end + 1) <= end:
            start = at[target.group(0)]
            specials = sum(operation == "MUFU" for _, operation, _ in listing[start : end + 1])
            if specials >= 4 * PIXELS_OF_A_PATCH:
                loops.append((end - start, start, end))
    _, start, end = min(loops)
    total, stretch = collections.Counter(), collections.Counter()
    for label, operation, _ in listing[start : end + 1]:
        if label:
            total, stretch = _close(total, stretch)
        stretch[operation] += 1
        if operation == "BRA":
            total, stretch = _close(total, stretch)
    return _close(total, stretch)[0]


def _close(total: collections.Counter, stretch: collections.Counter):
    jumped_over = stretch["FSEL"] >= 8 or stretch["STG"] >= 4
    return (total if jumped_over else total + stretch), collections.Counter()


def measure(threads: int, tool: str | None) -> dict:
    """Compile for blocks of `threads` and report."""
    begin = time.perf_counter()
    texts = compile_ptx(threads)
    report: dict = {"threads": threads, "compile_s": round(time.perf_counter() - begin, 1), "kernels": {}}
    report["shared_bytes"] = 4 * shared_floats(threads)
    for capability in CAPABILITIES:
        name = f"sm_{capability[0]}{capability[1]}"
        report["kernels"][name] = {
            kernel: _resources(link(text, capability).log) for kernel, text in texts.items()
        }
        if tool:
            counts = count_iteration(disassemble(link(texts["iterate"], capability).code, tool))
            report["kernels"][name]["iterate"]["instructions_of_a_patch"] = dict(counts.most_common())
            per_pixel = counts.total() / PIXELS_OF_A_PATCH
            report["kernels"][name]["iterate"]["instructions_a_pixel"] = round(per_pixel, 2)
    return report


def _resources(log: str) -> dict[str, int]:
    patterns = {
        "registers": r"Used (\d+) registers",
        "spill_store_bytes": r"(\d+) bytes spill stores",
        "spill_load_bytes": r"(\d+) bytes spill loads",
    }
    return {name: int(found.group(1)) for name, text in patterns.items() if (found := re.search(text, log))}


def ceilings(threads: int, instructions_a_pixel: float, steps: int) -> dict[str, float]:
    """Useful pixel-iterations a second (in G) of an H200 at 340x256, were one resource alone the limit."""
    sizes = pyramid_sizes(256, 340, TVL1Params())
    plans = [plan_tiles(*size, threads=threads, steps=steps) for size in sizes]
    useful = sum(plan.height_px * plan.width_px for plan in plans)
    warps = sum(plan.num_tiles * -(-plan.tile_x * plan.tile_y // WARP) for plan in plans)
    share = useful / (warps * WARP * PIXELS_OF_A_PATCH)
    clocks = NUM_SMS * CLOCK_GHZ
    return {
        "useful_share": round(share, 3),
        "issue": round(share * clocks * ISSUE * 32 / instructions_a_pixel),
        "special_functions": round(share * clocks * SPECIAL / 4),
        "shared_memory": round(share * clocks * SHARED_BYTES / SHARED_BYTES_OF_A_PIXEL),
        "memory": round(MEMORY_GB_S / BYTES_OF_A_PIXEL * steps),
    }


def main() -> None:
    """Compile, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--threads", type=int, nargs="+", default=[128, 256, 512])
    options = parser.parse_args()
    tool = find_nvdisasm()
    if tool is None:
        print("nvdisasm was not found: instructions are not counted", file=sys.stderr)
    reports = []
    for threads in options.threads:
        report = measure(threads, tool)
        print(f"{threads} threads, {report['shared_bytes']} bytes shared, PTX in {report['compile_s']} s")
        for name, kernels in report["kernels"].items():
            used = kernels["iterate"]
            others = [found["registers"] for kernel, found in kernels.items() if kernel != "iterate"]
            print(
                f"  {name}: iterate {used['registers']} registers, spills {used['spill_store_bytes']} / "
                f"{used['spill_load_bytes']} bytes, {used.get('instructions_a_pixel')} instructions a "
                f"pixel-iteration; the others at most {max(others)} registers"
            )
        if tool:
            a_pixel = report["kernels"]["sm_90"]["iterate"]["instructions_a_pixel"]
            report["h200_ceilings_G"] = {str(n): ceilings(threads, a_pixel, n) for n in (4, 8)}
            for steps, found in report["h200_ceilings_G"].items():
                print(f"  H200, {steps} iterations on chip, useful G pixel-iterations/s at most: {found}")
        reports.append(report)
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
