"""From a trained network to a checked ONNX model."""
