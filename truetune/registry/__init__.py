"""Finished runs as adapters with names and versions: `support@3`, their lineage, stages and scores."""
