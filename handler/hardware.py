"""Hardware: what each precision wants of the machine, and where its network runs."""

import torch

# What torch.cpu.get_capabilities calls the instructions, one of which is needed.
_INSTRUCTIONS = {
    # Without them oneDNN adds pairs of products in 16 bits, which overflow: slower than fp32, and wrong.
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
    "bf16": ("amx_bf16", "avx512_bf16"),
}
_NAMES = {"int8": "a processor with VNNI", "bf16": "a processor with AMX or AVX-512 BF16", "fp16": "an NVIDIA GPU"}


def check(precision: str) -> None:
    """Raises ValueError that says what this machine lacks for a precision: fp32, bf16, fp16 or int8."""
    if precision == "fp16":
        there = torch.cuda.is_available()
    else:
        capabilities = torch.cpu.get_capabilities()
        wanted = _INSTRUCTIONS.get(precision)
        there = wanted is None or any(capabilities.get(name) for name in wanted)
    if not there:
        raise ValueError(f"{precision} needs {_NAMES[precision]}, and this machine has none; fp32 runs everywhere")


def device(precision: str, gpu: int | None = None) -> torch.device:
    """Where a network of the precision runs. gpu: number of the one that TorchServe gave this worker, if it did."""
    return torch.device("cuda", gpu or 0) if precision == "fp16" else torch.device("cpu")
