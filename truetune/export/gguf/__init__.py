"""GGUF, the file that llama.cpp and what stands on it load: written tensor by tensor, and run to be compared."""
