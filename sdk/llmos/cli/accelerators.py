"""Memory of well-known accelerators, for planning without a cluster.

Physical memory as the driver reports it (nvidia-smi memory.total, in MiB), which is what GPU feature discovery puts on
nodes and the operator into AcceleratorClasses; it is less than the number on the box for GPUs with ECC. A class of the
cluster always wins over this table; for anything else there is --memory.
"""

from __future__ import annotations

from typing import Final

MEMORY_MIB: Final = {
    "nvidia-t4": 15360,
    "nvidia-v100-16gb": 16384,
    "nvidia-v100-32gb": 32768,
    "nvidia-rtx-4090": 24564,
    "nvidia-rtx-5090": 32607,
    "nvidia-a10": 23028,
    "nvidia-l4": 23034,
    "nvidia-a40": 46068,
    "nvidia-l40s": 46068,
    "nvidia-a100-40gb": 40960,
    "nvidia-a100-80gb": 81920,
    "nvidia-h100": 81559,
    "nvidia-h200": 143771,
    "nvidia-b200": 183359,
}
