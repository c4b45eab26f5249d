"""Make this process's torch one that was built without oneDNN, as its builds for macOS are.

Python imports this module when it starts, if its folder is on PYTHONPATH. Attributes of torch.ops and torch.jit.script
then fail in torch's own code. TorchScript files are parsed in C++, which cannot be told: on loading, the operators'
names in a file are replaced by names that no build knows.
"""

import io
import zipfile
from typing import Any, BinaryIO

import torch

MISSING = "mkldnn"  # The schemas of torch.ops.onednn are in every build.

_find, _load = torch._C._jit_get_operation, torch.jit.load


def find(name: str) -> Any:
    return (None, None) if name.startswith(f"{MISSING}::") else _find(name)


def load(file: BinaryIO, **options: Any) -> Any:
    renamed = io.BytesIO()
    with zipfile.ZipFile(file) as original, zipfile.ZipFile(renamed, "w") as copy:
        for record in original.infolist():
            content = original.read(record)
            if record.filename.endswith(".py"):
                content = content.replace(f"ops.{MISSING}._".encode(), f"ops.{MISSING}.__".encode())
            copy.writestr(record, content)
    return _load(io.BytesIO(renamed.getvalue()), **options)


torch._C._jit_get_operation = find
torch.jit.load = load
for name in list(vars(torch.ops.mkldnn)):
    if not name.startswith("__") and name != "name":
        delattr(torch.ops.mkldnn, name)
torch.backends.mkldnn.set_flags(_enabled=False)
