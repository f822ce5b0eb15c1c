"""Beyond one process: replicas of our own engine behind one door, or vLLM's server in our place."""
