"""The server: one base in memory, any number of adapters, chosen per request, loaded and unloaded while it runs."""
