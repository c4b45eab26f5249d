"""The tutorial "Deploying PyTorch in Python via a REST API with Flask", unchanged except for file locations.

Running the module starts Flask's development server; gunicorn uses `app`. Torch uses its default number of threads.
"""

import io
import json
import os
from pathlib import Path

import torch
from flask import Flask, jsonify, request
from PIL import Image
from torch import Tensor
from torchvision import models, transforms

app = Flask(__name__)
imagenet_class_index = json.loads(Path(os.environ["BENCHMARK_CLASSES"]).read_text())
model = models.densenet121(num_classes=len(imagenet_class_index))
model.load_state_dict(torch.load(os.environ["BENCHMARK_MODEL"], weights_only=True))
model.eval()


def transform_image(image_bytes: bytes) -> Tensor:
    """Transform an encoded image to a float32 tensor (1, 3, 224, 224)."""
    my_transforms = transforms.Compose(
        [
            transforms.Resize(255),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    image = Image.open(io.BytesIO(image_bytes))
    tensor: Tensor = my_transforms(image).unsqueeze(0)
    return tensor


def get_prediction(image_bytes: bytes) -> tuple[str, str]:
    """Return the id and the name of the best class."""
    tensor = transform_image(image_bytes=image_bytes)
    outputs = model.forward(tensor)
    _, y_hat = outputs.max(1)
    predicted_idx = str(y_hat.item())
    class_id, class_name = imagenet_class_index[predicted_idx]
    return class_id, class_name


@app.route("/predict", methods=["POST"])
def predict() -> object:
    """Classify the part `file` of a form; respond with {"class_id": …, "class_name": …}."""
    file = request.files["file"]
    img_bytes = file.read()
    class_id, class_name = get_prediction(image_bytes=img_bytes)
    return jsonify({"class_id": class_id, "class_name": class_name})


if __name__ == "__main__":
    app.run(port=int(os.environ["BENCHMARK_PORT"]))
