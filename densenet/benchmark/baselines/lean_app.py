"""A minimal service around another engine, with Starlette, Pillow and NumPy. The photo is the request body.

One process runs several worker threads, each with one engine thread; decoding and inference release the GIL. Several
uvicorn processes would share connections unevenly, because each keeps those that it accepted.
Environment variables select the engine and the model file.
"""

import asyncio
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from densenet.benchmark.baselines import engines
from densenet.benchmark.baselines.engines import Floats
from densenet.benchmark.plan import System

RESIZE, CROP = 255, 224
MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32).reshape(3, 1, 1)
STD = np.array((0.229, 0.224, 0.225), dtype=np.float32).reshape(3, 1, 1)

classes = json.loads(Path(os.environ["BENCHMARK_CLASSES"]).read_text())
count = int(os.environ["BENCHMARK_WORKERS"])
workers = ThreadPoolExecutor(count)
network = engines.load(
    System(os.environ["BENCHMARK_SYSTEM"]),
    os.environ["BENCHMARK_PRECISION"],
    Path(os.environ["BENCHMARK_MODEL"]),
    threads=1,
    concurrency=count,
)


def transform(content: bytes) -> Floats:
    """Transform an encoded photo to float32 (1, 3, 224, 224). Decode large JPEGs at 1/2, 1/4 or 1/8 scale."""
    image: Image.Image = Image.open(io.BytesIO(content))
    short = min(image.size)
    width, height = (math.ceil(side * 2 * RESIZE / short) for side in image.size)
    image.draft("RGB", (width, height))
    image = ImageOps.exif_transpose(image).convert("RGB")
    short = min(image.size)
    width, height = (RESIZE * side // short for side in image.size)
    left, top = (round((side - CROP) / 2) for side in (width, height))
    image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + CROP, top + CROP))
    planes = np.asarray(image).transpose(2, 0, 1).astype(np.float32)
    return ((planes / np.float32(255) - MEAN) / STD)[None]


def classify(content: bytes) -> dict[str, str | float]:
    """Return the best class of an encoded photo and its probability."""
    logits = network(transform(content))[0]
    exponentials = np.exp(logits - logits.max())
    best = int(logits.argmax())
    class_id, class_name = classes[str(best)]
    probability = float(exponentials[best] / exponentials.sum())
    return {"class_id": class_id, "class_name": class_name, "probability": probability}


async def predict(request: Request) -> JSONResponse:
    """Handle POST /predict."""
    content = await request.body()
    return JSONResponse(await asyncio.get_running_loop().run_in_executor(workers, classify, content))


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
