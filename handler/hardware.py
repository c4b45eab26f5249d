"""Hardware: what each precision requires of the machine and of torch, and the device its network runs on."""

import torch

# At least one of these instruction sets is required; names as in torch.cpu.get_capabilities().
_INSTRUCTIONS = {
    # Without them oneDNN adds pairs of products in 16 bits: they overflow, and it is slower than fp32.
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
    "bf16": ("amx_bf16", "avx512_bf16"),
}
_NAMES = {"int8": "a processor with VNNI", "bf16": "a processor with AMX or AVX-512 BF16", "fp16": "an NVIDIA GPU"}


def check(precision: str) -> None:
    """Check that this machine and this build of torch support a precision: fp32, bf16, fp16 or int8.

    Raises:
        ValueError: names what is missing.
    """
    if precision == "fp16":
        supported = torch.cuda.is_available()
    else:
        required = _INSTRUCTIONS.get(precision)
        supported = required is None or any(torch.cpu.get_capabilities().get(name) for name in required)
    if not supported:
        raise ValueError(
            f"{precision} needs {_NAMES[precision]}, which this machine does not have; use fp32, which runs everywhere"
        )
    if precision in _INSTRUCTIONS and not has_onednn():
        raise ValueError(
            f"{precision} needs oneDNN, which this build of torch does not have; use fp32, which runs everywhere"
        )


def has_onednn() -> bool:
    """Return whether this build of torch has oneDNN's fused operators. Its builds for macOS have not.

    They are built all or none. The quantised ones (torch.ops.onednn) are declared in every build, but do not run.
    """
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def device(precision: str, gpu: int | None = None) -> torch.device:
    """Return the device that a network of this precision runs on.

    gpu: index of the GPU that TorchServe assigned to this worker, if any.
    """
    return torch.device("cuda", gpu or 0) if precision == "fp16" else torch.device("cpu")
