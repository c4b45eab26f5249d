"""Benchmark the service against the Flask tutorial, TorchServe's own handler, OpenVINO and ONNX Runtime."""
