"""CPU operators in C++: their sources, compiled on first use."""
