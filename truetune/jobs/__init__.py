"""Work on several machines: Ray, and a network of its own for it."""
