"""The verbs about data: look at rows as a model will learn them, check, prepare and convert them."""
