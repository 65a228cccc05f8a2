"""Runners: what generates images, behind one interface, from torch, ONNX files, TensorRT engines and bundles."""
