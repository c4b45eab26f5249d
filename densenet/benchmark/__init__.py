"""How fast the service is, beside the tutorial, TorchServe's own handler, OpenVINO and ONNX Runtime, in one run."""
