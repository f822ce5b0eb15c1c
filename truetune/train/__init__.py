"""From a checked train.yml to a finished run: resolve, loop, receipts."""
