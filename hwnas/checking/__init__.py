"""The check of an ONNX model before deployment: gates, a verdict, and what they rest on."""
