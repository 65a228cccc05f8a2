"""Building and changing ONNX graphs: our operators, their function bodies, and files."""
