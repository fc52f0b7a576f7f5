"""No warpgroup product of the recurrent engines has a left side that was computed.

CUDA 12's assembler, which Triton 3.6 to 3.8 bundles for Hopper, may spoil such a product: wrong
results or reads beyond shared memory were seen on an H200 (K = 32, V = 33; the delta rule). NVIDIA
fixed it in CUDA 13.3.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton has no wheel for this platform")


@pytest.mark.slow
def test_left_sides_of_warpgroup_products_are_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.kernels.left_sides"],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.pop("tiles-of-64-rows") == "1"  # what the check is for
    assert len(found) == 8
    assert set(found.values()) == {"0"}, found
