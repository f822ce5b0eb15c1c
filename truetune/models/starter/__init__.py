"""The starter model's files; made by `scripts/starter/make.py`."""
