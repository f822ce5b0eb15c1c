"""Which models the torch engine packs; known without importing torch, because memory follows from it."""

PACKS = frozenset(
    {
        "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "olmo2", "phi", "phi3",
        "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3",
    }
)  # fmt: skip
"""Model types for which the contract suite shows packed = one by one; the others train on padded micro-batches."""
