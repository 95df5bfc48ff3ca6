"""Exports a trained network to ONNX and to other number formats."""
