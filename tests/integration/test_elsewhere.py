"""The archive alone, in an empty model store of a TorchServe that knows nothing of this repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import requests

from densenet import processes
from densenet.service import java
from tests.integration.conftest import build_archive, free_port, wait_for_answer
from tests.photos import cutouts, encode

PHOTO = encode(cutouts(1)[0])


def test_the_archive_alone_works_in_another_torchserve(exported: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    build_archive(exported, store, workers=1)
    (store / "model-config.yaml").unlink()
    port = free_port()
    names = ("inference_address", "management_address", "metrics_address")
    lines = [f"{name}=http://127.0.0.1:{port + i}" for i, name in enumerate(names)]
    lines += [f"grpc_inference_port={port + 3}", f"grpc_management_port={port + 4}"]
    (tmp_path / "their.properties").write_text("\n".join(lines))
    (tmp_path / "tmp").mkdir()
    # TorchServe's own command and defaults: only paths and ports are given, and nothing of ours is on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "TEMP": str(tmp_path / "tmp"),
        "TMPDIR": str(tmp_path),
        "PATH": f"{java.find().parent}:/usr/bin:/bin",
    }
    environment.pop("JAVA_HOME", None)
    command = [str(Path(sys.executable).with_name("torchserve"))]
    options = ["--ncs", "--disable-token-auth", "--ts-config", "their.properties"]
    start = ["--start", "--foreground", "--model-store", str(store), "--models", "densenet=densenet.mar", *options]
    server = processes.start(command + start, tmp_path / "output", environment, tmp_path)
    try:
        answer = wait_for_answer(f"http://127.0.0.1:{port}/predictions/densenet", PHOTO, 120)
        assert answer.json()["model"]["weights"] == "shown_photos.pth"
        assert len(answer.json()["predictions"]) == 5
        # Here JSON reaches the handler parsed, and a form's fields with it.
        url = f"http://127.0.0.1:{port}/predictions/densenet"
        assert requests.post(url, json={"instances": []}, timeout=60).json()["error"]["code"] == "bad_json"
        assert (
            requests.post(url, data=b"{", headers={"Content-Type": "application/json"}, timeout=60).status_code == 400
        )
        assert requests.post(url, files={"file": PHOTO}, data={"top_k": "2"}, timeout=60).json()["success"] is True
        assert requests.post(url, data="text", headers={"Content-Type": "text/plain"}, timeout=60).status_code == 415
    finally:
        subprocess.run([*command, "--stop", "--foreground"], cwd=tmp_path, env=environment, check=False, timeout=90)
        server.wait(timeout=60)
        shutil.rmtree(tmp_path / "tmp", ignore_errors=True)
