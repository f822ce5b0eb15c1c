"""A run is a folder: create, watch, save, resume, find and prove it. The only package that writes run folders."""
