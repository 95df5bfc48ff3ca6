"""Exports a trained network to ONNX, and checks ONNX models before deployment."""
