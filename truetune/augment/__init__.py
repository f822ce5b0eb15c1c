"""More rows from rows: a model that the user names asks a question in other words, takes it through another language,
or writes new ones after examples. What comes back is checked, and every row says where it comes from."""
