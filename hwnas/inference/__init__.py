"""Asking an exported model: raw samples or files in, answers out, by ONNX Runtime alone."""
