"""The llama.cpp engine: GGUF files, decoded by its own server in a process of its own."""
