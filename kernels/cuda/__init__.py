"""CUDA kernels: their sources, compiled by NVRTC, cached and launched."""
