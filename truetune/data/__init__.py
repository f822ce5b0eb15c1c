"""From files of rows to token ids with a weight each: sources → readers → formats → turns → render → fit → cache."""
